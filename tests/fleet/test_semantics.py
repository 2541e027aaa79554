"""What pause, resume and terminate mean, and what the status tells: through a whole fleet, in every state.

`STREAMFLEET_TEST_OUTAGE=15 STREAMFLEET_TEST_ROUNDS=5 pytest -s tests/fleet/test_semantics.py -k outage` is
the long run, which says how many frames the other camera kept and how long the lost one took to come back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.data_plane import DataHeader
from tests.fakes.models import write_constant_model
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import write_video
from tests.fakes.rtsp import RtspServer
from tests.fleet.harness import LIMIT, LOADING, Fleet, Subscriber, UdpReceiver, rises, wait_for

OUTAGE = float(os.environ.get("STREAMFLEET_TEST_OUTAGE", "2"))  # seconds
ROUNDS = int(os.environ.get("STREAMFLEET_TEST_ROUNDS", "1"))
HELD_UP = 20.0  # seconds; a source that is waited for may take 30 to its first picture
FPS = 15  # of a camera
LIVE = "TestPatternStreamProducer"
MANY = 3000

pytestmark = pytest.mark.timeout(LIMIT + ROUNDS * (2 * OUTAGE + 30))


class Pipeline:
    """A pipeline of several sources, as its user sees it."""

    def __init__(
        self,
        fleet: Fleet,
        udp: UdpReceiver,
        sources: list[str] | str,
        *,
        model: str = "shapes/1",
        **extra: Any,
    ) -> None:
        self._fleet = fleet
        self._udp = udp
        body = {
            "video_reference": sources,
            "model_id": model,
            "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": udp.port},
            **extra,
        }
        answer = fleet.http.post("/initialise", json=body)
        assert answer.status_code == 200, answer.text
        self.id = str(answer.json()["context"]["pipeline_id"])

    def do(self, verb: str) -> None:
        """`POST /pause`, `/resume` or `/terminate`, which must succeed."""
        answer = self._fleet.command_pipeline(verb, self.id)
        assert answer.status_code == 200, answer.text

    @property
    def report(self) -> dict[str, Any]:
        """The original's status report."""
        return self._fleet.report(self.id)

    @property
    def states(self) -> list[str]:
        """Of its sources, as the original names them."""
        return [entry["state"] for entry in self.report["sources_metadata"]]

    def hasten(self) -> None:
        """Play a film as fast as it goes from now on."""
        self._fleet.hasten(self.id)

    def until(
        self, what: str, holds: Callable[[dict[str, Any]], Any], *, timeout: float = LOADING
    ) -> dict[str, Any]:
        """The first report of which this holds."""
        found: list[dict[str, Any]] = []

        def looked() -> bool:
            found[:] = [self.report]
            return bool(holds(found[0]))

        wait_for(looked, lambda: f"{what}; {found}", timeout=timeout)
        return found[0]

    def ids(self, source_id: int = 0) -> list[int]:
        """The frames of one source of which there are predictions, as they came."""
        return [meta["frame_id"] for meta in self.metadata if meta["source_id"] == source_id]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Of all datagrams."""
        return [message["inference_metadata"] for message in list(self._udp.messages)]

    def plays(self, source_id: int = 0, *, more: int = 1, timeout: float = LOADING) -> float:
        """The seconds until so many more predictions of a source have come."""
        began, known = time.monotonic(), len(self.ids(source_id))
        wait_for(
            lambda: len(self.ids(source_id)) >= known + more,
            lambda: f"predictions of source {source_id}; {self.report}",
            timeout=timeout,
        )
        return time.monotonic() - began

    def in_order(self) -> None:
        """The order keys of all that came rise."""
        assert rises([(meta["gen"], meta["inc"], meta["seq"]) for meta in self.metadata])


@pytest.fixture
def pipeline(clean: Fleet, udp: UdpReceiver) -> Callable[..., Pipeline]:
    """Makes pipelines whose datagrams come to `udp`."""
    return lambda sources, **extra: Pipeline(clean, udp, sources, **extra)


@pytest.fixture
def film(tmp_path: Path) -> Callable[[int], str]:
    """Writes films of so many frames."""
    return lambda frames: str(write_video(tmp_path / f"film{frames}.avi", frames))


@pytest.fixture
def silent() -> Iterator[str]:
    """A source that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/live"


@dataclass(frozen=True, slots=True)
class Endless:
    """A source that answers, and whose stream never begins."""

    url: str
    links: list[socket.socket] = field(default_factory=list)  # those of FFmpeg, which hangs


@pytest.fixture
def endless() -> Iterator[Endless]:
    """One such source."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        made = Endless(f"http://127.0.0.1:{server.getsockname()[1]}/live")

        def answer() -> None:
            while True:
                link, _ = server.accept()
                made.links.append(link)
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n")

        answering = thread.submit(answer)
        yield made
        server.shutdown(socket.SHUT_RDWR)
        assert isinstance(answering.exception(timeout=PATIENCE), OSError)
        for link in made.links:
            link.close()


def emitted_after(pipeline: Pipeline, at: datetime, before: datetime) -> list[str]:
    """The emission times that lie between an answer and the next command."""
    times = [meta["emission_time"] for meta in pipeline.metadata]
    return [one for one in times if at < datetime.fromisoformat(one) < before]


def muted(report: dict[str, Any], source_id: int = 0) -> int:
    """Frames of a source that a pause kept back."""
    return int(report["sources"][source_id]["dropped"].get("muted", 0))


def has_ended(fleet: Fleet, pipeline_id: str) -> bool:
    """Whether nothing more comes of it."""
    return fleet.report(pipeline_id)["state"] == "ended"


def is_muted_beyond(count: int, report: dict[str, Any]) -> bool:
    """Whether it kept back more than so many of the first source."""
    return muted(report) > count


# pause and resume -----------------------------------------------------------------------------------------


def test_a_file_that_is_paused_midway_gives_every_frame_exactly_once(
    pipeline: Callable[..., Pipeline], film: Callable[[int], str], udp: UdpReceiver
) -> None:
    played = pipeline(film(300), max_fps=20)  # so slowly that no pause comes after its end

    pauses = []
    for seen in (10, 30, 50):
        udp.wait_for(seen)
        played.do("pause")
        paused_at = datetime.now()
        played.until("it is paused", lambda report: report["sources_metadata"][0]["state"] == "PAUSED")
        pauses.append((paused_at, datetime.now()))
        played.do("resume")
    played.hasten()
    report = played.until("its end", lambda report: report["sources_metadata"][0]["state"] == "ENDED")

    assert played.ids() == list(range(1, 301))
    assert [emitted_after(played, *pause) for pause in pauses] == [[], [], []]
    played.in_order()
    (source,) = report["sources"]
    assert {source[key] for key in ("received", "decoded", "inferred", "emitted")} == {300}
    assert source["dropped"] == {}
    changes = [
        update["payload"]["new_state"]
        for update in report["video_source_status_updates"]
        if update["event_type"] == "SOURCE_STATE_UPDATE"
    ]
    assert changes[-2:] == ["RUNNING", "ENDED"]
    assert "PAUSED" in changes


def test_a_camera_that_goes_on_after_a_pause_shows_what_is_now(
    pipeline: Callable[..., Pipeline], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    played = pipeline(LIVE)
    played.plays(more=3)

    resumed: list[float] = []  # Unix seconds
    pauses = []
    for _ in range(4):
        played.do("pause")
        paused_at = datetime.now()
        before = muted(played.report)
        played.until(
            "frames go by",
            partial(is_muted_beyond, before + 3),
        )
        known = len(firsts(subscriber, played.id))
        resumed.append(time.time())
        pauses.append((paused_at, datetime.now()))
        played.do("resume")
        played.plays(more=2)
        wait_for(partial(has_more_firsts, subscriber, played.id, known), "the first frame after the pause")

    _, *after = firsts(subscriber, played.id)
    late = [header.captured_wall_ns / 1e9 - at for header, at in zip(after, resumed, strict=True)]
    assert min(late) >= 0, "a frame from before"
    assert [emitted_after(played, *pause) for pause in pauses] == [[]] * 4
    print(f"first frame after a resume: {statistics.median(late):.3f} s median, {max(late):.3f} s at most")


def firsts(subscriber: Subscriber, pipeline_id: str) -> list[DataHeader]:
    """The first message of each generation: each pause and each end of one begins another."""
    found: dict[int, DataHeader] = {}
    for header, _ in subscriber.of(pipeline_id):
        found.setdefault(header.gen, header)
    return [found[gen] for gen in sorted(found)]


def has_more_firsts(subscriber: Subscriber, pipeline_id: str, count: int) -> bool:
    """Whether there are more generations than that."""
    return len(firsts(subscriber, pipeline_id)) > count


def test_a_file_and_a_camera_of_one_pipeline_are_each_paused_in_their_way(
    pipeline: Callable[..., Pipeline], film: Callable[[int], str]
) -> None:
    played = pipeline([film(200), LIVE], max_fps=20)  # so slowly that the film does not end before its pause
    played.plays(0, more=20)
    played.plays(1, more=3)

    played.do("pause")
    paused_at = datetime.now()
    paused = played.until("the camera goes on unseen", lambda report: muted(report, 1) >= 5)
    resumed_at = datetime.now()
    last = played.ids(1)[-1]
    played.do("resume")
    played.hasten()
    played.until("the end of the file", lambda report: report["sources_metadata"][0]["state"] == "ENDED")
    played.plays(1, more=3)

    assert [entry["state"] for entry in paused["sources_metadata"]] == ["PAUSED", "MUTED"]
    assert emitted_after(played, paused_at, resumed_at) == []
    assert played.ids(0) == list(range(1, 201))
    live = played.ids(1)
    assert live == sorted(set(live))
    assert live[live.index(last) + 1] >= last + 5
    assert played.states == ["ENDED", "RUNNING"]
    assert played.report["state"] == "running"
    played.in_order()
    played.do("terminate")


# every command in every state -----------------------------------------------------------------------------


def damage(fleet: Fleet, model_id: str) -> None:
    """Write something else over the weights that devices would fetch."""
    weights = fleet.http.get(f"/v2/models/{model_id}").json()["weights"]
    (fleet.data / "api/blobs" / weights["sha256"]).write_bytes(bytes(weights["size"]))


@pytest.fixture(scope="module")
def models(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`broken/1`, which no device gets, and `many/1`, which finds 3 000 things in every picture."""
    folder = tmp_path_factory.mktemp("models")
    labels = folder / "labels.txt"
    labels.write_text("red\ngreen\n")
    write_constant_model(folder / "broken.onnx", np.zeros((1, 6, 10)))
    fleet.add_model("broken/1", folder / "broken.onnx", "--labels", str(labels), "--family", "ultralytics")
    damage(fleet, "broken/1")
    places = np.stack([np.arange(MANY) % 60 * 10 + 5, np.arange(MANY) // 60 * 10 + 5])
    sizes, sure = np.full((2, MANY), 8), np.linspace(0.5, 1, MANY)
    output = np.vstack([places, sizes, sure, 0 * sure])[None].astype(np.float32)
    write_constant_model(folder / "many.onnx", output, side=640)
    fleet.add_model("many/1", folder / "many.onnx", "--labels", str(labels), "--family", "ultralytics")


State = Callable[[str], Pipeline]


@pytest.fixture
def in_state(
    clean: Fleet,
    models: None,
    pipeline: Callable[..., Pipeline],
    film: Callable[[int], str],
    silent: str,
    endless: Endless,
) -> Iterator[State]:
    """Makes a pipeline, and waits until it is in a state."""
    sources = {
        "ended": film(5),
        "reconnecting": "rtsp://127.0.0.1:1/live",
        "starting": silent,
        "opening": endless.url,
    }
    told = {"stuck": "running", "opening": "starting"}
    stopped: list[int] = []

    def make(state: str) -> Pipeline:
        model = "broken/1" if state == "failed" else "shapes/1"
        made = pipeline(sources.get(state, LIVE), model=model)
        if state in ("running", "paused", "stuck"):
            made.plays()
        if state == "paused":
            made.do("pause")
        made.until(state, lambda report: report["state"] == told.get(state, state))
        if state == "opening":
            wait_for(lambda: endless.links, "FFmpeg opens it")
        if state == "stuck":
            stopped.append(clean.kill("camera", signal.SIGSTOP))
        return made

    yield make
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):  # it was killed
            os.kill(pid, signal.SIGCONT)


STATES = ("starting", "running", "paused", "reconnecting", "ended", "failed")
# What the original's doors answer to a pause and to a resume, and /v2, which takes one that changes nothing.
ANSWERS = {
    "starting": ((200, 500), (200, 200)),
    "running": ((200, 500), (200, 200)),
    "paused": ((500, 200), (200, 200)),
    "reconnecting": ((200, 500), (200, 200)),
    "ended": ((500, 500), (409, 409)),
    "failed": ((500, 500), (409, 409)),
}
ORIGINALS = {"paused": "MUTED", "running": "RUNNING", "ended": "ENDED", "failed": "ERROR"}


@pytest.mark.parametrize("state", STATES)
def test_each_command_is_answered_as_its_state_allows(clean: Fleet, in_state: State, state: str) -> None:
    made = in_state(state)
    on_originals, on_ours = ANSWERS[state]

    answers = []
    for verb, undo in (("pause", "resume"), ("resume", "pause")):
        answer = clean.command_pipeline(verb, made.id)
        if answer.status_code == 200:
            made.do(undo)
        answers.append(answer)
    ours = [clean.http.post(f"/v2/pipelines/{made.id}/{verb}") for verb in ("pause", "resume")]

    assert tuple(answer.status_code for answer in answers) == on_originals
    assert tuple(answer.status_code for answer in ours) == on_ours
    for verb, answer in zip(("MUTE", "RESUME"), answers, strict=True):
        if answer.status_code != 200:
            message = answer.json()["message"]
            assert "Error type: operation_error" in message
            assert f"Could not {verb} stream in state: StreamState." in message
            assert message.endswith(ORIGINALS.get(state, ""))
    if state in ("ended", "failed"):
        assert made.report["state"] == state


@pytest.mark.parametrize("state", [*STATES, "opening", "stuck"])
def test_terminate_succeeds_in_every_state_and_leaves_no_process(
    clean: Fleet, in_state: State, state: str
) -> None:
    made = in_state(state)

    made.do("terminate")

    assert clean.pipelines() == []
    wait_for(lambda: not clean.pids("camera"), "the end of its process", timeout=HELD_UP)
    assert clean.http.get(f"/status/{made.id}").status_code == 404


def test_a_pause_of_a_camera_that_is_stuck_is_no_success_before_nothing_is_emitted(
    clean: Fleet, in_state: State
) -> None:
    made = in_state("stuck")

    answer = clean.command_pipeline("pause", made.id)  # the worker kills it, and starts it again in a pause
    paused_at = datetime.now()
    made.until("it is paused", lambda report: report["sources_metadata"][0]["state"] == "MUTED")
    resumed_at = datetime.now()

    assert answer.status_code in (200, 503)
    assert emitted_after(made, paused_at, resumed_at) == []
    made.do("resume")
    made.plays()
    made.in_order()


# several sources ------------------------------------------------------------------------------------------


def test_files_of_different_length_are_played_to_the_end_of_the_last(
    pipeline: Callable[..., Pipeline], film: Callable[[int], str], clean: Fleet
) -> None:
    played = pipeline([film(40), film(240)], max_fps=20)  # so slowly that the end of the first is not missed

    shorter = played.until(
        "the end of the shorter", lambda report: report["sources_metadata"][0]["state"] == "ENDED"
    )
    played.hasten()
    over = played.until("the end of both", lambda report: report["state"] == "ended")

    assert (shorter["state"], shorter["sources_metadata"][1]["state"]) == ("running", "RUNNING")
    assert played.ids(0) == list(range(1, 41))
    assert played.ids(1) == list(range(1, 241))
    assert [entry["state"] for entry in over["sources_metadata"]] == ["ENDED", "ENDED"]
    assert [source["emitted"] for source in over["sources"]] == [40, 240]
    played.until("no throughput", lambda report: report["inference_throughput"] == 0)
    played.in_order()
    played.do("terminate")
    assert clean.pipelines() == []


@pytest.mark.parametrize("dead", ["refused", "silent", "endless"])
def test_a_dead_first_source_holds_up_neither_the_second_nor_the_end(
    pipeline: Callable[..., Pipeline], clean: Fleet, silent: str, endless: Endless, dead: str
) -> None:
    reference = {"refused": "rtsp://127.0.0.1:1/live", "silent": silent, "endless": endless.url}[dead]

    played = pipeline([reference, LIVE])
    played.plays(1, more=3)
    waited_for = played.report["sources"][0]
    report = played.until("it runs", lambda report: report["state"] == "running")
    if dead != "refused":
        assert waited_for["failures"] == 0, "the second had to wait for the first"
    else:
        report = played.until("it is told", lambda report: report["reason"])
        assert report["reason"] == "source 0: rtsp://127.0.0.1:1/live: connection refused"
        assert report["sources"][0]["cause"] == "refused"
    played.do("terminate")
    wait_for(lambda: not clean.pids("camera"), "the end of its process", timeout=HELD_UP)

    assert report["sources_metadata"][1]["state"] == "RUNNING"


def test_an_outage_of_one_of_two_cameras_costs_the_other_nothing(
    pipeline: Callable[..., Pipeline], rtsp: Callable[..., RtspServer], clean: Fleet
) -> None:
    lost, stays = (rtsp(size=(320, 240)).start() for _ in range(2))
    played = pipeline([lost.url, stays.url])
    played.plays(0, more=5)
    played.plays(1, more=5)
    process = clean.pids("camera")

    back, kept = [], []
    for _ in range(ROUNDS):
        known = len(played.ids(1))
        lost.stop()
        told = played.until("it is told", lambda report: (report["reason"] or "").endswith("refused"))
        played.plays(1, more=round(OUTAGE * FPS), timeout=LOADING + OUTAGE)  # so long is the outage
        during = played.until("it is tried again", lambda report: report["sources"][0]["failures"] >= 2)
        lost.start()
        back.append(played.plays(0))
        ids = played.ids(1)[known:]
        kept.append(len(ids) / (ids[-1] - ids[0] + 1))

        assert told["reason"] == f"source 0: rtsp://{lost.place}: connection refused"
        assert (during["state"], during["restarts"]) == ("running", 0)
        assert (during["sources"][1]["cause"], during["sources"][1]["failures"]) == (None, 0)
        updates = Counter(
            (update["event_type"], update["payload"].get("source_id"))
            for update in during["video_source_status_updates"]
        )
        assert updates["SOURCE_CONNECTION_LOST", 0] == len(back)
        assert updates["SOURCE_CONNECTION_ATTEMPT_FAILED", 0] >= 1
        assert updates["SOURCE_CONNECTION_LOST", 1] == 0
    print(
        f"outage of {OUTAGE:g} s: back after {statistics.median(back):.2f} s median, {max(back):.2f} s at "
        f"most of {len(back)}; the other kept {min(kept):.1%} at least"
    )

    assert clean.pids("camera") == process
    played.until("all is well", lambda report: not report["reason"])
    played.in_order()
    for _ in range(2):  # after an outage, and during one
        played.do("pause")
        paused_at = datetime.now()
        played.until("nothing is emitted", lambda report: report["inference_throughput"] == 0)
        resumed_at = datetime.now()
        played.do("resume")
        played.plays(1)
        assert emitted_after(played, paused_at, resumed_at) == []
        lost.stop()
        played.until("it is lost again", lambda report: report["sources"][0]["cause"])
    played.in_order()
    played.do("terminate")
    wait_for(lambda: not clean.pids("camera"), "the end of its process", timeout=HELD_UP)


# datagrams ------------------------------------------------------------------------------------------------


def test_of_thousands_of_detections_the_surest_arrive_and_the_receiver_can_tell(
    pipeline: Callable[..., Pipeline], models: None, tmp_path: Path, udp: UdpReceiver
) -> None:
    configuration = {"type": "object-detection", "max_detections": MANY, "max_candidates": MANY}
    film = write_video(tmp_path / "film.avi", 20, size=(640, 640))
    played = pipeline(str(film), model="many/1", model_configuration=configuration)

    report = played.until("its end", lambda report: report["state"] == "ended")
    udp.wait_for(20)

    assert played.ids() == list(range(1, 21))
    played.in_order()
    for message in udp.messages:
        found = sv.Detections.from_inference(message)
        assert found.confidence is not None
        assert len(found) + message["inference_metadata"]["truncated"] == MANY
        assert len(found) > 300
        assert found.confidence.min() > 1 - 0.5 * (len(found) + 10) / MANY, "the surest"
    assert set(report["dropped"].values()) == {0}
    updates = {update["event_type"] for update in report["video_source_status_updates"]}
    assert "INFERENCE_RESULTS_DISPATCHING_ERROR" not in updates


def test_a_sink_that_cannot_be_reached_costs_datagrams_which_are_counted_and_told(
    clean: Fleet, film: Callable[[int], str], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    reference = film(30)
    hosts = {"no-such-host.invalid": 9, "127.0.0.1": 9, "127.255.255.255": 9}  # nobody, nobody listens, all
    made = {
        host: clean.http.post(
            "/initialise",
            json={
                "video_reference": reference,
                "model_id": "shapes/1",
                "sink_configuration": {"type": "udp_sink", "host": host, "port": port},
            },
        ).json()["context"]["pipeline_id"]
        for host, port in hosts.items()
    }

    reports = {}
    for host, pipeline_id in made.items():
        wait_for(partial(has_ended, clean, pipeline_id), f"the end of {host}")
        subscriber.wait_for(pipeline_id, 30)
        reports[host] = clean.report(pipeline_id)

    for host, pipeline_id in made.items():
        keys = subscriber.keys(pipeline_id)
        assert len(keys) == 30
        assert rises(keys)
        lost = reports[host]["dropped"][f"udp://{host}:9"]
        errors = [
            update["payload"]["error_message"]
            for update in reports[host]["video_source_status_updates"]
            if update["event_type"] == "INFERENCE_RESULTS_DISPATCHING_ERROR"
        ]
        if host == "no-such-host.invalid":
            assert lost == 30
            assert errors == ["udp://no-such-host.invalid:9: the host no-such-host.invalid has no address"]
        else:
            assert (lost, errors) == (0, [])


# status ---------------------------------------------------------------------------------------------------


def test_the_status_of_a_film_tells_latencies_of_the_present(
    pipeline: Callable[..., Pipeline], film: Callable[[int], str]
) -> None:
    played = pipeline(film(600), max_fps=30)

    played.until("less than the film has taken", lambda report: 0 < end_to_end(report) < 1)
    played.hasten()
    report = played.until("its end", lambda report: report["state"] == "ended")

    (latencies,) = report["latency_reports"]
    assert list(latencies) == ["source_id", "frame_decoding_latency", "inference_latency", "e2e_latency"]
    assert 0 < latencies["inference_latency"] <= latencies["e2e_latency"]
    assert 0 <= latencies["frame_decoding_latency"] <= latencies["e2e_latency"]
    (entry,) = report["sources_metadata"]
    assert list(entry) == [
        *("source_properties", "source_reference", "buffer_size", "state", "buffer_filling_strategy"),
        *("buffer_consumption_strategy", "source_id"),
    ]
    assert list(entry["source_properties"]) == [
        *("width", "height", "total_frames", "is_file", "fps", "is_reconnectable", "timestamp_created")
    ]
    assert list(report)[:4] == [
        *("video_source_status_updates", "latency_reports", "inference_throughput", "sources_metadata")
    ]
    for update in report["video_source_status_updates"]:
        assert list(update)[:5] == ["timestamp", "severity", "event_type", "payload", "context"]
        assert datetime.fromisoformat(update["timestamp"]).tzinfo is None
        assert update["severity"] in (20, 30, 40)


def end_to_end(report: dict[str, Any]) -> float:
    """Seconds from a frame to its prediction; 0 as long as there is none."""
    return float(sum(latencies["e2e_latency"] or 0 for latencies in report["latency_reports"]))


def test_every_frame_of_a_camera_is_counted_where_it_went(
    pipeline: Callable[..., Pipeline],
) -> None:
    played = pipeline(LIVE, max_fps=4)
    played.plays(more=5)
    played.do("pause")
    played.until("frames go by", lambda report: muted(report) >= 5)
    played.do("resume")
    played.plays(more=3)

    report = played.until("each frame is where it was counted", accounts_for_all)

    (source,) = report["sources"]
    assert source["dropped"]["max_fps"] > 0
    assert source["emitted"] <= source["inferred"] <= source["decoded"]


def accounts_for_all(report: dict[str, Any]) -> bool:
    """Whether a few frames at most are still under way. A frame that is being decoded is not counted yet."""
    (source,) = report["sources"]
    dropped = source["dropped"]
    undecoded = dropped.get("adaptive", 0) + dropped.get("damaged", 0)
    under_way = source["received"] - source["emitted"] - sum(dropped.values())
    return bool(source["received"] == source["decoded"] + undecoded and 0 <= under_way <= 5)
