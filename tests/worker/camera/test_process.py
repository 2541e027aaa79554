"""A camera process with a real engine, files and sockets: what leaves it, whatever is done to it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import cv2
import msgpack
import numpy as np
import pytest
import zmq

from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind
from streamfleet_core.protocol.values import Manifest, SourceSpec, UdpSink
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import CameraReport
from streamfleet_worker.ipc.handover.packet import Message
from streamfleet_worker.video.synthetic.test_pattern import FPS, LABELS, draw, truth
from tests.fakes.fake_publisher import FakePublisher, fake_publisher
from tests.fakes.models import manifest_of, write_constant_model, write_slow_model, write_squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import ProcessHarness, is_camera, until_ended, wait_for, write_video


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of boxes (n, 4) row by row."""
    corner, opposite = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    common = np.prod(np.clip(opposite - corner, 0, None), axis=1)
    sizes = np.prod(one[:, 2:] - one[:, :2], axis=1) + np.prod(other[:, 2:] - other[:, :2], axis=1)
    return common / (sizes - common)


# files


def test_every_frame_of_a_file_is_emitted_once_and_in_order(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 300)))

    report = until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 301))
    assert [metadata["seq"] for metadata in stand.receiver.metadata] == list(range(300))
    assert report.emitted == 300
    assert report.sources[0].received == report.sources[0].inferred == 300
    assert report.sources[0].dropped == {}
    assert report.report["sources_metadata"][0]["state"] == "ENDED"
    assert camera.stop() == 0


def test_a_datagram_is_the_originals_with_our_keys_inside_its_metadata(
    stand: ProcessHarness, quick: Manifest
) -> None:
    before = time.time()
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 1)), generation=5, incarnation=3)

    until_ended(camera)

    (document,) = stand.receiver.documents
    (prediction,) = document["predictions"]
    metadata = document["inference_metadata"]
    assert list(document) == ["image", "predictions", "inference_metadata"]
    assert document["image"] == {"width": 64, "height": 48}
    # 64 x 48 lies in the middle of 64 x 64, so the box at (32, 32) is at (32, 24).
    assert {key: prediction[key] for key in ("x", "y", "width", "height", "class", "class_id")} == {
        "x": 32.0,
        "y": 24.0,
        "width": 16.0,
        "height": 8.0,
        "class": "red",
        "class_id": 0,
    }
    assert prediction["confidence"] == pytest.approx(0.9)
    assert {key: value for key, value in metadata.items() if not key.endswith("_time")} == {
        "source_id": 0,
        "frame_id": 1,
        "pipeline_id": "pipeline-1",
        "device": "device-1",
        "gen": 5,
        "inc": 3,
        "seq": 0,
    }
    for key in ("frame_decoding_time", "emission_time"):
        at = time.mktime(time.strptime(metadata[key][:19], "%Y-%m-%dT%H:%M:%S"))
        assert before - 1 <= at <= time.time()


def test_the_publisher_gets_the_same_object_under_the_pipelines_topic(
    stand: ProcessHarness, quick: Manifest
) -> None:
    with fake_publisher(stand.intake_path) as publisher:
        camera = stand.camera(
            quick, str(write_video(stand.folder / "film.avi", 20)), generation=4, incarnation=9
        )

        until_ended(camera)
        came = messages_until(publisher, b"v1/last/pipeline-1/", (4, 9, 19))

    assert not any(message.fenced for message in came)
    messages = [message for message in came if message.topic == b"v1/pred/pipeline-1/"]
    headers = [DataHeader.unpack(header) for _, _, header, _ in messages]
    assert [header.key for header in headers] == [(4, 9, seq) for seq in range(20)]
    assert {(header.kind, header.device, header.flags) for header in headers} == {(Kind.PRED, 7, Flag.NONE)}
    assert all(abs(header.captured_wall_ns / 1e9 - time.time()) < 60 for header in headers)
    assert [msgpack.unpackb(body) for *_, body in messages] == stand.receiver.documents


def test_the_last_prediction_is_sent_again_each_second_also_in_a_pause(
    stand: ProcessHarness, quick: Manifest
) -> None:
    with fake_publisher(stand.intake_path) as publisher:
        film = str(write_video(stand.folder / "film.avi", 1000))
        camera = stand.camera(quick, film, generation=4, incarnation=0, max_fps=20)
        wait_for("some frames", lambda: len(stand.receiver.datagrams) > 20)
        camera.change(5, "pause")
        camera.until("it is paused", lambda report: is_camera(report, "paused"))
        stand.receiver.settle()
        key = (4, 0, len(stand.receiver.datagrams) - 1)
        came = messages_until(publisher, b"v1/last/pipeline-1/", key)
        again = messages_until(publisher, b"v1/last/pipeline-1/", key)

    (last,) = [
        body for _, topic, header, body in came if topic.startswith(b"v1/pred/") and key_of(header) == key
    ]
    assert [(DataHeader.unpack(header).kind, body) for _, _, header, body in again] == [(Kind.LAST, last)]


def test_what_was_kept_comes_when_there_is_a_publisher_though_no_frame_follows(
    stand: ProcessHarness, quick: Manifest
) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 1000)), max_fps=100)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) > 20)
    camera.change(2, "pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    stand.receiver.settle()
    count = len(stand.receiver.datagrams)

    with fake_publisher(stand.intake_path) as publisher:
        came = messages_until(publisher, b"v1/pred/pipeline-1/", (1, 1, min(count, 60) - 1))

    predictions = [key_of(one.header)[2] for one in came if one.topic == b"v1/pred/pipeline-1/"]
    assert predictions == list(range(min(count, 60)))


def key_of(header: bytes) -> tuple[int, int, int]:
    """The order key of a message."""
    return DataHeader.unpack(header).key


def messages_until(publisher: FakePublisher, topic: bytes, key: tuple[int, int, int]) -> list[Message]:
    """What comes, with the first message of this topic and key as the last."""
    messages: list[Message] = []
    while not messages or (messages[-1].topic, key_of(messages[-1].header)) != (topic, key):
        assert publisher.poll(int(PATIENCE * 1000)), f"{topic!r} {key} did not come"
        messages.append(publisher.receive())
    return messages


def test_a_paused_file_emits_nothing_and_goes_on_without_a_gap(
    stand: ProcessHarness, quick: Manifest
) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 300)), max_fps=25)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) > 20)

    camera.change(2, "pause")
    paused = camera.until("it is paused", lambda report: is_camera(report, "paused"))
    stand.receiver.settle()
    before = len(stand.receiver.datagrams)
    reports = len(camera.reports)
    wait_for("two more reports", lambda: len(camera.reports) >= reports + 2)
    after = len(stand.receiver.datagrams)
    camera.change(3, max_fps=None)
    until_ended(camera)

    assert paused.emitted == before == after
    assert paused.report["sources_metadata"][0]["state"] == "PAUSED"
    assert stand.receiver.frame_ids == list(range(1, 301))
    keys = [(one["gen"], one["inc"], one["seq"]) for one in stand.receiver.metadata]
    assert keys == sorted(set(keys))
    assert {generation for generation, *_ in keys} == {1, 3}


def test_neither_a_camera_nor_the_publisher_interrupts_an_inference(
    stand: ProcessHarness, quick: Manifest
) -> None:
    children = [stand.camera(quick, "TestPatternStreamProducer"), stand.publisher()]
    for child in children:
        child.until("a first report", lambda report: True)

    found = [os.sched_getscheduler(child.process.pid or 0) for child in children]

    assert found == [os.SCHED_BATCH, os.SCHED_BATCH]


def test_a_camera_may_begin_in_a_pause(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 30)), desired_status="pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    wait_for("two more reports", lambda: len(camera.reports) >= 3)

    assert stand.receiver.datagrams == []
    camera.change(1)
    until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 31))


def test_a_pace_slows_a_file_and_loses_none_of_it(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 40)), max_fps=40)

    until_ended(camera)

    first, *_, last = [datetime.fromisoformat(one["emission_time"]) for one in stand.receiver.metadata]
    assert (last - first).total_seconds() > 0.5  # 0.98, less what held the first one up
    assert stand.receiver.frame_ids == list(range(1, 41))


def test_a_camera_that_is_killed_goes_on_after_its_last_frame(stand: ProcessHarness, quick: Manifest) -> None:
    film = str(write_video(stand.folder / "film.avi", 300))
    camera = stand.camera(quick, film, max_fps=200)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) > 50)

    camera.kill()
    again = stand.camera(quick, film, incarnation=2)
    until_ended(again)

    # The frame that was sent and not yet noted may come twice; none is missing.
    ids = stand.receiver.frame_ids
    assert sorted(set(ids)) == list(range(1, 301))
    assert len(ids) <= 301
    keys = [(one["gen"], one["inc"], one["seq"]) for one in stand.receiver.metadata]
    assert keys == sorted(set(keys))


def test_a_file_that_had_ended_has_still_ended_after_a_restart(
    stand: ProcessHarness, quick: Manifest
) -> None:
    film = str(write_video(stand.folder / "film.avi", 10))
    until_ended(stand.camera(quick, film))

    until_ended(stand.camera(quick, film, incarnation=2))

    assert stand.receiver.frame_ids == list(range(1, 11))


def test_an_engine_that_is_killed_costs_a_file_no_frame(stand: ProcessHarness) -> None:
    path = stand.folder / "slow.onnx"
    manifest = write_slow_model(path, rounds=15)
    engine = stand.engine(path, manifest)
    film = str(write_video(stand.folder / "film.avi", 400))
    camera = stand.camera(manifest, film, max_fps=40)  # eight seconds left after the second one is killed

    for count in (40, 80):
        stand.receiver.until(count)
        engine.kill()
        camera.until("it waits for the engine", lambda report: report.waiting_for_engine)
        engine = stand.engine(path, manifest)
    camera.change(2, max_fps=None)
    until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 401))


def test_a_camera_waits_for_an_engine_that_is_not_there_yet(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path)
    camera = stand.camera(manifest, str(write_video(stand.folder / "film.avi", 20)))

    report = camera.until("it waits", lambda report: report.waiting_for_engine)
    stand.engine(path, manifest)
    until_ended(camera)

    assert report.state.value == "starting"
    assert stand.receiver.frame_ids == list(range(1, 21))


@pytest.mark.parametrize(
    ("name", "state"), [("none.avi", "reconnecting"), ("letter.txt", "failed"), (".", "failed")]
)
def test_a_file_that_cannot_be_played_is_reported_and_tried_again(
    stand: ProcessHarness, quick: Manifest, name: str, state: str
) -> None:
    (stand.folder / "letter.txt").write_text("Dear reader,\n" * 50)
    path = stand.folder / name

    camera = stand.camera(quick, str(path))
    report = camera.until("it was tried", lambda report: report.sources[0].attempts >= 3)

    assert report.state.value == state
    assert str(path) in report.reason
    assert report.report["sources_metadata"][0]["state"] in ("ERROR", "RESTARTING", "INITIALISING")
    assert camera.stop() == 0


def test_a_file_that_comes_later_is_played(stand: ProcessHarness, quick: Manifest) -> None:
    path = stand.folder / "film.avi"
    camera = stand.camera(quick, str(path))
    camera.until("it is missing", lambda report: is_camera(report, "reconnecting"))

    write_video(stand.folder / "made.avi", 10).rename(path)
    report = until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 11))
    assert report.reason == ""


# live sources


def two_seconds(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last frames, which are so many and came evenly. Empty: there are not that many yet.

    Where this machine stood still the squares did too, and the tracker has looked for them where they would
    have been by then.
    """
    times = [datetime.fromisoformat(one["inference_metadata"]["frame_decoding_time"]) for one in documents]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    begin = max((number for number, gap in enumerate(gaps, 1) if gap > 2.5 / FPS), default=0)
    return documents[begin:] if len(documents) - begin >= 2 * FPS else []


def test_the_squares_of_the_test_pattern_are_found_and_followed(
    stand: ProcessHarness, squares: Manifest
) -> None:
    # None is dropped, whatever holds the machine up: the tracker would lose the squares.
    source = SourceSpec("TestPatternStreamProducer", filling="WAIT", consumption="LAZY")
    camera = stand.camera(squares, [source], tracker="bytetrack")
    in_step = wait_for("two seconds of it", lambda: two_seconds(stand.receiver.documents))
    camera.until(
        "it runs at its rate",
        lambda report: is_camera(report, "running") and FPS / 2 < report.fps < FPS * 1.5,
    )

    for document in stand.receiver.documents:
        predictions = sorted(document["predictions"], key=lambda one: one["class_id"])
        boxes = np.array([[one[key] for key in ("x", "y", "width", "height")] for one in predictions])
        corners = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
        assert [one["class"] for one in predictions] == list(LABELS)
        assert iou(corners, truth(document["inference_metadata"]["frame_id"])).min() > 0.7
    names = [{one["class"]: one["tracker_id"] for one in document["predictions"]} for document in in_step]
    assert all(of_frame == names[0] for of_frame in names)
    assert len(set(names[0].values())) == 3


def test_a_muted_live_source_goes_on_and_emits_nothing(stand: ProcessHarness, squares: Manifest) -> None:
    camera = stand.camera(squares, "TestPatternStreamProducer")
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 3)

    camera.change(2, "pause")
    paused = camera.until("it is paused", lambda report: is_camera(report, "paused"))
    muted = camera.until("frames are dropped", lambda report: report.sources[0].dropped.get("muted", 0) >= 5)
    before = stand.receiver.frame_ids
    camera.change(3)
    wait_for("more frames", lambda: len(stand.receiver.datagrams) >= len(before) + 3)

    assert len(before) == paused.emitted == muted.emitted
    assert muted.report["sources_metadata"][0]["state"] == "MUTED"
    assert stand.receiver.frame_ids[len(before)] > before[-1] + 4
    assert camera.stop() == 0


def test_a_live_source_that_goes_on_after_a_pause_shows_nothing_from_before(stand: ProcessHarness) -> None:
    path = stand.folder / "slow.onnx"
    manifest = write_slow_model(path, rounds=1500)  # a frame is under way for longer than the pause lasts
    stand.engine(path, manifest, threads=1)
    camera = stand.camera(manifest, "TestPatternStreamProducer")

    resumed = {}
    for generation in range(2, 8, 2):
        stand.receiver.settle()
        stand.receiver.until(len(stand.receiver.datagrams) + 1)
        camera.change(generation, "pause")
        camera.until("it is paused", lambda report: is_camera(report, "paused"))
        resumed[generation + 1] = datetime.now()
        camera.change(generation + 1)
        camera.until("it runs", lambda report: is_camera(report, "running"))
    wait_for(
        "a prediction of the last",
        lambda: stand.receiver.metadata[-1]["gen"] == 7,
    )

    firsts = {one["gen"]: one["frame_decoding_time"] for one in reversed(stand.receiver.metadata)}
    assert set(resumed) <= set(firsts)
    for generation, at in resumed.items():
        assert datetime.fromisoformat(firsts[generation]) >= at


def test_a_live_source_is_thinned_to_its_pace(stand: ProcessHarness, squares: Manifest) -> None:
    camera = stand.camera(squares, "TestPatternStreamProducer", max_fps=4)

    def is_thinned(report: CameraReport) -> bool:
        """In the last two seconds; where this machine stood still, in later ones."""
        source = report.sources[0]
        earlier = [
            one.sources[0] for one in camera.reports if one.sources[0].received <= source.received - 20
        ]
        if not earlier:
            return False
        received = source.received - earlier[-1].received
        emitted = source.emitted - earlier[-1].emitted
        thinned = source.dropped.get("max_fps", 0) - earlier[-1].dropped.get("max_fps", 0)
        return abs(emitted - received * 4 / FPS) <= 3 and abs(thinned - received * 0.6) <= 4

    camera.until("it is thinned", is_thinned)


def test_a_live_source_that_is_too_fast_loses_its_oldest_frames(stand: ProcessHarness) -> None:
    path = stand.folder / "slow.onnx"
    manifest = write_slow_model(path, rounds=1500)
    stand.engine(path, manifest, threads=1)

    camera = stand.camera(manifest, "TestPatternStreamProducer")
    report = camera.until("some were dropped", lambda report: report.sources[0].dropped.get("buffer", 0) >= 3)

    ids = stand.receiver.frame_ids
    assert ids == sorted(set(ids))
    assert report.sources[0].received >= report.emitted + 3


def test_a_live_source_goes_on_counting_after_a_restart(stand: ProcessHarness, squares: Manifest) -> None:
    # None is dropped, whatever holds the machine up.
    source = SourceSpec("TestPatternStreamProducer", filling="WAIT", consumption="LAZY")
    camera = stand.camera(squares, [source])
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 3)
    camera.kill()
    before = stand.receiver.frame_ids

    stand.camera(squares, [source], incarnation=2)
    wait_for("more frames", lambda: len(stand.receiver.datagrams) >= len(before) + 3)

    ids = stand.receiver.frame_ids
    assert ids == sorted(set(ids))
    assert ids[len(before)] <= before[-1] + 2


def test_an_engine_that_is_killed_costs_a_live_source_only_what_came_meanwhile(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path)
    engine = stand.engine(path, manifest)
    camera = stand.camera(manifest, "TestPatternStreamProducer")
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 3)

    engine.kill()
    camera.until("it waits", lambda report: report.waiting_for_engine)
    before = len(stand.receiver.datagrams)
    stand.engine(path, manifest)
    wait_for("more frames", lambda: len(stand.receiver.datagrams) >= before + 3)

    ids = stand.receiver.frame_ids
    assert ids == sorted(set(ids))
    report = camera.until("it runs", lambda report: not report.waiting_for_engine)
    assert report.state.value == "running"


class MovieServer:
    """A camera with an address: MJPEG over HTTP, for as long as it is let."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self.on = threading.Event()
        self.on.set()
        self._closing = False
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        while not self._closing:
            try:
                link, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._play, args=(link,))
            thread.start()
            self._threads.append(thread)

    def _play(self, link: socket.socket) -> None:
        with link:
            link.settimeout(PATIENCE)
            try:
                link.recv(4096)
                while not self.on.wait(0.1) and not self._closing:
                    continue  # who asks meanwhile is told nothing that would be another reason
                link.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n")
                frame_id = 0
                while self.on.is_set() and not self._closing:
                    frame_id += 1
                    _, jpeg = cv2.imencode(".jpg", draw(frame_id)[::8, ::8])
                    head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    link.sendall(head + jpeg.tobytes() + b"\r\n")
                    time.sleep(0.03)
            except OSError:
                return

    def close(self) -> None:
        self._closing = True
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture
def movie() -> Iterator[MovieServer]:
    server = MovieServer()
    yield server
    server.close()


def test_a_stream_that_breaks_is_taken_up_again(
    stand: ProcessHarness, quick: Manifest, movie: MovieServer
) -> None:
    url = f"http://canary:canary@127.0.0.1:{movie.port}/live.mjpg?canary=canary"
    camera = stand.camera(quick, url)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 5)

    movie.on.clear()
    lost = camera.until("it is lost", lambda report: is_camera(report, "reconnecting"))
    movie.on.set()
    camera.until("it is back", lambda report: is_camera(report, "running"))
    before = len(stand.receiver.datagrams)
    wait_for("more frames", lambda: len(stand.receiver.datagrams) >= before + 5)

    shown = f"http://127.0.0.1:{movie.port}/live.mjpg"
    assert lost.reason == f"{shown}: the stream ended"
    assert lost.sources[0].reference == shown
    ids = stand.receiver.frame_ids
    assert ids == sorted(set(ids))
    assert "canary" not in repr(camera.reports)
    assert "canary" not in repr(stand.receiver.datagrams)


def test_a_url_that_nobody_serves_is_tried_again_and_can_be_stopped(
    stand: ProcessHarness, quick: Manifest
) -> None:
    camera = stand.camera(quick, "rtsp://canary:canary@127.0.0.1:1/live")

    report = camera.until("it was tried", lambda report: report.sources[0].attempts >= 1)

    assert report.state.value == "reconnecting"
    assert report.reason.startswith("rtsp://127.0.0.1:1/live: connection refused")
    assert camera.stop() == 0


# sinks, fence, life and death


def test_a_closed_fence_stops_all_emission_at_once(stand: ProcessHarness, squares: Manifest) -> None:
    fence = stand.fence
    camera = stand.camera(squares, "TestPatternStreamProducer", fenced=True)

    camera.until("frames are fenced off", lambda report: report.sources[0].dropped.get("fenced", 0) >= 3)
    assert stand.receiver.datagrams == []
    fence.extend(boot_time() + 60)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 3)
    fence.extend(0)
    closed = time.time()
    camera.until("frames are fenced off", lambda report: report.sources[0].dropped.get("fenced", 0) >= 8)

    last = stand.receiver.metadata[-1]["emission_time"]
    assert time.mktime(time.strptime(last[:19], "%Y-%m-%dT%H:%M:%S")) <= closed + 1


def test_an_open_fence_is_not_asked_by_a_pipeline_that_stays(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 10)), fenced=False)

    until_ended(camera)

    assert len(stand.receiver.documents) == 10


def test_a_sink_that_cannot_be_reached_is_counted_and_the_others_get_all(
    stand: ProcessHarness, quick: Manifest
) -> None:
    nowhere = UdpSink("no-such-host.invalid", 9)
    film = str(write_video(stand.folder / "film.avi", 50))

    camera = stand.camera(quick, film, sinks=(nowhere, stand.receiver.sink))
    report = until_ended(camera)

    updates = report.report["video_source_status_updates"]
    errors = [one for one in updates if one["event_type"] == "INFERENCE_RESULTS_DISPATCHING_ERROR"]
    assert stand.receiver.frame_ids == list(range(1, 51))
    assert report.dropped[f"udp://{nowhere.host}:9"] == 50
    assert [error["severity"] for error in errors] == [40]


def test_thousands_of_detections_do_not_fit_and_are_cut_by_confidence(stand: ProcessHarness) -> None:
    path = stand.folder / "many.onnx"
    count = 3000
    places = np.stack([np.arange(count) % 60 * 10 + 5, np.arange(count) // 60 * 10 + 5]).astype(np.float32)
    sure = np.linspace(0.5, 1, count, dtype=np.float32)
    sizes = np.full((2, count), 8, np.float32)
    write_constant_model(path, np.vstack([places, sizes, sure, 0 * sure, 0 * sure])[None], side=640)
    manifest = manifest_of(path, width=640, height=640)
    stand.engine(path, manifest)

    with fake_publisher(stand.intake_path) as publisher:
        film = write_video(stand.folder / "film.avi", 2, size=(640, 640))
        camera = stand.camera(manifest, str(film), max_detections=count)
        report = until_ended(camera)
        body = msgpack.unpackb(publisher.receive().body)

    first, second = stand.receiver.documents
    kept = [one["confidence"] for one in first["predictions"]]
    assert len(body["predictions"]) == count
    assert first["inference_metadata"]["truncated"] == count - len(kept) > 2000
    assert min(kept) == pytest.approx(sure[-len(kept)], abs=0.001)
    assert len(second["predictions"]) == len(kept)
    assert all(len(datagram) <= 65_507 for datagram in stand.receiver.datagrams)
    assert set(report.dropped.values()) == {0}


def test_predictions_reach_subscribers_again_when_the_publisher_was_killed(
    stand: ProcessHarness, squares: Manifest
) -> None:
    publisher = stand.publisher()
    stand.camera(squares, "TestPatternStreamProducer")

    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.linger = 0
        sub.subscribe(b"v1/pred/pipeline-1/")
        sub.connect(stand.local_endpoint)
        assert sub.poll(PATIENCE * 1000)
        publisher.kill()
        while sub.poll(200):
            before = DataHeader.unpack(sub.recv_multipart()[1])
        stand.publisher()
        assert sub.poll(PATIENCE * 1000)
        _, header, body = sub.recv_multipart()

    assert DataHeader.unpack(header).key > before.key
    assert len(msgpack.unpackb(body)["predictions"]) == 3


def test_a_film_that_is_cut_short_ends_where_it_was_cut(stand: ProcessHarness, quick: Manifest) -> None:
    whole = write_video(stand.folder / "whole.avi", 100)
    cut = stand.folder / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    until_ended(stand.camera(quick, str(cut)))

    ids = stand.receiver.frame_ids
    assert 20 < len(ids) < 80
    assert ids == list(range(1, len(ids) + 1))


def test_it_says_how_it_is_while_its_source_and_engine_hang(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        camera = stand.camera(manifest, f"http://127.0.0.1:{silent.getsockname()[1]}/live")

        wait_for("three reports", lambda: len(camera.reports) >= 3)

        # The third one came before the source was given up.
        assert (camera.reports[2].state.value, camera.reports[2].sources[0].attempts) == ("starting", 0)
        assert camera.stop() == 0


def test_it_ends_when_the_agent_is_gone(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, "TestPatternStreamProducer")
    camera.until("it runs", lambda report: is_camera(report, "running"))

    assert camera.hang_up() == 0
