"""The small parts of a camera that concern its source: references, opening, the test pattern."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from streamfleet_core.protocol.source_reference import SourceKind, kind_of, sanitised
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.source_reader import Reader
from streamfleet_worker.video.sources.buffer import FrameBuffer
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries
from streamfleet_worker.video.synthetic import test_pattern
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import wait_for
from tests.fakes.process_harness import write_video
from tests.fakes.videos import write_pattern

# references


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        (0, SourceKind.DEVICE),
        ("/dev/video2", SourceKind.DEVICE),
        ("/videos/a b.mp4", SourceKind.FILE),
        ("missing.avi", SourceKind.FILE),
        ("rtsp://camera/1", SourceKind.URL),
        ("TestPatternStreamProducer", SourceKind.PATTERN),
    ],
)
def test_a_reference_tells_its_kind(reference: str | int, kind: SourceKind) -> None:
    assert kind_of(reference) is kind


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (3, 3),
        ("/videos/a?b#c@d.mp4", "/videos/a?b#c@d.mp4"),
        ("rtsp://user:secret@camera.lan:554/live/1?token=secret#secret", "rtsp://camera.lan:554/live/1"),
        ("rtsp://user:s%40ecret@10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("rtsp://user:se@cret@10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("http://[fe80::1]:8080/x?password=secret", "http://[fe80::1]:8080/x"),
        ("rtsp://user:sec/ret@10.0.0.7/live", "<unparseable source>"),
        ("rtsp://user:secret@host:port/live", "<unparseable source>"),
        ("rtsp://[secret/", "<unparseable source>"),
        ("://user:secret@x/", "<unparseable source>"),
    ],
)
def test_no_secret_of_a_reference_is_shown(reference: str | int, shown: str | int) -> None:
    assert sanitised(reference) == shown


# what cannot be opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "letter.txt").write_text("Dear reader,\n" * 100)
    (tmp_path / "letter.avi").write_text("Dear reader,\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(50_000))
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    write_video(tmp_path / "film.avi", 30)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.mp4", "there is no file {}"),
        ("folder.mp4", "{} is a directory without an image, expected images (bmp, "),
        ("pipe.mp4", "{} is no regular file, expected a video file"),
        ("empty.mp4", "{} is empty, expected a video file"),
        ("letter.txt", "{}: expected a video, got a text"),
        ("letter.avi", "{} is not a video that can be decoded"),
        ("noise.mp4", "{} is not a video that can be decoded"),
        ("nul\0.mp4", "cannot be read"),
        ("n" * 300 + ".mp4", "cannot be read: File name too long"),
        ("*" * 300 + ".jpg", "nothing matches "),
    ],
)
def test_a_file_that_is_no_video_is_lost_with_a_reason(files: Path, name: str, reason: str) -> None:
    quiet_libraries()
    path = str(files / name)

    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec(path), 1)

    assert reason.format(path) in str(caught.value)


def test_a_relative_path_that_is_not_there_is_told_with_where_it_was_looked_for(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)

    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec("folder/none.mp4"), 1)

    assert str(caught.value) == f"there is no file folder/none.mp4 in {files}"


@pytest.mark.parametrize("where", ["refused", "unknown host"])
def test_a_url_that_cannot_be_reached_is_lost_with_a_reason_and_no_secret(
    where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet_libraries()
    host = {"refused": "127.0.0.1:1", "unknown host": "no-such-host.invalid"}[where]

    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec(f"rtsp://canary:canary@{host}/live?canary=canary"), 1)

    reason = {
        "refused": "connection refused",
        "unknown host": "the host's name is unknown",
    }[where]
    assert str(caught.value) == f"rtsp://{host}/live: {reason}"
    assert "canary" not in "".join(capfd.readouterr())


def test_a_device_that_is_not_there_is_lost_with_a_reason() -> None:
    quiet_libraries()

    with pytest.raises(SourceLost, match="there is no camera /dev/video97"):
        open_source(SourceSpec(97), 1)


def test_a_property_that_opencv_does_not_have_is_named(files: Path) -> None:
    with pytest.raises(SourceLost, match="expected a property of OpenCV such as frame_width, got 'colour'"):
        open_source(SourceSpec(str(files / "film.avi"), properties={"colour": 1.0}), 1)


# the test pattern


def test_the_squares_of_the_pattern_are_where_the_truth_says() -> None:
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    for frame_id in (1, 2, 50, 71, 72, 73, 500, 12_345):
        image, expected = test_pattern.draw(frame_id), np.full((1080, 1920, 3), 30, np.uint8)
        for (left, top, right, bottom), colour in zip(
            test_pattern.truth(frame_id).astype(int), colours, strict=True
        ):
            assert (right - left, bottom - top) == (192, 192)
            assert 0 <= left < right <= 1920
            expected[top:bottom, left:right] = colour
        np.testing.assert_array_equal(image, expected)
        assert (image != 30).any(axis=2).sum() == 3 * 192 * 192  # none covers another


def test_the_squares_of_the_pattern_move_all_the_time() -> None:
    lefts = np.array([test_pattern.truth(frame_id)[:, 0] for frame_id in range(1, 400)])

    assert (np.abs(np.diff(lefts, axis=0)).min(axis=0) > 0).all()
    assert lefts.min() == 0
    assert lefts.max() == 1920 - 192


def test_the_pattern_goes_on_counting_where_it_is_told_to() -> None:
    capture = open_source(SourceSpec("TestPatternStreamProducer"), 41)

    assert capture.grab()
    picture = capture.retrieve()

    assert picture is not None
    np.testing.assert_array_equal(picture.bgr(), test_pattern.draw(41))
    assert not capture.finite


def test_a_lost_source_is_logged_without_the_pipeline_which_the_process_is_named_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = SourceMetrics(str(tmp_path), now=0.0, changed=Wakeup())
    buffer = FrameBuffer(1, wakeup=Wakeup())
    reader = Reader(SourceSpec(str(tmp_path)), position=0, buffer=buffer, metrics=metrics)

    reader.start()
    wait_for(lambda: metrics.source_stat(0.0).attempts >= 2, "a second attempt")
    reader.stop(PATIENCE)

    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path} is a directory without an image, expected ")


def test_a_path_may_have_a_colon_or_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pattern(tmp_path / "cam:1.avi", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    for reference in ("cam:1.avi", "~/cam:1.avi", f"{tmp_path}/cam:1.avi", f"file://{tmp_path}/cam%3A1.avi"):
        capture = open_source(SourceSpec(reference), first_frame_id=1)
        assert capture.grab(), reference
        capture.close()
