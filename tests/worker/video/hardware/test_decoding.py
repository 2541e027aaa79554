"""Films and cameras decoded by GStreamer in a child program, beside FFmpeg, and what goes wrong with it.

GStreamer's own software decoder takes the place of hardware.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamfleet_core.protocol.values import DecoderChoice, SourceSpec
from streamfleet_worker.video.frame import Picture
from streamfleet_worker.video.hardware import choice, decoding, elements
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.hardware.pipelines import Decoder
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries
from tests.fakes import gstreamer
from tests.fakes.films import FRAMES, copied, noise, write_film
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import wait_for
from tests.fakes.playing import Playing
from tests.fakes.rtsp import RtspServer

pytestmark = pytest.mark.skipif(
    gstreamer.is_missing(), reason=f"there is no GStreamer here: apt-get install {gstreamer.PACKAGES}"
)

X265 = {"x265-params": "log-level=none"}
AV1 = pytest.mark.skipif(
    not elements.has_element("dav1ddec") and not elements.has_element("av1dec"),
    reason="GStreamer has no decoder of AV1 here",
)
GST = "gst (avdec_h264)"


@dataclass(slots=True)
class Played:
    """What came of a film until its end. None: damaged."""

    times: list[float] = field(default_factory=list)  # seconds
    pictures: list[np.ndarray | None] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    remark: str = ""
    size: tuple[int, int] = (0, 0)
    decoders: set[int] = field(default_factory=set)  # their process ids
    reduced: list[bool] = field(default_factory=list)  # of each picture that is not damaged

    @property
    def damaged(self) -> int:
        return sum(picture is None for picture in self.pictures)

    @property
    def notes(self) -> list[str]:
        return [note for _, note in self.said if note]


def played(
    path: Path,
    decoder: DecoderChoice = "gst",
    *,
    after: Callable[[int, int], None] = lambda _number, _pid: None,
    has_element: Callable[[str], bool] = elements.has_element,
    needed: Callable[[], tuple[int, int] | None] = lambda: None,
) -> Played:
    """Play it.

    Args:
        after: called after each picture with its number and the process that decodes.
        needed: the size that is enough, in which the pictures are kept.
    """
    quiet_libraries()
    came = Played()
    decoders = Decoders(
        decoder,
        shown=path.name,
        on_change=lambda *said: came.said.append(said),
        has_element=has_element,
        needed_size=lambda _width, _height: needed(),
    )
    capture = open_source(SourceSpec(str(path)), 1, decoders=decoders)
    try:
        while capture.grab():
            picture = None if capture.damaged else capture.retrieve()
            came.times.append(-1.0 if picture is None else round(capture.media_time or 0.0, 4))
            came.pictures.append(None if picture is None else shown(picture, needed()))
            came.reduced += [] if picture is None else [picture.is_reduced]
            known = gstreamer.decoders()
            came.decoders.update(known)  # also one that has given all its pictures, and ended
            running = list(filter(gstreamer.is_running, known))
            after(len(came.times), running[0] if running else 0)
        came.remark, came.size = capture.remark, (capture.width, capture.height)
    finally:
        capture.close()
    return came


def shown(picture: Picture, size: tuple[int, int] | None) -> np.ndarray:
    return picture.bgr().copy() if size is None else picture.scaled(*size)


def assert_equal(ours: Played, theirs: Played) -> None:
    """The same pictures at the same times."""
    assert (ours.times, ours.remark, ours.size) == (theirs.times, theirs.remark, theirs.size)
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No process and no descriptor is left."""
    gstreamer.is_missing()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - these are no files
    yield
    wait_for(lambda: not gstreamer.decoders(), "the end of all decoders")
    left = set(os.listdir("/proc/self/fd")) - before  # noqa: PTH208
    assert not [each for each in left if "pipe" in target(each)]


def target(descriptor: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decoder is given up because this machine stands still."""
    monkeypatch.setattr(decoding, "FIRST_PICTURE", PATIENCE)
    monkeypatch.setattr(decoding, "NEXT_PICTURE", PATIENCE)


def end(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a decoder that must be there: 0 would be all of our own processes."""
    assert pid, "no decoder runs"
    os.kill(pid, number)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Three groups of ten, whose pictures are not stored in the order in which they are shown."""
    return write_film(tmp_path / "film.mp4", "libx264", size=(640, 360), options={"g": "10"})


# films


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("h264.mp4", "libx264", {}),
        ("h264.mkv", "libx264", {"sound": True}),
        ("h264.ts", "libx264", {"sound": True}),
        ("h264.avi", "libx264", {"options": {"bf": "0"}}),
        ("h264.flv", "libx264", {}),
        ("bare.h264", "libx264", {}),
        ("bare.hevc", "libx265", {"options": X265}),
        ("open.mkv", "libx264", {"options": {"g": "10", "x264-params": "open-gop=1"}}),
        ("no-keyframes.mkv", "libx264", {"options": {"x264-params": "intra-refresh=1"}}),
        ("no-b.mp4", "libx264", {"options": {"bf": "0", "g": "5"}}),
        ("hevc.mp4", "libx265", {"options": X265}),
        ("hevc.mkv", "libx265", {"options": X265}),
        ("hevc.ts", "libx265", {"options": X265}),
        ("narrow.mp4", "libx264", {"size": (66, 50)}),
        ("full-range.mp4", "libx264", {"pix_fmt": "yuvj420p"}),
        ("bt709.mp4", "libx264", {"options": {"colorspace": "bt709", "color_range": "tv"}}),
        ("variable.mkv", "libx264", {"times": [0, 50, 100, 150, 650, 1150, 1200]}),
        ("turned.mp4", "libx264", {"rotation": 90}),
        ("two.mkv", "libx264", {"tracks": 2}),
        pytest.param("av1.mp4", "libsvtav1", {}, marks=AV1),
        pytest.param("av1.mkv", "libsvtav1", {"options": {"g": "10"}}, marks=AV1),
        pytest.param("av1.ivf", "libsvtav1", {}, marks=AV1),
    ],
)
def test_a_film_gives_the_same_pictures_at_the_same_times(
    tmp_path: Path, name: str, codec: str, more: dict[str, Any]
) -> None:
    path = write_film(tmp_path / name, codec, **more)

    theirs = played(path, "software")
    ours = played(path)

    assert len(ours.times) == len(more.get("times", range(FRAMES)))
    assert_equal(ours, theirs)
    assert ours.damaged == 0
    names = {"libx265": ["avdec_h265"], "libsvtav1": ["dav1ddec", "av1dec"]}.get(codec, ["avdec_h264"])
    assert ours.said in [[(f"gst ({element})", "")] for element in names]


def test_a_time_that_is_far_too_late_ends_nothing(tmp_path: Path) -> None:
    path = write_film(tmp_path / "far.mkv", "libx264", times=[0, 40, 80, 2**52, 2**52 + 40, 2**53])

    came = played(path)

    assert (len(came.times), came.damaged, came.said) == (6, 0, [(GST, "")])


def test_times_that_do_not_fit_the_order_of_pictures_cost_none(tmp_path: Path) -> None:
    path = write_film(tmp_path / "reordered.avi", "libx264")

    ours, theirs = played(path), played(path, "software")

    assert (len(ours.times), ours.damaged) == (FRAMES, 0)
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("numbers", [(11,), (12, 13, 15), (FRAMES - 2,), (FRAMES - 1,)])
def test_a_damaged_packet_costs_its_frame_which_is_counted(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    whole = write_film(tmp_path / "whole.mp4", "libx264", options={"bf": "0", "g": "10"})
    path = copied(
        whole,
        tmp_path / "damaged.mp4",
        change=lambda number, content: noise(len(content)) if number in numbers else content,
    )

    came = played(path)

    assert len(came.times) == FRAMES
    assert came.damaged == len(numbers)
    assert came.notes == []


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "note"),
    [
        ("mpeg4", "yuv420p", "gst does not decode mpeg4"),
        ("libvpx-vp9", "yuv420p", "gst does not decode vp9"),
        ("libx264", "yuv420p10le", "gst does not decode h264 of yuv420p10le"),
    ],
)
def test_another_film_is_decoded_by_software_which_is_said(
    tmp_path: Path, codec: str, pix_fmt: str, note: str
) -> None:
    came = played(write_film(tmp_path / "film.mkv", codec, pix_fmt=pix_fmt))

    assert (len(came.times), came.said) == (FRAMES, [("software", note)])


def test_no_command_line_shows_where_the_pictures_come_from(film: Path) -> None:
    commands: list[str] = []

    played(film, after=lambda _, pid: commands.append(gstreamer.command_of(pid) if pid else ""))

    assert "avdec_h264" in commands[0]
    assert not [command for command in commands if str(film) in command]


# scaling

SMALL = (320, 180)


def is_close(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """The same picture, scaled by another algorithm."""
    assert one is not None
    assert other is not None
    return one.shape == other.shape and float(cv2.absdiff(one, other).mean()) < 2


def test_pictures_are_scaled_in_the_child_and_have_the_size_of_their_source(film: Path) -> None:
    commands: list[str] = []

    came = played(
        film,
        needed=lambda: SMALL,
        after=lambda _, pid: commands.append(gstreamer.command_of(pid) if pid else ""),
    )

    theirs = played(film, "software", needed=lambda: SMALL)
    assert "width=320,height=180" in commands[0]
    assert (came.times, came.size, came.said) == (theirs.times, (640, 360), [(GST, "")])
    assert (set(came.reduced), set(theirs.reduced)) == ({True}, {False})
    assert all(map(is_close, came.pictures, theirs.pictures))


def test_a_scaled_picture_may_be_asked_for_in_every_size(film: Path) -> None:
    quiet_libraries()
    whole = open_source(SourceSpec(str(film)), 1)
    reduced = open_source(SourceSpec(str(film)), 1, decoders=Decoders("gst", needed_size=lambda *_: SMALL))
    with closing(whole), closing(reduced):
        assert whole.grab()
        assert reduced.grab()
        one, other = whole.retrieve(), reduced.retrieve()

    assert one is not None
    assert other is not None
    assert (other.width, other.height, other.is_reduced) == (640, 360, True)
    for size in (SMALL, (160, 90), (640, 359), (640, 360)):
        assert is_close(one.scaled(*size), other.scaled(*size))
    assert is_close(one.bgr(), other.bgr())


def test_a_film_that_is_turned_is_scaled_and_then_turned(tmp_path: Path) -> None:
    path = write_film(tmp_path / "turned.mp4", "libx264", size=(640, 360), rotation=90)

    came = played(path, needed=lambda: (180, 320))

    theirs = played(path, "software", needed=lambda: (180, 320))
    assert (came.size, set(came.reduced)) == ((360, 640), {True})
    assert all(map(is_close, came.pictures, theirs.pictures))


def test_whole_pictures_come_when_they_are_needed_and_no_frame_is_lost(tmp_path: Path) -> None:
    times = list(range(0, 2_400, 40))
    film = write_film(tmp_path / "film.mp4", "libx264", size=(640, 360), times=times, options={"g": "10"})
    sizes: list[tuple[int, int] | None] = [SMALL]

    def change(number: int, _pid: int) -> None:
        if number in (5, 35):
            sizes.append(None if number == 5 else SMALL)

    came = played(film, needed=lambda: sizes[-1], after=change)

    theirs = played(film, "software")
    assert (came.times, came.size, came.said) == (theirs.times, theirs.size, [(GST, "")])
    switches = [at for at in range(1, len(times)) if came.reduced[at] != came.reduced[at - 1]]
    first, second = switches
    assert (came.reduced[0], came.reduced[-1]) == (True, True)
    assert 5 <= first < 35 <= second
    for one, other in zip(came.pictures[first:35], theirs.pictures[first:35], strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scaler", ["no-such-element", "videoscale no-such-property=1"])
def test_a_decoder_whose_scaler_fails_goes_on_without_it(
    film: Path, monkeypatch: pytest.MonkeyPatch, scaler: str
) -> None:
    failing = Decoder("gst", "h264", "avdec_h264", ("video/x-raw,format=I420",), (scaler,))
    monkeypatch.setattr(choice, "candidates", lambda *_: (failing,))

    came = played(film, needed=lambda: SMALL, has_element=lambda _: True)

    assert_equal(came, played(film, "software", needed=lambda: SMALL))
    assert set(came.reduced) == {False}
    assert [decoder for decoder, _ in came.said] == [GST, GST]
    assert came.notes[0].endswith("; started again without scaling")


# faults


@pytest.mark.parametrize("size", [None, SMALL])
def test_a_decoder_that_is_killed_is_started_again_and_no_frame_is_lost(
    film: Path, size: tuple[int, int] | None
) -> None:
    def kill(number: int, pid: int) -> None:
        if number == 13:
            end(pid)

    came = played(film, after=kill, needed=lambda: size)

    assert_equal(came, played(film, "software" if size is None else "gst", needed=lambda: size))
    assert came.said == [(GST, ""), (GST, f"{GST} was killed by SIGKILL; started again")]
    assert len(came.decoders) == 2


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("bare.h264", "libx264"),
        ("film.ts", "libx264"),
        ("film.mkv", "libx265"),
        pytest.param("film.mp4", "libsvtav1", marks=AV1),
    ],
)
def test_no_frame_is_lost_or_comes_twice_whatever_the_film(tmp_path: Path, name: str, codec: str) -> None:
    options = {"g": "10"} if codec != "libx265" else {"x265-params": "log-level=none:keyint=10"}
    path = write_film(tmp_path / name, codec, size=(640, 360), options=options)

    def kill(number: int, pid: int) -> None:
        if number in (7, 18, 24):
            end(pid)

    came = played(path, after=kill)

    assert_equal(came, played(path, "software"))
    assert [decoder for decoder, _ in came.said][-1] == "software"


@pytest.mark.parametrize("size", [None, SMALL])
def test_a_decoder_that_is_stopped_is_replaced(
    film: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None
) -> None:
    failed = Decoders.failed

    def patient_again(*given: Any, **more: Any) -> bool:
        monkeypatch.setattr(decoding, "NEXT_PICTURE", PATIENCE)
        return failed(*given, **more)

    def stop(number: int, pid: int) -> None:
        if number == 13:
            end(pid, signal.SIGSTOP)
            monkeypatch.setattr(decoding, "NEXT_PICTURE", 1.0)

    monkeypatch.setattr(Decoders, "failed", patient_again)
    came = played(film, after=stop, needed=lambda: size)

    assert_equal(came, played(film, "software" if size is None else "gst", needed=lambda: size))
    assert came.notes == [f"{GST} delivered no picture for 1 s; started again"]


@pytest.mark.parametrize("size", [None, SMALL])
def test_a_decoder_that_keeps_failing_is_left_for_software_and_no_frame_is_lost(
    tmp_path: Path, size: tuple[int, int] | None
) -> None:
    times = list(range(0, 4_000, 40))  # more than fit into a pipe
    film = write_film(tmp_path / "film.mp4", "libx264", size=(640, 360), times=times, options={"g": "10"})
    killed: set[int] = set()

    def kill(number: int, pid: int) -> None:
        if pid and pid not in killed and number % 4 == 0:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)

    came = played(film, after=kill, needed=lambda: size)

    theirs = played(film, "software", needed=lambda: size)
    assert (came.times, came.size) == (theirs.times, theirs.size)
    assert all(map(is_close, came.pictures, theirs.pictures))
    assert (came.reduced[0], came.reduced[-1]) == (size is not None, False)
    assert [decoder for decoder, _ in came.said] == [GST, GST, "software"]
    assert came.notes[-1] == f"{GST} was killed by SIGKILL"
    assert len(came.decoders) == 3


def launching(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this script be GStreamer's program."""
    program = folder / "gst-launch-1.0"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(elements, "program", lambda _: str(program))


@pytest.mark.parametrize("size", [None, SMALL])
@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("exit 3", "ended with code 3"),
        ("cat > /dev/null; exit 0", "ended without a picture"),
        ("echo 'ERROR: from element /a: Device is busy.'; exit 1", "GStreamer says: Device is busy."),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        (
            f"exec {sys.executable} -c 'import os, sys; os.write(int(sys.argv[-1][3:]), bytes(64))' $@",
            "delivers what cannot be read: expected a header of version 1.0",
        ),
    ],
)
def test_a_decoder_that_does_not_begin_is_left_for_software(
    *,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    note: str,
    size: tuple[int, int] | None,
) -> None:
    launching(tmp_path, script, monkeypatch)

    came = played(film, needed=lambda: size)

    assert_equal(came, played(film, "software", needed=lambda: size))
    # Once more without scaling.
    assert [decoder for decoder, _ in came.said] == [GST, *([GST] if size else []), "software"]
    assert all(note in each for each in came.notes)


def test_an_element_that_is_missing_is_told_by_its_name(film: Path) -> None:
    believed = played(film, "nv", has_element=lambda _: True)
    looked_for = played(film, "nv")

    assert believed.said == [
        ("nv (nvv4l2decoder)", ""),
        ("software", "nv (nvv4l2decoder) GStreamer has no element nvv4l2decoder"),
    ]
    assert looked_for.said == [("software", "GStreamer has no element nvv4l2decoder or nvh264dec")]
    assert len(believed.times) == len(looked_for.times) == FRAMES


def test_a_decoder_that_hangs_is_left_for_software(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "FIRST_PICTURE", 1.0)
    launching(tmp_path, "cat > /dev/null; exec sleep 600", monkeypatch)

    came = played(film)

    assert_equal(came, played(film, "software"))
    assert came.said == [(GST, ""), ("software", f"{GST} delivered no picture for 1 s")]


def test_a_decoder_that_swallows_everything_is_left_for_software(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "FIRST_PICTURE", 1.0)
    swallowing = Decoder("gst", "h264", "avdec_h264", ("identity drop-probability=1", "video/x-raw"))
    monkeypatch.setattr(choice, "candidates", lambda *_: (swallowing,))
    server = rtsp(size=(320, 240))
    server.start()

    playing = play(server.url, decoder="gst")
    playing.until(20)

    assert (playing.stat.decoder, playing.stat.attempts, playing.stat.failures) == ("software", 0, 0)
    assert playing.stat.decoder_note == f"{GST} delivered no picture for 1 s"


def test_a_group_that_is_too_large_to_be_kept_costs_its_frames_which_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = list(range(0, 10_000, 40))
    film = write_film(tmp_path / "film.mp4", "libx264", times=times, options={"g": "10"})
    monkeypatch.setattr(decoding, "_MOST_REPLAYED", 1)

    def kill(number: int, pid: int) -> None:
        if number == 3:
            end(pid)

    came = played(film, after=kill)

    assert len(came.times) == len(times)
    assert 0 < came.damaged < len(times) / 2
    assert came.pictures[-1] is not None


def test_a_decoder_dies_with_its_process_even_while_it_is_stopped(film: Path) -> None:
    program = f"""
import os, signal
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.sources.open_source import open_source
from tests.fakes import gstreamer
capture = open_source(SourceSpec({str(film)!r}), 1, decoders=Decoders("gst"))
assert capture.grab()
[pid] = gstreamer.decoders()
os.kill(pid, signal.SIGSTOP)
print(pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()

    wait_for(lambda: not gstreamer.is_running(pid), "the end of the decoder")


# cameras


def test_a_camera_is_decoded_and_its_status_tells_by_what(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer]
) -> None:
    server = rtsp(size=(320, 240))
    server.start()

    playing = play(server.url, decoder="gst")
    playing.until(20)

    assert {frame.size for frame in playing.frames} == {(320, 240)}
    assert (playing.stat.decoder, playing.stat.decoder_note, playing.stat.attempts) == (GST, "", 0)


def test_a_camera_whose_decoder_is_killed_is_not_lost(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer]
) -> None:
    server = rtsp(size=(320, 240))
    server.start()
    playing = play(server.url, decoder="gst")
    killed: list[int] = []

    def another() -> int | None:
        return next((pid for pid in gstreamer.decoders() if pid not in killed), None)

    for _ in range(3):
        # More than a decoder that was killed before may have left behind.
        playing.until(len(playing.ids) + 20)
        killed.append(wait_for(another, "a decoder"))
        end(killed[-1])
    playing.until(len(playing.ids) + 20)

    assert (playing.stat.decoder, playing.stat.attempts, playing.stat.failures) == ("software", 0, 0)
    assert playing.stat.decoder_note == f"{GST} was killed by SIGKILL"


def test_a_camera_whose_decoder_is_stopped_is_not_lost(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer]
) -> None:
    server = rtsp(size=(320, 240))
    server.start()
    playing = play(server.url, decoder="gst", properties={"read_timeout_msec": 5000.0})
    playing.until(10)

    (pid,) = gstreamer.decoders()
    end(pid, signal.SIGSTOP)
    playing.until(len(playing.ids) + 20)

    assert (playing.stat.decoder, playing.stat.attempts, playing.stat.failures) == (GST, 0, 0)
    assert playing.stat.decoder_note == f"{GST} delivered no picture for 5 s; started again"


def test_a_camera_that_comes_back_is_decoded_by_what_did_not_fail(
    play: Callable[..., Playing],
    rtsp: Callable[..., RtspServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launching(tmp_path, "exit 3", monkeypatch)
    server = rtsp(size=(320, 240))
    server.start()
    playing = play(server.url, decoder="gst")
    playing.until(5)

    server.stop()
    playing.until_lost()
    server.start()
    playing.until(len(playing.frames) + 5)

    assert playing.stat.decoder_note == f"{GST} ended with code 3"
