"""The whole agent as a process, with a real broker and honest children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic, split
from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_core.protocol.requests import Changed, ChangePipeline
from streamfleet_core.protocol.values import DesiredStatus, from_plain
from tests.fakes.children import PICTURE
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Worker, wait_for

LEASE = 8.0  # seconds from a heartbeat that the broker confirmed, after which what may move emits no more


@pytest.fixture
def worker(folder: Path, broker: Broker) -> Iterator[Worker]:
    """A device that is ready."""
    worker = Worker(folder, "w", "--join", broker.token("cam-1"))
    worker.lay_model()
    worker.start()
    try:
        wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
        yield worker
    finally:
        worker.kill()
        wait_for(lambda: not worker.family(), "no process is left")


def change(broker: Broker, pipeline_id: str, desired_status: DesiredStatus) -> Changed:
    return from_plain(broker.ask(ChangePipeline(pipeline_id, desired_status, int(PATIENCE * 1000))), Changed)


def until(receive: Callable[..., Any], wanted: Callable[[Any], bool], what: str) -> Any:
    """The first document that is wanted, of those that come in time."""
    deadline = time.monotonic() + PATIENCE
    document = None
    while time.monotonic() < deadline:
        document = receive()
        if document is not None and wanted(document):
            return document
    raise AssertionError(f"not within {PATIENCE} s: {what}; the last was {document}")


def times_of_all(receive: Callable[..., Any]) -> list[float]:
    """When what has come was emitted."""
    times = []
    while (document := receive(0.5)) is not None:
        times.append(document["at"])
    return times


def device_number(worker: Worker, pipeline_id: str) -> int:
    """The number of the device in the header of the next prediction."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.linger = 0
        sub.subscribe(pipeline_topic(Kind.PRED, pipeline_id))
        sub.connect(f"ipc://{worker.data}/run/predictions.ipc")
        assert sub.poll(PATIENCE * 1000)
        _, header, _ = split(sub.recv_multipart())
        return header.device


def restarted(broker: Broker, pipeline_id: str, restarts: int) -> bool:
    view = broker.pipelines()[pipeline_id]
    return view.status == "running" and view.restarts >= restarts


def test_a_pipeline_runs_pauses_resumes_and_stops_and_each_is_confirmed(
    broker: Broker, worker: Worker
) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")

    answers = [change(broker, "door", desired_status) for desired_status in ("pause", "run", "stop")]

    assert [answer.confirmed for answer in answers] == [True, True, True]
    assert broker.pipelines() == {}
    assert worker.children("camera") == []


def test_a_data_directory_may_have_any_letters(folder: Path, broker: Broker) -> None:
    worker = Worker(folder, "Prüfstand 検", "--join", broker.token("cam-1"))
    worker.lay_model()
    worker.start()
    try:
        wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
        broker.create("door", "rtsp://h/door")
        broker.await_status("door", "running")
        with worker.subscribed(b"v1/pred/") as receive:
            assert receive()["frame_id"]
    finally:
        worker.kill()


def test_a_paused_pipeline_emits_nothing_and_goes_on_in_the_same_process(
    broker: Broker, worker: Worker
) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")
    (camera,) = worker.children("camera")
    with worker.subscribed(b"v1/") as receive:
        until(receive, lambda d: d.get("gen") == 1, "a prediction")
        change(broker, "door", "pause")
        paused_at = time.time()
        late = until(receive, lambda d: d.get("state") == "paused", "paused status")
        change(broker, "door", "run")
        first = until(receive, lambda d: d.get("frame_id") and d["at"] > paused_at, "a prediction")

    assert late["report"]["inference_throughput"] == 20.0
    assert (first["gen"], first["inc"]) == (3, 1)
    assert worker.children("camera") == [camera]


def is_well(document: dict[str, Any]) -> bool:
    """Of a device: it is in contact, and its engine is there, for which its camera does not wait."""
    return document.get("session") == "ready" and [one["state"] for one in document["engines"]] == ["ready"]


def test_status_comes_every_second_of_each_pipeline_and_of_the_device(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://u:secret@h/door")
    broker.await_status("door", "running")

    with worker.subscribed(b"v1/stat/") as receive:
        device = until(receive, is_well, "status of a device that has all it needs")
        pipeline = until(receive, lambda d: d.get("fps") == 20.0, "status of the pipeline")
        again = until(receive, lambda d: d.get("pipeline_id") == "door", "status again")

    assert (pipeline["pipeline_id"], pipeline["state"], pipeline["incarnation"]) == ("door", "running", 1)
    assert pipeline["sources"][0]["reference"] == "rtsp://h/door"
    assert (device["device"], device["pipelines"], len(device["engines"])) == ("cam-1", 1, 1)
    assert again["at"] - pipeline["at"] > 0.5


def test_a_killed_camera_runs_again_and_the_others_never_noticed(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.create("gate", "rtsp://h/gate")
    broker.await_status("door", "running")
    broker.await_status("gate", "running")

    for count in range(1, 5):
        os.kill(worker.children("camera door")[0], signal.SIGKILL)
        wait_for(lambda count=count: restarted(broker, "door", count), "running again")  # type: ignore[misc]

    assert broker.pipelines()["gate"].restarts == 0


def test_a_path_of_thousands_of_letters_holds_up_neither_heartbeats_nor_commands(
    broker: Broker, worker: Worker
) -> None:
    broker.create("long", f"/videos/missing{'a' * 4000}", device="cam-1")
    broker.create("door", "rtsp://h/door", device="cam-1")
    broker.await_status("long", "running")

    with worker.subscribed(b"v1/stat/long/") as receive:
        document = until(receive, lambda d: d["reason"].startswith("there is no"), "a reason")
    answers = [change(broker, "door", desired_status) for desired_status in ("pause", "run") * 3]

    assert document["reason"].startswith("there is no file /videos/missing")
    assert len(document["reason"].encode()) <= MAX_REASON
    assert all(answer.confirmed for answer in answers)
    wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")


def test_a_camera_that_segfaults_is_named_as_such(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/crash")

    view = broker.await_status("door", "backoff")

    assert view.reason == "the camera process was ended by SIGSEGV"


def test_a_stopped_camera_is_killed_and_runs_again(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")

    os.kill(worker.children("camera")[0], signal.SIGSTOP)

    wait_for(lambda: restarted(broker, "door", 1), "running again")


def test_killed_engines_and_publishers_come_back(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")  # of a camera that needs neither of them to run
    [engine] = wait_for(lambda: worker.children("engine"), "an engine")
    [publisher] = wait_for(lambda: worker.children("publisher"), "a publisher")

    os.kill(engine, signal.SIGKILL)
    os.kill(publisher, signal.SIGKILL)

    wait_for(lambda: worker.children("engine") not in ([], [engine]), "another engine")
    wait_for(lambda: worker.children("publisher") not in ([], [publisher]), "another publisher")
    with worker.subscribed(b"v1/pred/") as receive:
        assert receive() is not None
    assert broker.pipelines()["door"].restarts == 0


def test_a_camera_that_does_not_hear_the_stop_is_stopped_too(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/deaf")
    broker.await_status("door", "running")

    answer = change(broker, "door", "stop")

    assert answer.confirmed
    assert worker.children("camera") == []


@contextmanager
def looking_at(broker: Broker, pipeline_id: str) -> Iterator[zmq.Socket]:
    """Somebody on the broker's host who looks at a pipeline's pictures."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.linger = 0
        sub.subscribe(pipeline_topic(Kind.IMG, pipeline_id))
        sub.connect(f"ipc://{broker.data}/pictures.ipc")
        yield sub


def pictures_made(receive: Callable[..., Any]) -> int:
    """Of the only pipeline, as its next status says; one from before its camera reported may come still."""
    return int(until(receive, lambda d: d["dropped"], "what a camera says")["dropped"]["pictures"])


def test_pictures_are_made_only_while_somebody_looks_wherever_that_is(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")

    with worker.subscribed(b"v1/stat/door/") as receive:
        unwatched = [pictures_made(receive), pictures_made(receive)]
        with looking_at(broker, "gate"), looking_at(broker, "door") as sub:
            assert sub.poll(PATIENCE * 1000)
            topic, header, body = sub.recv_multipart()
        wait_for(lambda: pictures_made(receive) == pictures_made(receive) > 0, "no more pictures")

    assert unwatched == [0, 0]
    assert (topic, body) == (b"v1/img/door/", PICTURE)
    assert DataHeader.unpack(header).kind is Kind.IMG


def test_who_looks_goes_on_looking_when_camera_publisher_or_broker_were_killed(
    broker: Broker, worker: Worker
) -> None:
    broker.create("door", "rtsp://h/door", device="cam-1")
    broker.await_status("door", "running")

    with looking_at(broker, "door") as sub:
        for victim in ("camera", "publisher"):
            assert sub.poll(PATIENCE * 1000)
            os.kill(worker.children(victim)[0], signal.SIGKILL)
            wait_for(lambda: not sub.poll(0) or not sub.recv_multipart(), "all was read")
        assert sub.poll(PATIENCE * 1000)
        broker.kill()
        with worker.subscribed(b"v1/stat/door/") as receive:
            wait_for(lambda: pictures_made(receive) == pictures_made(receive), "nobody looks any more")
        while sub.poll(0):
            sub.recv_multipart()
        broker.start()

        assert sub.poll(PATIENCE * 1000)


def test_a_file_ends_once_whatever_is_killed_afterwards(broker: Broker, worker: Worker) -> None:
    broker.create("film", "/films/a.mp4", device="cam-1")
    broker.await_status("film", "ended")

    worker.kill()
    worker.start()
    broker.await_status("film", "ended")
    with worker.subscribed(b"v1/stat/film/") as receive:
        document = until(receive, lambda d: d["state"] == "ended", "ended")

    assert document["incarnation"] == 1
    assert worker.children("camera") == []


def test_after_a_kill_the_agent_and_its_pipelines_are_back(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door", device="cam-1")
    broker.await_status("door", "running")
    before = set(worker.family())

    worker.kill()
    wait_for(lambda: not before & set(worker.family()), "children died with it")
    worker.start()
    with worker.subscribed(b"v1/pred/") as receive:
        document = until(receive, lambda d: d["inc"] == 2, "a prediction of the next incarnation")

    assert document["gen"] == 1


def test_a_killed_agent_leaves_nothing_outside_its_data_directory(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")
    worker.kill()
    wait_for(lambda: not worker.family(), "no process is left")
    left = list(worker.temporary.iterdir())
    worker.start()
    wait_for(lambda: worker.children("camera"), "the camera is back")

    assert left == []
    assert len(list((worker.data / "run/tmp").iterdir())) == 1


def test_a_killed_agent_leaves_nobody_though_a_child_is_stopped(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")
    os.kill(worker.children("camera")[0], signal.SIGSTOP)

    worker.kill()

    wait_for(lambda: not worker.family(), "no process is left")


def test_a_broker_that_is_back_soon_finds_everything_running(broker: Broker, worker: Worker) -> None:
    broker.create("movable", "rtsp://h/door")
    broker.create("pinned", "rtsp://h/gate", device="cam-1")
    broker.await_status("movable", "running")
    broker.await_status("pinned", "running")
    before = {name: worker.children(f"camera {name}") for name in ("movable", "pinned")}

    broker.kill()
    broker.start()
    wait_for(lambda: broker.device("cam-1").state == "ready", "ready again")

    assert worker.children("camera pinned") == before["pinned"]
    # A machine that stood still may have taken longer than the lease lasts, and then it says so.
    if "out of contact" not in worker.log.read_text():
        assert worker.children("camera movable") == before["movable"]
    assert change(broker, "pinned", "pause").confirmed


def until_in_contact(broker: Broker) -> None:
    """Until a heartbeat has just arrived, wherever this machine stood still before."""

    def is_heard() -> bool:
        silent = broker.device("cam-1").silent
        return silent is not None and silent < 0.5

    wait_for(is_heard, "a heartbeat")


def test_without_a_broker_movable_pipelines_fall_silent_and_pinned_ones_go_on(
    broker: Broker, worker: Worker
) -> None:
    broker.create("movable", "rtsp://h/door")
    broker.create("pinned", "rtsp://h/gate", device="cam-1")
    broker.await_status("movable", "running")
    broker.await_status("pinned", "running")
    with worker.subscribed(b"v1/pred/movable/") as receive:
        assert receive() is not None

        until_in_contact(broker)
        began = time.time()
        broker.kill()
        ended = time.time()
        wait_for(lambda: not worker.children("camera movable"), "its process stopped")
        last = max(times_of_all(receive))

    # Its lease began with the last heartbeat that the broker confirmed, at most a second and a stall before.
    assert began + 3 < last < ended + LEASE + 0.2
    assert worker.children("camera pinned")
    broker.start()
    broker.await_status("movable", "running")
    assert broker.pipelines()["pinned"].restarts == 0


def test_after_a_power_failure_without_a_broker_pinned_pipelines_run(broker: Broker, worker: Worker) -> None:
    broker.create("movable", "rtsp://h/door")
    broker.create("pinned", "rtsp://h/gate", device="cam-1")
    broker.await_status("movable", "running")
    broker.await_status("pinned", "running")

    before, number = set(worker.family()), device_number(worker, "pinned")

    broker.kill()
    worker.kill()
    wait_for(lambda: not before & set(worker.family()), "children died with it")
    worker.start()
    wait_for(lambda: worker.children("camera pinned"), "it runs without the broker")
    assert device_number(worker, "pinned") == number > 0
    movable = worker.children("camera movable")
    process = worker.children("camera pinned")
    broker.start()
    broker.await_status("movable", "running")

    assert not movable
    assert worker.children("camera pinned") == process  # no restart when the broker is back


def test_a_stopped_agent_emits_nothing_after_its_lease_and_heals(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/door")
    broker.await_status("door", "running")
    with worker.subscribed(b"v1/pred/door/") as receive:
        assert receive() is not None

        until_in_contact(broker)
        began = time.time()
        worker.send(signal.SIGSTOP)
        ended = time.time()
        times = [began]
        while time.time() < ended + LEASE + 1:  # by then its camera would have emitted more
            times += times_of_all(receive)
        worker.send(signal.SIGCONT)

    assert began + 3 < max(times) < ended + LEASE + 0.2
    wait_for(lambda: broker.device("cam-1").state == "ready", "ready again")
    broker.await_status("door", "running")


def test_sigterm_ends_everything_in_order_whoever_does_not_hear_it(broker: Broker, worker: Worker) -> None:
    broker.create("door", "rtsp://h/deaf")
    broker.await_status("door", "running")

    worker.send(signal.SIGTERM)

    assert worker.wait(PATIENCE) == 0
    wait_for(lambda: not worker.family(), "no process is left")
    wait_for(lambda: broker.device("cam-1").state == "left", "its goodbye came")


def test_a_second_worker_on_the_same_directory_is_refused(worker: Worker) -> None:
    second = subprocess.run(worker.command, capture_output=True, text=True, timeout=PATIENCE)

    assert second.returncode == 1
    assert second.stderr == f"streamfleet-worker: --data-dir {worker.data}: another worker is running on it\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "expected the identity of a device, got none: start once with --join TOKEN"),
        (["--join=sf1.AAAA"], "not a join token"),
        (["--capacity=x"], "--capacity: expected a whole number"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_one(folder: Path, options: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "streamfleet_worker", f"--data-dir={folder}/w", *options]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    assert ended.returncode == 1
    assert expected in ended.stderr
    assert ended.stderr.count("\n") == 1
