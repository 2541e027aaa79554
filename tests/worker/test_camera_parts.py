"""The small parts of a camera: pace, back-off, buffer, references, states, counters, test pattern, UDP."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from streamfleet_broker.protocol.reference import SourceKind, kind_of, sanitised
from streamfleet_broker.protocol.values import ObservedState, SourceSpec, UdpSink
from streamfleet_worker.camera import testpattern
from streamfleet_worker.camera.backoff import Backoff
from streamfleet_worker.camera.buffer import FrameBuffer, Wakeup
from streamfleet_worker.camera.frame import Frame, Stamp
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.pace import Pace
from streamfleet_worker.camera.reader import Reader
from streamfleet_worker.camera.report import observed_state, shown_source_state
from streamfleet_worker.camera.source import SourceLost, open_source, quiet_libraries
from streamfleet_worker.camera.udp import UdpDoor
from tests.worker.peers import wait_for
from tests.worker.stand import write_video


def frame(frame_id: int) -> Frame:
    stamp = Stamp(frame_id, decoded_at=0.0, wall_ns=0, boot_ns=0, media_time=0.0, fps=0.0)
    return Frame(stamp, np.zeros((2, 2, 3), np.uint8))


# pace and back-off


@pytest.mark.parametrize(("source_fps", "max_fps"), [(30, 20), (30, 7), (25, 25), (10, 30), (100, 0.5)])
def test_a_pace_is_kept_on_average(source_fps: float, max_fps: float) -> None:
    pace, went = Pace(max_fps), 0

    for index in range(round(source_fps * 20)):
        now = 1000 + index / source_fps
        if pace.wait(now) == 0:
            pace.went(now)
            went += 1

    assert went == pytest.approx(20 * min(source_fps, max_fps), abs=2)


def test_without_a_limit_every_frame_may_go() -> None:
    pace = Pace(None)
    pace.went(5.0)

    assert pace.wait(5.0) == 0


def test_a_pause_does_not_save_up_a_burst() -> None:
    pace = Pace(10)
    pace.went(100.0)

    went = 0
    while pace.wait(200.0) == 0:
        pace.went(200.0)
        went += 1

    assert went <= 2
    assert 0 < pace.wait(200.0) <= 0.1


def test_a_backoff_doubles_to_its_limit_and_begins_anew_after_a_success() -> None:
    backoff = Backoff(1.0, 30.0)

    pauses = [backoff.failed(0.0) * 2 for _ in range(7)]
    spread = backoff.failed(0.999)
    backoff.succeeded()

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert 29 < spread < 30
    assert backoff.failed(0.0) * 2 == 1


# the buffer


def test_a_live_buffer_drops_the_oldest_and_says_so() -> None:
    buffer = FrameBuffer(1, waits=False, wakeup=Wakeup())

    dropped = [buffer.put(frame(n)) for n in (1, 2, 3)]
    taken = buffer.take()

    assert dropped == [0, 1, 1]
    assert taken is not None
    assert taken.stamp.frame_id == 3
    assert buffer.take() is None


def test_a_files_buffer_waits_and_loses_nothing() -> None:
    buffer = FrameBuffer(2, waits=True, wakeup=Wakeup())
    writer = threading.Thread(target=lambda: [buffer.put(frame(n)) for n in range(1, 51)])
    writer.start()
    came: list[int] = []

    until = time.monotonic() + 5
    while len(came) < 50 and time.monotonic() < until:
        taken = buffer.take()
        if taken is not None:
            came.append(taken.stamp.frame_id)
    writer.join(5)

    assert came == list(range(1, 51))


def test_a_writer_that_waits_is_let_go_by_close() -> None:
    buffer = FrameBuffer(1, waits=True, wakeup=Wakeup())
    buffer.put(frame(1))
    writer = threading.Thread(target=buffer.put, args=(frame(2),))
    writer.start()

    buffer.close()
    writer.join(5)

    assert not writer.is_alive()


def test_it_is_exhausted_only_when_the_last_frame_has_been_taken() -> None:
    wakeup = Wakeup()
    buffer = FrameBuffer(2, waits=True, wakeup=wakeup)
    buffer.put(frame(1))
    wakeup.clear()

    buffer.finish()

    assert select.select([wakeup], [], [], 0)[0]
    assert not buffer.exhausted
    buffer.take()
    assert buffer.exhausted


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
        ("folder.mp4", "{} is a directory, expected a video file"),
        ("pipe.mp4", "{} is no regular file, expected a video file"),
        ("empty.mp4", "{} is empty, expected a video file"),
        ("letter.txt", "{} is not a video that can be decoded"),
        ("letter.avi", "{} is not a video that can be decoded"),
        ("noise.mp4", "{} is not a video that can be decoded"),
        ("nul\0.mp4", "cannot be read"),
    ],
)
def test_a_file_that_is_no_video_is_lost_with_a_reason(files: Path, name: str, reason: str) -> None:
    quiet_libraries()
    path = str(files / name)

    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec(path), 1)

    assert reason.format(path) in str(caught.value)


@pytest.mark.parametrize("where", ["refused", "unknown host"])
def test_a_url_that_cannot_be_reached_is_lost_with_a_reason_and_no_secret(
    where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet_libraries()
    host = {"refused": "127.0.0.1:1", "unknown host": "no-such-host.invalid"}[where]

    with pytest.raises(SourceLost) as caught:
        open_source(SourceSpec(f"rtsp://canary:canary@{host}/live?canary=canary"), 1)

    reason = {"refused": "connection refused", "unknown host": "the host's name is unknown"}[where]
    assert str(caught.value) == f"rtsp://{host}/live: {reason}"
    assert "canary" not in "".join(capfd.readouterr())


def test_a_device_that_is_not_there_is_lost_with_a_reason() -> None:
    quiet_libraries()

    with pytest.raises(SourceLost, match="no camera can be opened at /dev/video97"):
        open_source(SourceSpec(97), 1)


def test_a_property_that_opencv_does_not_have_is_named(files: Path) -> None:
    with pytest.raises(SourceLost, match="expected a property of OpenCV such as frame_width, came 'colour'"):
        open_source(SourceSpec(str(files / "film.avi"), {"colour": 1.0}), 1)


# the test pattern


def test_the_squares_of_the_pattern_are_where_the_truth_says() -> None:
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    for frame_id in (1, 2, 50, 71, 72, 73, 500, 12_345):
        image, expected = testpattern.draw(frame_id), np.full((1080, 1920, 3), 30, np.uint8)
        for (left, top, right, bottom), colour in zip(
            testpattern.truth(frame_id).astype(int), colours, strict=True
        ):
            assert (right - left, bottom - top) == (192, 192)
            assert 0 <= left < right <= 1920
            expected[top:bottom, left:right] = colour
        np.testing.assert_array_equal(image, expected)
        assert (image != 30).any(axis=2).sum() == 3 * 192 * 192  # none covers another


def test_the_squares_of_the_pattern_move_all_the_time() -> None:
    lefts = np.array([testpattern.truth(frame_id)[:, 0] for frame_id in range(1, 400)])

    assert (np.abs(np.diff(lefts, axis=0)).min(axis=0) > 0).all()
    assert lefts.min() == 0
    assert lefts.max() == 1920 - 192


def test_the_pattern_goes_on_counting_where_it_is_told_to() -> None:
    capture = open_source(SourceSpec("TestPatternStreamProducer"), 41)

    assert capture.grab()
    image = capture.retrieve(None)

    np.testing.assert_array_equal(image, testpattern.draw(41))
    assert not capture.finite


# states and counters


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (("NOT_STARTED", False, False, 0, False), ObservedState.STARTING),
        (("INITIALISING", False, False, 0, True), ObservedState.STARTING),
        (("RUNNING", False, False, 0, False), ObservedState.STARTING),
        (("RUNNING", False, False, 0, True), ObservedState.RUNNING),
        (("ENDED", False, False, 0, True), ObservedState.RUNNING),
        (("ENDED", False, True, 0, True), ObservedState.ENDED),
        (("ENDED", True, True, 0, True), ObservedState.ENDED),
        (("ERROR", False, False, 1, False), ObservedState.RECONNECTING),
        (("RESTARTING", False, False, 0, True), ObservedState.RECONNECTING),
        (("INITIALISING", False, False, 2, True), ObservedState.RECONNECTING),
        (("RUNNING", True, False, 0, True), ObservedState.PAUSED),
        (("ERROR", True, False, 3, True), ObservedState.PAUSED),
        (("NOT_STARTED", True, False, 0, False), ObservedState.PAUSED),
    ],
)
def test_the_pipelines_state_follows_from_the_sources(
    facts: tuple[str, bool, bool, int, bool], state: ObservedState
) -> None:
    source, paused, done, attempts, engine_met = facts

    observed = observed_state(source, paused=paused, done=done, attempts=attempts, engine_met=engine_met)

    assert observed is state


@pytest.mark.parametrize(
    ("source", "finite", "paused", "done", "shown"),
    [
        ("RUNNING", True, False, False, "RUNNING"),
        ("RUNNING", True, True, False, "PAUSED"),
        ("RUNNING", False, True, False, "MUTED"),
        ("ENDED", True, False, False, "RUNNING"),
        ("ENDED", True, True, False, "PAUSED"),
        ("ENDED", True, True, True, "ENDED"),
        ("ERROR", False, True, False, "ERROR"),
    ],
)
def test_a_paused_source_is_shown_as_the_original_shows_it(
    source: str, finite: bool, paused: bool, done: bool, shown: str
) -> None:
    assert shown_source_state(source, finite=finite, paused=paused, done=done) == shown


def test_throughput_decays_to_zero() -> None:
    ledger = Ledger(0, now=100.0, changed=Wakeup())
    for index in range(100):
        ledger.emitted(100 + index / 10)

    figures = [ledger.fps(now) for now in (109.9, 111.4, 112.9, 200.0)]

    assert figures == [10.0, 5.0, 0.0, 0.0]


def test_the_report_has_the_originals_keys_in_their_order() -> None:
    ledger = Ledger("rtsp://user:canary@camera/1?canary", now=0.0, changed=Wakeup())
    ledger.source_is("INITIALISING")
    ledger.source_failed("no answer from the host")
    ledger.source_is("ERROR")
    ledger.inferred(decoded_at=10.0, started_at=10.5, ready_at=12.0)
    ledger.inferred(decoded_at=20.0, started_at=20.0, ready_at=20.5)

    report = ledger.report(30.0, shown="ERROR", buffer_size=1)

    assert list(report) == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    updates = report["video_source_status_updates"]
    assert [(update["event_type"], update["severity"]) for update in updates] == [
        ("SOURCE_STATE_UPDATE", 20),
        ("SOURCE_ERROR", 40),
        ("SOURCE_STATE_UPDATE", 20),
    ]
    assert updates[0]["payload"] == {
        "previous_state": "NOT_STARTED",
        "new_state": "INITIALISING",
        "source_id": 0,
    }
    assert report["latency_reports"] == [
        {
            "source_id": 0,
            "frame_decoding_latency": 0.25,
            "inference_latency": 1.0,
            "e2e_latency": 1.25,
        }
    ]
    assert report["sources_metadata"] == [
        {
            "source_properties": None,
            "source_reference": "rtsp://camera/1",
            "buffer_size": 1,
            "state": "ERROR",
            "buffer_filling_strategy": "DROP_OLDEST",
            "buffer_consumption_strategy": "EAGER",
            "source_id": 0,
        }
    ]
    assert "canary" not in repr(report)


def test_a_row_of_failures_does_not_push_everything_else_out_of_the_report() -> None:
    ledger = Ledger(0, now=0.0, changed=Wakeup())
    ledger.source_is("INITIALISING")
    for _ in range(1000):
        ledger.inference_failed("out of memory")

    report = ledger.report(1.0, shown="RUNNING", buffer_size=1)

    assert [update["event_type"] for update in report["video_source_status_updates"]] == [
        "SOURCE_STATE_UPDATE",
        "INFERENCE_ERROR",
    ]
    assert ledger.source_stat(1.0, shown="RUNNING").dropped == {"inference": 1000}


# UDP


def test_datagrams_arrive_whole_up_to_the_largest() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        door = UdpDoor(UdpSink("localhost", receiver.getsockname()[1]), now=0.0)
        door.await_address()

        sent = [door.send(bytes([n]) * size, now=0.0) for n, size in enumerate((1, 1400, 65_507))]
        came = [len(receiver.recv(65_536)) for _ in sent]

    door.close()
    assert sent == [True] * 3
    assert came == [1, 1400, 65_507]


def test_a_host_without_an_address_costs_datagrams_and_is_looked_up_again() -> None:
    door = UdpDoor(UdpSink("no-such-host.invalid", 9), now=0.0)
    door.await_address()

    sent = [door.send(b"x", now=float(now)) for now in range(3)]
    door._sink = UdpSink("127.0.0.1", 9)  # the name has an address from now on
    again = door.send(b"x", now=10.0)
    door.await_address()
    after = door.send(b"x", now=10.1)

    door.close()
    assert (sent, again, after) == ([False] * 3, False, True)
    assert door.dropped == 4
    assert door.error == ""


def test_a_datagram_that_is_too_large_is_counted_and_the_next_one_goes() -> None:
    door = UdpDoor(UdpSink("127.0.0.1", 9), now=0.0)
    door.await_address()

    refused = door.send(bytes(70_000), now=0.0)
    error = door.error
    accepted = door.send(b"x", now=0.0)

    door.close()
    assert (refused, accepted) == (False, True)
    assert error == "Message too long"
    assert door.dropped == 1


def test_a_lost_source_is_logged_without_the_pipeline_which_the_process_is_named_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(str(tmp_path), now=0.0, changed=Wakeup())
    buffer = FrameBuffer(1, waits=True, wakeup=Wakeup())
    reader = Reader(SourceSpec(str(tmp_path)), position=0, buffer=buffer, ledger=ledger)

    reader.start()
    wait_for(lambda: caplog.records, "a line in the log")
    reader.stop(5.0)

    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path} is a directory, expected a video file; retrying in ")
