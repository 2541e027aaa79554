"""Why a source gives no picture: asked of real servers and paths, told with a cause and without a secret."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.sources import ffmpeg_capture, timeouts
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries
from streamfleet_worker.video.sources.timeouts import NEXT_PICTURE
from streamfleet_worker.video.sources.url_diagnosis import Answer, address_of, diagnose_answer
from streamfleet_worker.video.sources.v4l2_capture import _not_opened
from tests.fakes.http_camera import HttpCamera
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port
from tests.fakes.process_harness import write_video
from tests.fakes.rtsp import RtspServer

CANARY = "c@nary/é?"
ENCODED = "c%40nary%2F%C3%A9%3F"


@pytest.fixture(autouse=True)
def no_secret(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[str], None]]:
    """Whatever a test does, nothing that it prints or logs shows its password. (S30)"""
    quiet_libraries()
    caplog.set_level(logging.DEBUG)

    def check(text: str) -> None:
        assert "c@nary" not in text
        assert "c%40nary" not in text
        assert "canary" not in text

    yield check
    check("".join(capfd.readouterr()))
    check(caplog.text)


@pytest.fixture
def camera() -> Iterator[HttpCamera]:
    camera = HttpCamera()
    yield camera
    camera.close()


def opened(reference: str | int, **properties: float) -> Capture:
    return open_source(SourceSpec(reference, properties=properties), 1)


def why(reference: str | int, **properties: float) -> tuple[str, str]:
    """The cause and the reason for which it does not open."""
    with pytest.raises(SourceLost) as caught:
        opened(reference, **properties).close()
    return caught.value.cause, str(caught.value)


@contextmanager
def answering(content: bytes, *, hangs_up: bool = True) -> Iterator[int]:
    """A server that says the same to everybody; its port."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(PATIENCE)
                connection.recv(65_536)
                connection.sendall(content)
                if not hangs_up:
                    ended.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        ended.set()
        thread.join(PATIENCE)


# addresses


def test_an_address_is_read() -> None:
    address = address_of(f"RTSP://us%20er:{ENCODED}@[::1]:8554/live 1?channel=2#x")

    assert (address.scheme, address.host, address.port, address.target) == (
        "rtsp",
        "::1",
        8554,
        "/live%201?channel=2",
    )
    assert address.has_login
    assert address.place == "[::1]:8554"
    assert address.shown == "rtsp://[::1]:8554/live 1"


@pytest.mark.parametrize(
    ("url", "place", "target"),
    [
        ("rtsp://camera", "camera:554", ""),
        ("rtsp://camera/?x=1", "camera:554", "/?x=1"),
        ("http://camera?x=1", "camera:80", "/?x=1"),
        ("https://camera:8443/a%20b", "camera:8443", "/a%20b"),
        ("udp://@:5000", ":5000", ""),
    ],
)
def test_an_address_asks_for_what_ffmpeg_asks_for(url: str, place: str, target: str) -> None:
    address = address_of(url)

    assert (address.place, address.target) == (place, target)


def test_an_address_does_not_show_its_secrets(no_secret: Callable[[str], None]) -> None:
    no_secret(repr(address_of(f"rtsp://user:{ENCODED}@camera/live?password=canary")))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rtsp://user:12/canary@camera/live", "<unparseable source>: "),
        ("rtsp://user:canary@camera:port/live", "<unparseable source>: expected a URL such as rtsp://"),
        ("rtsp://user:canary@/live", "rtsp:///live: expected a host, got none"),
        (f"rtsp://user:canary@{'a' * 64}/live", "expected a URL such as rtsp://"),
        ("gopher://user:canary@camera/", "gopher://camera/: expected one of rtsp, rtsps, http, https, "),
        ("concat://canary@camera/", "expected one of rtsp, "),
        ("subfile,,start,0,end,0,,:///etc/canary@x", "expected one of rtsp, "),
    ],
)
def test_a_url_that_cannot_play_is_invalid(url: str, reason: str, no_secret: Callable[[str], None]) -> None:
    cause, text = why(url)

    assert reason in text
    assert cause == ("unreachable" if "12/" in url else "invalid")
    no_secret(text)


# connections


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https", "rtmp"])
def test_a_port_where_nobody_listens_refuses(scheme: str) -> None:
    place = f"127.0.0.1:{free_port()}"

    assert why(f"{scheme}://u:canary@{place}/live?p=canary") == (
        "refused",
        f"{scheme}://{place}/live: connection refused",
    )


def test_a_host_that_has_no_name_is_unreachable() -> None:
    assert why("rtsp://u:canary@no-such-host.invalid/live") == (
        "unreachable",
        "rtsp://no-such-host.invalid/live: the host's name is unknown",
    )


@pytest.mark.parametrize("scheme", ["rtsp", "http", "https", "rtsps"])
def test_a_server_that_takes_connections_and_says_nothing_is_a_timeout(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg_capture, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(timeouts, "FIRST_PICTURE", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cause, text = why(f"{scheme}://u:canary@127.0.0.1:{silent.getsockname()[1]}/live")

    assert (cause, "no answer within" in text) == ("timeout", True), text


def test_an_answer_that_drips_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg_capture, "ANSWER_TIMEOUT", 0.3)
    with answering(b"RTSP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\nv=0\r\n", hangs_up=False) as port:
        assert why(f"rtsp://127.0.0.1:{port}/live")[0] == "timeout"


@pytest.mark.parametrize(
    ("content", "cause", "reason"),
    [
        (b"", "ended", "the server closed the connection before it answered"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nv=0\r\n", "ended", "the server closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "invalid", "expected a server of rtsp, got another protocol"),
        (b"RTSP/1.0 canary\r\n\r\n", "invalid", "expected a server of rtsp, got another protocol"),
        (b"x" * 100_000, "invalid", "expected a server of rtsp, got another protocol"),
        (b"RTSP/1.0 401 canary\r\n\r\n", "authentication", "it wants a user and a password, the address has"),
        (b"RTSP/1.0 403 canary\r\n\r\n", "authentication", "access is denied (403 Forbidden)"),
        (b"RTSP/1.0 404 canary\r\n\r\n", "not_found", "there is nothing under this path (404 Not Found)"),
        (b"RTSP/1.0 454 canary\r\n\r\n", "not_found", "there is nothing under this path (454)"),
        (b"RTSP/1.0 453 canary\r\n\r\n", "unreachable", "the server cannot serve it now (453)"),
        (b"RTSP/1.0 503 canary\r\n\r\n", "unreachable", "cannot serve it now (503 Service Unavailable)"),
        (b"RTSP/1.0 501 canary\r\n\r\n", "invalid", "the server refuses the request (501 Not Implemented)"),
        (b"RTSP/1.0 200 OK\r\n\r\n", "codec", "it answers, but gives nothing that can be decoded"),
    ],
)
def test_an_answer_has_its_cause(
    content: bytes, cause: str, reason: str, no_secret: Callable[[str], None]
) -> None:
    with answering(content) as port:
        came, text = why(f"rtsp://127.0.0.1:{port}/live?canary")

    assert (came, reason in text) == (cause, True), text
    no_secret(text)


@pytest.mark.parametrize(
    ("algorithms", "reason"),
    [
        (
            [", algorithm=SHA-256"],
            "expected Basic or Digest with MD5 as its login, which FFmpeg supports, got another one",
        ),
        ([", algorithm=SHA-256", ", algorithm=MD5"], "the user or the password is wrong"),
        ([""], "the user or the password is wrong"),
    ],
)
def test_a_login_that_ffmpeg_does_not_know_is_told_apart_from_a_wrong_one(
    algorithms: list[str], reason: str
) -> None:
    address = address_of("rtsp://user:canary@camera/live")
    offers = tuple(("www-authenticate", f'Digest realm="x", nonce="y"{more}') for more in algorithms)

    lost = diagnose_answer(address, Answer(401, offers))

    assert lost is not None
    assert (lost.cause, str(lost)) == ("authentication", f"rtsp://camera/live: {reason}")


# HTTP


@pytest.mark.parametrize("path", ["/live", "/moved", "/live?user=u&password=canary"])
def test_a_picture_comes_over_http(camera: HttpCamera, path: str) -> None:
    capture = opened(camera.url(path))

    assert capture.grab()
    assert (capture.width, capture.height) == (320, 240)
    capture.close()


@pytest.mark.parametrize(
    ("path", "cause", "reason"),
    [
        ("/nothing", "not_found", "there is nothing under this path (404 Not Found)"),
        ("/moved-to-nothing", "not_found", "there is nothing under this path (404 Not Found)"),
        ("/410", "not_found", "there is nothing under this path (410 Gone)"),
        ("/403", "authentication", "access is denied (403 Forbidden)"),
        ("/401", "authentication", "it wants a user and a password, the address has none"),
        ("/503", "unreachable", "the server cannot serve it now (503 Service Unavailable)"),
        ("/400", "invalid", "the server refuses the request (400 Bad Request)"),
        ("/away", "refused", "connection refused"),
    ],
)
def test_an_http_status_has_its_cause(camera: HttpCamera, path: str, cause: str, reason: str) -> None:
    assert why(camera.url(f"{path}?key=canary")) == (cause, f"http://127.0.0.1:{camera.port}{path}: {reason}")


def test_a_login_over_http_is_decoded_and_tried_once(
    camera: HttpCamera, no_secret: Callable[[str], None]
) -> None:
    camera.login = "Basic dTpjQG5hcnkvw6k/"  # u:c@nary/é?

    opened(camera.url(login=f"u:{ENCODED}@")).close()
    right = len(camera.requests)
    cause, text = why(camera.url(login="u:canary@"))

    assert [bool(given) for _, given in camera.requests[right:]] == [False, True, False]  # asked why, at last
    assert (cause, text) == (
        "authentication",
        f"http://127.0.0.1:{camera.port}/live: the user or the password is wrong",
    )
    no_secret(text)


def test_a_list_of_films_names_no_file_of_this_machine(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.avi", 30)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.avi\n#EXT-X-ENDLIST\n"
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\nContent-Length: {}\r\n\r\n"
    with answering((head.format(len(playlist)) + playlist).encode()) as port:
        assert why(f"http://127.0.0.1:{port}/list.m3u8")[0] == "codec"


# RTSP


@pytest.mark.parametrize("codec", ["h264", "jpeg", "vp8"])
def test_a_picture_comes_over_rtsp(rtsp: Callable[..., RtspServer], codec: str) -> None:
    server = rtsp(codec=codec, size=(320, 240)).start()

    capture = opened(server.url)

    assert [capture.grab() for _ in range(10)] == [True] * 10
    picture = capture.retrieve()
    assert picture is not None
    assert picture.bgr().shape == (240, 320, 3)
    assert capture.fps == 15
    capture.close()


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_a_wrong_password_costs_a_camera_one_failed_login(
    rtsp: Callable[..., RtspServer], auth: str, no_secret: Callable[[str], None]
) -> None:
    server = rtsp(login=("us er", CANARY), auth=auth).start()

    opened(server.url).close()
    assert server.wrong_logins == 0
    cause, text = why(server.url_of("us er", "canary"))

    assert (cause, text) == ("authentication", f"rtsp://{server.place}: the user or the password is wrong")
    assert server.wrong_logins == 1
    assert why(f"rtsp://{server.place}")[0] == "authentication"
    assert why(server.url.replace("/live", "/other"))[0] == "not_found"
    no_secret(text)


def test_a_stream_of_sound_alone_has_no_video(rtsp: Callable[..., RtspServer]) -> None:
    server = rtsp(codec="audio").start()

    assert why(server.url) == ("codec", f"rtsp://{server.place}: the stream has no video, only audio")


# devices and files


@pytest.mark.parametrize(
    ("path", "cause", "reason"),
    [
        (97, "not_found", "there is no camera /dev/video97"),
        ("/dev/video97", "not_found", "there is no camera /dev/video97"),
        ("/dev/null", "invalid", "/dev/null is a device, but not a camera"),
        ("/dev/../etc/hosts", "invalid", "/dev/../etc/hosts is not a device"),
    ],
)
def test_a_device_that_is_no_camera_is_told_apart(path: str | int, cause: str, reason: str) -> None:
    assert why(path) == (cause, reason)


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (13, "authentication", "/dev/video0 may not be opened: is the worker's user in the group video?"),
        (16, "refused", "/dev/video0 is in use by another program"),
        (19, "not_found", "there is no camera /dev/video0"),
        (5, "invalid", "/dev/video0 cannot be opened: Input/output error"),
    ],
)
def test_a_device_that_cannot_be_opened_says_why(error: int, cause: str, reason: str) -> None:
    lost = _not_opened("/dev/video0", OSError(error, os.strerror(error)))

    assert (lost.cause, str(lost)) == (cause, reason)


@pytest.mark.parametrize(
    ("name", "cause"),
    [("none.avi", "not_found"), ("", "invalid"), ("empty.avi", "codec"), ("text.avi", "codec")],
)
def test_a_path_that_is_no_film_has_its_cause(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("Dear reader,\n" * 100)

    assert why(str(tmp_path / name))[0] == cause


@pytest.mark.parametrize("number", ["0", "x", ""])
def test_a_scene_that_does_not_exist_is_invalid(number: str) -> None:
    assert why(f"scene://conveyor/{number}")[0] == "invalid"


def test_a_scene_is_drawn_from_the_frame_that_comes_next() -> None:
    capture = open_source(SourceSpec("scene://conveyor/3"), 7)

    assert capture.grab()
    assert capture.retrieve() is not None
    assert not capture.finite
    capture.close()


# properties


@pytest.mark.parametrize("name", ["colour", "", "x" * 100])
def test_a_property_that_nobody_knows_is_invalid(tmp_path: Path, name: str) -> None:
    film = write_video(tmp_path / "film.avi", 3)

    cause, text = why(str(film), **{name: 1.0})

    assert (cause, text) == (
        "invalid",
        f"expected a property of OpenCV such as frame_width, got {name[:64]!r}",
    )


def test_a_property_that_nobody_knows_costs_a_camera_no_request(camera: HttpCamera) -> None:
    assert why(camera.url(), colour=1.0)[0] == "invalid"
    assert camera.requests == []


def test_a_property_that_a_file_refuses_is_told_and_it_plays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = write_video(tmp_path / "film.avi", 3)

    capture = opened(str(film), frame_width=32.0)

    assert capture.grab()
    assert [record.getMessage() for record in caplog.records] == [
        f"{film} refuses the property frame_width = 32"
    ]


def test_a_property_that_can_be_set_is_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film = write_video(tmp_path / "film.avi", 100)

    capture = opened(str(film), pos_frames=80.0)

    assert capture.grab()
    picture = capture.retrieve()
    assert picture is not None
    assert abs(picture.bgr().mean() - 80) < 3
    assert not caplog.records


def test_one_thread_decodes_what_is_live_unless_more_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = str(write_video(tmp_path / "film.avi", 3, codec="mp4v"))  # which FFmpeg decodes by several threads

    def live(**properties: float) -> Capture:
        return open_source(SourceSpec(film, properties=properties, mode="live"), 1)

    assert decoding_threads(live) == 0
    assert decoding_threads(lambda: live(n_threads=3.0)) >= 3
    assert decoding_threads(lambda: opened(film)) > 0 or os.cpu_count() == 1
    assert decoding_threads(lambda: opened(film, n_threads=1.0)) == 0
    assert not caplog.records


def decoding_threads(open_it: Callable[[], Capture]) -> int:
    """How many threads of FFmpeg's there are when it is open and has a picture."""
    before = set(Path("/proc/self/task").iterdir())
    capture = open_it()
    try:
        assert capture.grab()
        return len(set(Path("/proc/self/task").iterdir()) - before)  # others may be about to end
    finally:
        capture.close()


def test_a_picture_is_not_kept_back_until_the_next_comes(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 40, codec="mp4v")
    camera = HttpCamera(film=film)
    camera.cut = film.read_bytes().index(b"idx1")

    capture = opened(camera.url("/halt"))
    began = time.monotonic()
    came = sum(capture.grab() for _ in range(40))
    lasted = time.monotonic() - began
    capture.close()
    camera.close()

    assert came == 40
    assert lasted < NEXT_PICTURE  # after which the last ones come in any case


def test_what_opencv_says_itself_is_silent() -> None:
    assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
