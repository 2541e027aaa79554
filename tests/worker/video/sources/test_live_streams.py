"""Streams and films at addresses: what is live is played on, what has an end ends, and damage is neither.

`pytest -s tests/worker/video/sources/test_live_streams.py` prints what came beside FFmpeg's own count.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import DecoderChoice
from streamfleet_worker.video.sources import timeouts
from tests.fakes import gstreamer
from tests.fakes.cutter import Cutter
from tests.fakes.films import FRAMES, copied, counted_by_ffmpeg, noise, write_film
from tests.fakes.http_camera import HttpCamera
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import wait_for
from tests.fakes.playing import Playing
from tests.fakes.ports_and_folders import free_port
from tests.fakes.rtsp import RtspServer

BY_GSTREAMER = pytest.mark.skipif(
    gstreamer.is_missing(), reason=f"there is no GStreamer here: apt-get install {gstreamer.PACKAGES}"
)
each_decoder = pytest.mark.parametrize("decoder", ["software", pytest.param("gst", marks=BY_GSTREAMER)])


def is_decoded_by(stat: SourceStat, decoder: DecoderChoice) -> bool:
    """Whether H.264 is, without any trouble of its decoder; a row of the table is printed."""
    print(f"| {stat.received} | {stat.dropped} | {stat.failures} | {stat.decoder} | {stat.decoder_note} |")
    return (stat.decoder, stat.decoder_note) == ("gst (avdec_h264)" if decoder == "gst" else decoder, "")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Serves the folder of the test."""
    web = Web(tmp_path)
    yield web
    web.close()


class Web:
    """Plain files by HTTP, with their length and without ranges, as simple servers do it."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.tells_sizes = True
        requests, web = self.requests, self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                with contextlib.suppress(OSError):
                    super().do_GET()

            def send_header(self, keyword: str, value: str) -> None:
                if web.tells_sizes or keyword != "Content-Length":
                    super().send_header(keyword, value)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def sending(content: Callable[[int], bytes], *, every: float, head: bytes = b"") -> Iterator[int]:
    """A TCP server that sends piece after piece to whoever comes, until there is an empty one; its port."""
    closing = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            if head:
                connection.recv(65_536)
                connection.sendall(head)
            number = 0
            while not closing.is_set() and (piece := content(number)):
                connection.sendall(piece)
                number += 1
                closing.wait(every)

    def accept() -> None:
        while not closing.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        connections: list[socket.socket] = []
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield int(listener.getsockname()[1])
        closing.set()
        threads[0].join(PATIENCE)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)


def without_end(path: Path) -> Callable[[int], bytes]:
    """The packets of a transport stream, twenty at a time, again and again."""
    content = path.read_bytes()
    pieces = [content[at : at + 3760] for at in range(0, len(content), 3760)]
    return lambda number: pieces[number % len(pieces)]


# what has an end


@pytest.mark.parametrize("name", ["film.mp4", "film.avi", "film.mkv", "film.ts"])
def test_a_film_at_an_address_ends_as_a_film_does(
    play: Callable[..., Playing], web: Web, tmp_path: Path, name: str
) -> None:
    path = write_film(tmp_path / name, "mpeg4" if name != "film.ts" else "mpeg2video")

    playing = play(web.url(name))
    ids = playing.until_ended()

    assert ids == list(range(1, FRAMES + 1))
    assert counted_by_ffmpeg(path) in (None, len(ids))
    assert playing.buffer.finite
    assert playing.stat.dropped == {}
    assert len(web.requests) <= 3, "it is fetched once; an index at the end of the file costs a request more"


def test_a_film_of_which_no_server_tells_the_size_ends_too(
    play: Callable[..., Playing], web: Web, tmp_path: Path
) -> None:
    web.tells_sizes = False
    write_film(tmp_path / "film.mp4", "mpeg4")

    playing = play(web.url("film.mp4"))

    assert playing.until_ended() == list(range(1, FRAMES + 1))
    assert playing.buffer.finite
    assert playing.stat.reason == ""
    assert len(web.requests) <= 3


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Gives parts of files by HTTP/1.1, and hangs up after each answer without saying so in its head."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content[begin:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (640, 480)])
@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.avi"])
def test_a_film_with_its_index_at_the_end_loses_nothing(
    play: Callable[..., Playing], tmp_path: Path, name: str, size: tuple[int, int], sound: bool
) -> None:
    """FFmpeg fetches the index first, and wants to go on over a connection that has been closed."""
    times = [40 * index for index in range(60)]
    write_film(tmp_path / name, "mpeg4", size=size, times=times, options={"b": "4000000"}, sound=sound)
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            ids = play(f"http://127.0.0.1:{server.server_address[1]}/{name}").until_ended()
        finally:
            server.shutdown()
            thread.join(PATIENCE)

    assert ids == list(range(1, 61))


@each_decoder
def test_fragments_of_which_no_end_is_known_are_live(
    play: Callable[..., Playing], web: Web, tmp_path: Path, decoder: DecoderChoice
) -> None:
    web.tells_sizes = False
    with av.open(str(write_film(tmp_path / "whole.mkv", "libx264"))) as whole:
        options = {"movflags": "frag_every_frame+empty_moov"}
        with av.open(str(tmp_path / "fragments.mp4"), "w", options=options) as film:
            stream = film.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                packet.stream = stream
                if packet.size:
                    film.mux(packet)

    playing = play(web.url("fragments.mp4"), decoder=decoder)
    lost = playing.until_lost()

    assert not playing.buffer.finite
    assert lost.received == FRAMES
    assert is_decoded_by(lost, decoder)


def segmented(folder: Path, frames: int = 75) -> list[Path]:
    """Segments of one second each."""
    times = [40 * index for index in range(frames)]
    whole = write_film(folder / "whole.mkv", "libx264", times=times, options={"g": "25", "bf": "0"})
    with av.open(str(whole)) as film:
        packets = [packet for packet in film.demux(video=0) if packet.size]
        paths = []
        for number in range(len(packets) // 25):
            paths.append(folder / f"part{number}.ts")
            with av.open(str(paths[-1]), "w") as part:
                stream = part.add_stream_from_template(film.streams.video[0])
                for packet in packets[25 * number : 25 * number + 25]:
                    packet.stream = stream
                    part.mux(packet)
    return paths


def playlist(folder: Path, numbers: range, *, end: bool) -> None:
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        "#EXT-X-TARGETDURATION:1",
        f"#EXT-X-MEDIA-SEQUENCE:{numbers.start}",
    ]
    for number in numbers:
        lines += ["#EXTINF:1.0,", f"part{number}.ts"]
    made = folder / "list.tmp"
    made.write_text("\n".join([*lines, *(["#EXT-X-ENDLIST"] if end else []), ""]))
    made.rename(folder / "list.m3u8")


def test_a_recording_with_an_end_list_ends(play: Callable[..., Playing], web: Web, tmp_path: Path) -> None:
    count = len(segmented(tmp_path))
    playlist(tmp_path, range(count), end=True)

    ids = play(web.url("list.m3u8")).until_ended()

    assert ids == list(range(1, 25 * count + 1))
    assert [web.requests.count(f"/part{number}.ts") for number in range(count)] == [1] * count


@each_decoder
def test_a_live_list_goes_on(
    play: Callable[..., Playing], web: Web, tmp_path: Path, decoder: DecoderChoice
) -> None:
    count = len(segmented(tmp_path, frames=150))
    playlist(tmp_path, range(3), end=False)

    playing = play(web.url("list.m3u8"), decoder=decoder)
    playing.until(50)
    playlist(tmp_path, range(2, count), end=False)
    ids = playing.until(100)

    assert not playing.buffer.finite
    assert playing.stat.attempts == 0
    assert ids == sorted(set(ids))
    assert is_decoded_by(playing.stat, decoder)


# what is live


@each_decoder
def test_a_live_stream_with_one_bad_picture_in_ten_is_not_lost(
    play: Callable[..., Playing], decoder: DecoderChoice
) -> None:
    camera = HttpCamera(fps=100)
    camera.damaged_each = 10
    playing = play(camera.url(), decoder=decoder)

    ids = playing.until(60)
    stat = playing.stat
    camera.close()

    assert stat.failures == 0
    assert stat.dropped["damaged"] >= 6
    assert not any(number % 10 == 0 for number in ids[:60])
    note = "gst does not decode mjpeg" if decoder == "gst" else ""
    assert (stat.decoder, stat.decoder_note) == ("software", note)


@each_decoder
def test_a_transport_stream_over_udp_plays(
    play: Callable[..., Playing], tmp_path: Path, decoder: DecoderChoice
) -> None:
    path = write_film(tmp_path / "film.ts", "libx264", options={"g": "5"})
    pieces, port, closing = without_end(path), free_port(), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            number = 0
            while not closing.wait(0.02):
                for at in range(0, 3760, 1316):
                    sender.sendto(pieces(number)[at : at + 1316], ("127.0.0.1", port))
                number += 1

    thread = threading.Thread(target=send)
    thread.start()
    playing = play(f"udp://127.0.0.1:{port}", decoder=decoder)
    ids = playing.until(40)
    stat = playing.stat
    playing.reader.stop(10)  # while datagrams come: of their end nothing tells
    closing.set()
    thread.join(PATIENCE)

    assert ids == sorted(set(ids))
    assert stat.failures == 0
    assert is_decoded_by(stat, decoder)


@each_decoder
def test_a_camera_whose_clock_is_set_back_loses_no_picture(
    play: Callable[..., Playing], tmp_path: Path, decoder: DecoderChoice
) -> None:
    path = write_film(tmp_path / "film.ts", "libx264", options={"g": "5"})

    with sending(without_end(path), every=0.02) as port:
        playing = play(f"tcp://127.0.0.1:{port}", decoder=decoder)
        playing.until(2 * FRAMES + 10)
        stat = playing.stat

    assert (stat.failures, stat.dropped) == (0, {})
    assert is_decoded_by(stat, decoder)


@each_decoder
def test_a_damaged_transport_stream_plays_on(
    play: Callable[..., Playing], tmp_path: Path, decoder: DecoderChoice
) -> None:
    path = write_film(tmp_path / "film.ts", "libx264", options={"g": "5"})
    content = bytearray(path.read_bytes())
    for place in range(188 * 20 + 60, len(content) - 188, 188 * 17):
        content[place : place + 100] = noise(100, place)
    path.write_bytes(bytes(content))

    with sending(without_end(path), every=0.01) as port:
        playing = play(f"tcp://127.0.0.1:{port}", decoder=decoder)
        playing.until(100)
        stat = playing.stat

    assert stat.failures == 0
    assert is_decoded_by(stat, decoder)


@each_decoder
def test_a_camera_that_takes_one_connection_plays(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer], decoder: DecoderChoice
) -> None:
    server = rtsp(size=(320, 240)).start()
    cable = Cutter(server.port, limit=None, most=1)

    playing = play(server.url.replace(str(server.port), str(cable.port)), decoder=decoder)
    playing.until(20)
    playing.reader.stop(10)
    cable.close()

    assert (cable.connections, cable.refused) == (1, 0)
    assert playing.stat.failures == 0
    assert is_decoded_by(playing.stat, decoder)


def test_a_slow_camera_is_not_lost(play: Callable[..., Playing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "NEXT_PICTURE", 0.3)
    monkeypatch.setattr(timeouts, "FIRST_PICTURE", 4.0)
    camera = HttpCamera(fps=1.3)
    playing = play(camera.url())

    playing.until(5)
    stat = playing.stat
    camera.close()

    assert stat.failures <= 1, "none, or one where this machine stood still too"


def test_the_properties_of_a_source_say_how_long_it_may_be_silent(play: Callable[..., Playing]) -> None:
    camera = HttpCamera(fps=0.5)
    playing = play(camera.url(), properties={"read_timeout_msec": 400.0})

    lost = playing.until_lost(lambda loss: loss.received > 0)
    camera.close()

    assert lost.cause == "timeout"
    assert lost.reason.endswith("/live: no frame for 0.4 s")


# joined between keyframes

MATROSKA = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-matroska\r\n\r\n"


def joined(folder: Path, *, keyframe_at: int | None) -> Callable[[int], bytes]:
    """A live Matroska stream that begins between keyframes: one comes at this packet, or none ever."""
    times = [40 * index for index in range(400)]
    every = "1000" if keyframe_at is None else str(keyframe_at)
    options = {"g": every, "keyint_min": every, "bf": "0", "sc_threshold": "0"}
    whole = write_film(folder / "whole.mkv", "libx264", times=times, options=options)
    path = copied(whole, folder / "joined.mkv", change=lambda number, content: content if number else None)
    content = path.read_bytes()
    pieces = [content[at : at + 200] for at in range(0, len(content), 200)]
    return lambda number: pieces[number] if number < len(pieces) else b""


@each_decoder
def test_frames_that_cannot_be_shown_are_a_loss_with_a_cause_of_its_own(
    play: Callable[..., Playing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: DecoderChoice
) -> None:
    monkeypatch.setattr(timeouts, "FIRST_PICTURE", 2.0)

    with sending(joined(tmp_path, keyframe_at=None), every=0.05, head=MATROSKA) as port:
        playing = play(f"http://127.0.0.1:{port}/live.mkv", decoder=decoder)
        lost = playing.until_lost(lambda loss: loss.cause == "undecodable")

    assert lost.reason.endswith("frames arrive, but none can be decoded: no keyframe within 2 s")
    assert lost.received == 0
    assert is_decoded_by(lost, decoder)


@each_decoder
def test_the_first_keyframe_may_take_longer_than_a_next_frame(
    play: Callable[..., Playing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: DecoderChoice
) -> None:
    monkeypatch.setattr(timeouts, "NEXT_PICTURE", 0.2)

    with sending(joined(tmp_path, keyframe_at=100), every=0.02, head=MATROSKA) as port:
        playing = play(f"http://127.0.0.1:{port}/live.mkv", decoder=decoder)
        playing.until(20)
        stat = playing.stat

    assert is_decoded_by(stat, decoder)
    assert stat.failures <= 1, "none, or one where this machine stood still"
    assert playing.metrics.properties is not None


def test_no_state_lasts_long_without_a_reason(play: Callable[..., Playing]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        playing = play(f"http://127.0.0.1:{silent.getsockname()[1]}/live")
        said = "no answer yet, for 20 s"
        wait_for(lambda: playing.metrics.source_stat(playing.began + 24).reason == said, said)

        soon = playing.metrics.source_stat(playing.began + 1)
        assert (soon.state, soon.reason) == ("INITIALISING", "")


# what an address may lead to


def test_a_list_at_an_address_names_no_file_of_this_machine(
    play: Callable[..., Playing], web: Web, tmp_path: Path
) -> None:
    secret = write_film(tmp_path / "secret.ts", "mpeg2video")
    for name, line in {
        "a.m3u8": f"file://{secret}",
        "b.m3u8": str(secret),
        "c.m3u8": f"concat:{secret}",
    }.items():
        (tmp_path / name).write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{line}\n#EXT-X-ENDLIST\n"
        )

        playing = play(web.url(name))
        lost = playing.until_lost()

        assert lost.received == 0
        assert playing.ids == []
