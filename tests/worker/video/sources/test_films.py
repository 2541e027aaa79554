"""Films of many codecs, containers and kinds of damage: which frames come, beside FFmpeg's own count.

`pytest -s tests/worker/video/sources/test_films.py` prints the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.sources import ffmpeg_capture
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries
from tests.fakes.films import FRAMES, SIZE, copied, counted_by_ffmpeg, drawn, noise, write_film

# FFmpeg 8.1.1, which comes with PyAV 17, may keep the last picture of an H.264 film back after damage.
KEPT_BACK = 1 if av.__version__ < "18" else 0
X265 = {"x265-params": "log-level=none"}


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a film until its end."""

    frames: int
    damaged: int
    times: tuple[float, ...]  # seconds
    first: np.ndarray | None
    remark: str
    facts: dict[str, float] = field(default_factory=dict)


def played(path: Path | str, **properties: float) -> Played:
    quiet_libraries()
    capture = open_source(SourceSpec(str(path), properties=properties), 1)
    assert capture.finite
    damaged, times, first = 0, [], None
    while capture.grab():
        picture = None if capture.damaged else capture.retrieve()
        damaged += picture is None
        if picture is not None:
            times.append(capture.media_time or 0.0)
            first = picture.bgr() if first is None else first
    facts = {"width": capture.width, "height": capture.height, "fps": capture.fps}
    capture.close()
    return Played(len(times), damaged, tuple(times), first, capture.remark, facts)


def shown(path: Path, came: Played) -> int:
    """FFmpeg's count, or ours where there is no FFmpeg."""
    theirs = counted_by_ffmpeg(path)
    print(f"| {path.name} | {theirs} | {came.frames} | {came.damaged} | {came.remark.partition(': ')[2]} |")
    return came.frames if theirs is None else theirs


def why(path: Path | str) -> tuple[str, str]:
    """The cause and the reason for which it does not open."""
    quiet_libraries()
    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec(str(path)), 1).close()
    return caught.value.cause, str(caught.value)


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("h264.mp4", "libx264", {}),
        ("hevc.mp4", "libx265", {"options": X265}),
        ("av1.mp4", "libsvtav1", {}),
        ("vp8.webm", "libvpx", {}),
        ("vp9.webm", "libvpx-vp9", {}),
        ("mpeg4.avi", "mpeg4", {}),
        ("mpeg2.ts", "mpeg2video", {"sound": True}),
        ("mjpeg.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("flv.flv", "flv", {}),
        ("wmv.asf", "wmv2", {}),
        ("anim.gif", "gif", {"pix_fmt": "rgb8"}),
        ("raw.avi", "rawvideo", {"pix_fmt": "bgr24"}),
        ("ten-bit.mkv", "libx264", {"pix_fmt": "yuv420p10le"}),
        ("alpha.mov", "qtrle", {"pix_fmt": "argb"}),
        ("gray.mkv", "ffv1", {"pix_fmt": "gray"}),
        ("odd.mkv", "ffv1", {"pix_fmt": "yuv444p", "size": (61, 47)}),
        ("interlaced.mkv", "mpeg2video", {"options": {"flags": "+ilme+ildct"}}),
        ("two.mkv", "libx264", {"tracks": 2}),
        ("a: b.mp4", "libx264", {}),
        ("image%03d.avi", "mpeg4", {}),
    ],
)
def test_every_frame_of_a_film_comes_whatever_its_codec(
    tmp_path: Path, name: str, codec: str, more: dict[str, Any]
) -> None:
    path = write_film(tmp_path / name, codec, **more)

    came = played(path)

    assert (came.frames, came.damaged, came.remark) == (FRAMES, 0, "")
    assert came.first is not None
    width, height = more.get("size", SIZE)
    assert came.first.shape == (height, width, 3)
    difference = np.abs(came.first.astype(int) - drawn(0, (width, height))).mean()
    assert difference < 20
    if "%" not in name:  # FFmpeg's program takes that for a pattern
        assert shown(path, came) == FRAMES


@pytest.mark.parametrize(("rotation", "size"), [(90, (48, 64)), (180, (64, 48)), (-90, (48, 64))])
def test_a_picture_is_turned_as_its_film_says(tmp_path: Path, rotation: int, size: tuple[int, int]) -> None:
    path = write_film(tmp_path / "turned.mp4", "libx264", rotation=rotation)
    by_opencv = cv2.VideoCapture(str(path))

    came = played(path)
    as_it_is = played(path, orientation_auto=0)

    assert came.first is not None
    assert (came.facts["width"], came.facts["height"]) == size
    np.testing.assert_array_equal(came.first, by_opencv.read()[1])
    assert (as_it_is.facts["width"], as_it_is.facts["height"]) == SIZE


# damage


def at(*numbers: int) -> Callable[[int, bytes], bytes | None]:
    """Noise in the place of these packets."""
    return lambda number, content: noise(len(content)) if number in numbers else content


def without(*numbers: int) -> Callable[[int, bytes], bytes | None]:
    return lambda number, content: None if number in numbers else content


@pytest.mark.parametrize(
    ("codec", "suffix", "numbers", "frames"),
    [
        ("libx264", "mp4", (11,), FRAMES - 1),
        ("libx264", "mkv", (12, 13, 15), FRAMES - 3),
        ("libx264", "mp4", (0,), None),
        ("libx264", "mp4", (FRAMES - 2,), FRAMES - 1),
        ("libx264", "mp4", (FRAMES - 1,), FRAMES - 1),
        ("mpeg4", "avi", (15,), None),
        ("mjpeg", "avi", (3, 13, 23), FRAMES - 3),
        ("ffv1", "mkv", (20,), None),
        ("libvpx-vp9", "webm", (9,), None),
    ],
)
def test_a_packet_that_cannot_be_decoded_ends_nothing(
    tmp_path: Path, codec: str, suffix: str, numbers: tuple[int, ...], frames: int | None
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_film(tmp_path / f"whole.{suffix}", codec, pix_fmt=pix_fmt, options={"bf": "0", "g": "10"})
    path = copied(whole, tmp_path / f"{codec}-{numbers[0]}.{suffix}", change=at(*numbers))

    came = played(path)

    assert came.frames + KEPT_BACK >= shown(path, came)
    assert FRAMES - KEPT_BACK <= came.frames + came.damaged <= FRAMES
    if frames is not None:
        assert (came.frames, came.damaged) in ((frames, len(numbers)), (frames - KEPT_BACK, len(numbers)))


def test_damage_among_the_last_packets_costs_no_other_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg_capture, "_FILM_THREADS", 8)
    whole = write_film(tmp_path / "whole.mp4", "libx264", options={"bf": "0"})
    path = copied(whole, tmp_path / "late.mp4", change=at(FRAMES - 6))

    came = played(path)

    assert FRAMES - 1 - KEPT_BACK <= came.frames < FRAMES
    assert came.damaged == 1
    assert came.times == tuple(sorted(set(came.times)))


def test_a_film_that_was_cut_between_keyframes_shows_what_there_is(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", "libx264", options={"g": "100", "bf": "0"})
    path = copied(whole, tmp_path / "cut.mkv", change=without(*range(10)))

    came = played(path)

    assert (came.frames, came.damaged) == (FRAMES - 10, 0)
    assert came.frames >= shown(path, came)
    assert came.remark.endswith("20 of its pictures have parts missing")


def test_a_film_whose_pictures_lie_far_apart_between_other_tracks_plays_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "sparse.mkv"
    with av.open(str(path), "w") as film:
        video = film.add_stream("mjpeg", rate=25, options={})
        video.width, video.height, video.pix_fmt = *SIZE, "yuvj420p"
        sound = film.add_stream("mp2", rate=48_000)
        for number in range(4):
            picture = av.VideoFrame.from_ndarray(drawn(number), "bgr24")
            picture.pts = number * 25 * 60
            film.mux(video.encode(picture))
            for index in range(2500):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
                silence.pts, silence.rate = (number * 2500 + index) * 1152, 48_000
                film.mux(sound.encode(silence))

    came = played(path)

    assert (came.frames, came.damaged, came.remark) == (4, 0, "")
    assert shown(path, came) == 4


@pytest.mark.parametrize(
    ("name", "codec"), [("cut.avi", "mjpeg"), ("cut.mkv", "libx264"), ("cut.mp4", "mpeg4")]
)
def test_a_film_that_ends_well_before_what_it_declares_says_so(tmp_path: Path, name: str, codec: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = tmp_path / name
    write_film(path, codec, pix_fmt=pix_fmt, options={"g": "5"})
    content = path.read_bytes()
    if name.endswith("mp4"):
        content = faststart(content)
    path.write_bytes(content[: len(content) * 6 // 10])

    came = played(path)

    assert 3 < came.frames < FRAMES - 3
    assert came.frames >= shown(path, came)
    declared = "0.4 of 1.2 s" if "mkv" in name else f"{came.frames + came.damaged} of 30"
    assert f"it ends after {declared}" in came.remark
    assert "it is cut off or damaged" in came.remark


def faststart(content: bytes) -> bytes:
    """An MP4 with its index before its frames, as it is served over networks."""
    boxes, offset = {}, 0
    while offset < len(content):
        size = int.from_bytes(content[offset : offset + 4], "big")
        boxes[content[offset + 4 : offset + 8]] = content[offset : offset + size]
        offset += size
    moov = bytearray(boxes[b"moov"])
    shift, start = len(moov), moov.index(b"stco") + 12
    for place in range(start, start + 4 * int.from_bytes(moov[start - 4 : start], "big"), 4):
        moov[place : place + 4] = (int.from_bytes(moov[place : place + 4], "big") + shift).to_bytes(4, "big")
    rest = b"".join(box for kind, box in boxes.items() if kind not in (b"ftyp", b"moov"))
    return boxes[b"ftyp"] + bytes(moov) + rest


def test_a_film_of_variable_rate_has_its_own_times(tmp_path: Path) -> None:
    times = [index * 100 for index in range(10)] + [1000 + index * 500 for index in range(10)]
    path = write_film(tmp_path / "variable.mkv", "libx264", times=times)

    came = played(path)

    assert [round(1000 * at) for at in came.times] == times


def test_a_film_is_whole_whose_edit_list_leaves_frames_out(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", "libx264", options={"bf": "0"})
    path = tmp_path / "edited.mp4"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            before = round(0.4 / packet.time_base)  # seconds that are there and not shown
            packet.pts, packet.dts, packet.stream = packet.pts - before, packet.dts - before, stream
            new.mux(packet)

    came = played(path)

    assert (came.frames, came.damaged, came.remark) == (FRAMES - 10, 0, "")
    assert shown(path, came) == came.frames


def test_a_film_is_whole_whose_header_has_its_duration_as_its_frames(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.ivf", "libvpx", times=[40 * index for index in range(FRAMES)])
    content = bytearray(path.read_bytes())
    content[24:28] = (40 * FRAMES).to_bytes(4, "little")  # as FFmpeg wrote it before its version 6
    path.write_bytes(content)

    came = played(path)

    assert (came.frames, came.damaged, came.remark) == (FRAMES, 0, "")


# what is no film


def test_files_that_are_none_say_what_they_are(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", "libx264")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"moov") - 4])
    partly = tmp_path / "partly.mp4"
    partly.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"trak") - 4])
    ebml = tmp_path / "cut.mkv"
    ebml.write_bytes(b"\x1aE\xdf\xa3" + noise(40))
    sound = tmp_path / "sound.mp3"
    with av.open(str(sound), "w") as film:
        stream = film.add_stream("mp3", rate=48_000)
        for index in range(20):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", "mono")
            silence.pts, silence.rate = index * 1152, 48_000
            film.mux(stream.encode(silence))
        film.mux(stream.encode(None))
    page = tmp_path / "page.mp4"
    page.write_text("<html><body>404</body></html>\n" * 30)

    assert why(cut) == ("codec", f"{cut} is cut off: the index of an MP4 (its moov atom) is missing")
    assert why(partly) == ("codec", f"{partly} begins as MP4, and is cut off or damaged")
    assert why(ebml) == ("codec", f"{ebml} begins as Matroska or WebM, and is cut off or damaged")
    assert why(sound) == ("codec", f"{sound}: the stream has no video, only audio")
    assert why(page)[0] == "codec"


@pytest.mark.parametrize(("name", "old", "new", "told"), [("a.mp4", b"avc1", b"evc1", "evc1")])
def test_a_codec_that_is_missing_is_named(
    tmp_path: Path, name: str, old: bytes, new: bytes, told: str
) -> None:
    path = write_film(tmp_path / name, "libx264")
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new))

    assert why(path) == ("codec", f"{path}: FFmpeg has no decoder for the codec of its video ({told})")


def test_the_picture_on_a_cover_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as film:
        sound = film.add_stream("aac", rate=48_000)
        cover = film.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film.mux(cover.encode(av.VideoFrame.from_ndarray(drawn(0), "bgr24")))
        film.mux(cover.encode(None))
        for index in range(20):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.pts, silence.rate = index * 1024, 48_000
            film.mux(sound.encode(silence))
        film.mux(sound.encode(None))

    assert why(path) == ("codec", f"{path}: the stream has no video, only audio")


# images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images of different sizes, one that is damaged, and something else."""
    for index, name in enumerate(("c.PNG", "a.jpg", "b.webp")):
        width, height = 64 + 2 * index, 48
        done, content = cv2.imencode(Path(name).suffix.lower(), drawn(index, (width, height)))
        assert done
        (tmp_path / name).write_bytes(bytes(content))
    (tmp_path / "d.jpg").write_bytes(noise(100))
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def sizes(capture: Capture) -> list[tuple[int, int] | None]:
    """Of each picture; None where it is damaged."""
    found: list[tuple[int, int] | None] = []
    while capture.grab():
        picture = capture.retrieve()
        found.append(None if picture is None else (picture.width, picture.height))
    return found


def test_a_folder_of_images_is_a_film_in_the_order_of_their_names(pictures: Path) -> None:
    folder = open_source(SourceSpec(str(pictures)), 1)
    pattern = open_source(SourceSpec(f"{pictures}/[ab].*"), 1)
    single = open_source(SourceSpec(str(pictures / "c.PNG")), 1)

    assert folder.finite
    assert folder.total_frames == 4
    assert sizes(folder) == [(66, 48), (68, 48), (64, 48), None]
    assert sizes(pattern) == [(66, 48), (68, 48)]
    assert sizes(single) == [(64, 48)]
    assert why(f"{pictures}/*.bmp")[0] == "not_found"


# pixels


def test_a_pipe_with_the_name_of_an_image_is_damaged_and_not_waited_for(pictures: Path) -> None:
    os.mkfifo(pictures / "e.jpg")

    assert sizes(open_source(SourceSpec(str(pictures)), 1))[-1] is None


def test_pixels_are_those_of_opencv(tmp_path: Path) -> None:
    for name, codec, pix_fmt in (
        ("a.mp4", "libx264", "yuv420p"),
        ("b.avi", "mjpeg", "yuvj420p"),
        ("c.mkv", "libx264", "yuv420p10le"),
    ):
        path = write_film(tmp_path / name, codec, pix_fmt=pix_fmt, size=(70, 50))
        theirs, ours = cv2.VideoCapture(str(path)), open_source(SourceSpec(str(path)), 1)
        for _ in range(FRAMES):
            assert ours.grab()
            picture = ours.retrieve()
            assert picture is not None
            np.testing.assert_array_equal(picture.bgr(), theirs.read()[1])


def test_a_film_that_cannot_be_read_on_ends_in_time(tmp_path: Path) -> None:
    path = write_film(tmp_path / "noisy.mkv", "mpeg4")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = noise(len(content) - len(content) // 2)
    path.write_bytes(bytes(content))

    began = time.monotonic()
    came = played(path)

    assert came.frames > 5
    assert time.monotonic() - began < ffmpeg_capture.FILE_TIMEOUT, "and not because a read was given up"
