"""What Prometheus is told: from the last known state, without secrets, with or without a broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streamfleet_api.feeds.statuses import Seen
from streamfleet_api.monitoring.exposition import merge, text_of
from streamfleet_api.monitoring.metrics import Known, parts_of, totals
from streamfleet_api.monitoring.metrics import collected as collected_of
from streamfleet_core.protocol.requests import DeviceFigures, FleetView, PipelineFigures
from streamfleet_core.protocol.status import (
    DeviceStat,
    EngineStat,
    MissingAccelerator,
    PipelineStat,
    SourceStat,
)
from streamfleet_core.protocol.tasks.rollouts import Phase, RolloutPlan, RolloutView
from streamfleet_core.protocol.values import ModelRef, ObservedState
from tests.api.conftest import until
from tests.fakes.broker import Peer, device, pipeline

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

SOURCE = SourceStat(
    source_id=0,
    reference="rtsp://10.0.0.9/door",
    state="RUNNING",
    received=10,
    decoded=10,
    inferred=9,
    emitted=8,
    dropped={"late": 1, "buffer": 0},
    attempts=2,
    failures=3,
    last_frame_age=0.5,
    fps=24.5,
    latency=0.25,
    frozen_for=None,
    decoder="nv (nvv4l2decoder)",
)
REPORT: Any = {  # with an entry that is none
    "latency_reports": [
        {"source_id": 0, "frame_decoding_latency": 0.01, "inference_latency": 0.02, "e2e_latency": None},
        "no entry",
        {"source_id": 0, "frame_decoding_latency": 0.03},
    ],
    "sources_metadata": [{"source_id": 0, "source_properties": {"fps": 25.0}}],
}
TOLD = PipelineStat(
    pipeline_id="door",
    device="edge-1",
    generation=3,
    incarnation=1,
    desired_status="run",
    state=ObservedState.RUNNING,
    reason="",
    restarts=2,
    fps=24.5,
    sources=(SOURCE, replace(SOURCE, source_id=1)),
    dropped={"udp": 4},
    report=REPORT,
    at=0.0,
)
ENGINE = EngineStat(
    digest="ab" * 32, state="ready", reason="", inferences=7, restarts=1, provider="CPUExecutionProvider"
)
MACHINE = DeviceStat(
    device="edge-1",
    session="ready",
    capacity=8,
    pipelines=1,
    engines=(ENGINE,),
    at=0.0,
    cores=4,
    load=1.5,
    memory=2**33,
    memory_available=2**32,
    temperature=61.5,
    throttled=False,
    disk=2**40,
    disk_available=2**30,
)


def camera(name: str, **changes: Any) -> PipelineFigures:
    """What the broker tells of a pipeline."""
    return PipelineFigures.of(pipeline(name, **changes))


def machine(name: str, **changes: Any) -> DeviceFigures:
    """What the broker tells of a device."""
    return DeviceFigures.of(device(name, **changes))


def samples(text: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
    """Every sample of a text that Prometheus would take."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def read(text: str) -> Samples:
    """The samples by name and labels, each of which is there once."""
    found = list(samples(text))
    by_series = {(name, labels): value for name, labels, value in found}
    assert len(by_series) == len(found)
    return by_series


def written(known: Known, parts: Iterable[Known]) -> str:
    """The text about these parts of what is known."""
    families = {family.name: family for family in totals(known)}
    for part in parts:
        merge(families, collected_of(part))
    return text_of(families).decode()


def collected(known: Known) -> Samples:
    """What is known as samples."""
    return read(written(known, parts_of(known)))


def test_a_device_that_tells_of_a_model_twice_has_one_series_of_it() -> None:
    twice = replace(MACHINE, engines=(ENGINE, replace(ENGINE, state="loading")))
    known = Known(
        fleet=FleetView(epoch=7, uptime=1.5, devices_ready=1, devices=1, pipelines=1),
        pipelines=(),
        devices=(machine("edge-1"),),
        of_pipelines={},
        of_devices={"edge-1": Seen(twice, 1.0)},
    )

    told = [name for name, labels in collected(known) if "digest" in dict(labels)]

    assert sorted(told) == [
        "streamfleet_engine_inferences_total",
        "streamfleet_engine_provider",
        "streamfleet_engine_ready",
        "streamfleet_engine_restarts_total",
    ]


def test_all_figures_of_the_last_known_state_are_told() -> None:
    known = Known(
        fleet=FleetView(epoch=7, uptime=1.5, devices_ready=1, devices=1, pipelines=1),
        pipelines=(camera("door", restarts=2),),
        devices=(machine("edge-1", dropped={"data": 7000}),),
        of_pipelines={"door": Seen(TOLD, 1.0)},
        of_devices={"edge-1": Seen(MACHINE, 1.0)},
    )

    found = collected(known)

    of, at = (("pipeline_id", "door"),), (("device", "edge-1"),)
    source, engine = (*of, ("source", "0")), (*at, ("digest", "ab" * 32))
    info = (*at, ("model", "parts/1"), *of, ("status", "running"))
    expected = {
        ("streamfleet_broker_up", ()): 1,
        ("streamfleet_pipeline_up", of): 1,
        ("streamfleet_pipeline_info", info): 1,
        ("streamfleet_pipeline_restarts_total", of): 2,
        ("streamfleet_pipeline_status_age_seconds", of): 1,
        ("streamfleet_sink_dropped_total", (*of, ("sink", "udp"))): 4,
        ("streamfleet_source_frames_received_total", source): 10,
        ("streamfleet_source_frames_decoded_total", source): 10,
        ("streamfleet_source_frames_inferred_total", source): 9,
        ("streamfleet_source_frames_emitted_total", source): 8,
        ("streamfleet_source_frames_dropped_total", (("cause", "late"), *source)): 1,
        ("streamfleet_source_frames_dropped_total", (("cause", "buffer"), *source)): 0,
        ("streamfleet_source_up", source): 1,
        ("streamfleet_source_connection_attempts", source): 2,
        ("streamfleet_source_connection_failures_total", source): 3,
        ("streamfleet_source_decoder", (("decoder", "nv (nvv4l2decoder)"), *source)): 1,
        ("streamfleet_source_fps", source): 24.5,
        ("streamfleet_source_latency_seconds", source): 0.25,
        ("streamfleet_source_last_frame_age_seconds", source): 1.5,
        ("streamfleet_device_ready", at): 1,
        ("streamfleet_device_capacity", at): 8,
        ("streamfleet_device_pipelines", at): 1,
        ("streamfleet_device_load1", at): 1.5,
        ("streamfleet_device_cores", at): 4,
        ("streamfleet_device_memory_bytes", at): 2**33,
        ("streamfleet_device_memory_available_bytes", at): 2**32,
        ("streamfleet_device_temperature_celsius", at): 61.5,
        ("streamfleet_device_throttled", at): 0,
        ("streamfleet_device_disk_bytes", at): 2**40,
        ("streamfleet_device_disk_available_bytes", at): 2**30,
        ("streamfleet_device_silent_seconds", at): 0.2,
        ("streamfleet_device_dropped_messages_total", (*at, ("plane", "control"))): 0,
        ("streamfleet_device_dropped_messages_total", (*at, ("plane", "data"))): 7000,
        ("streamfleet_engine_ready", engine): 1,
        ("streamfleet_engine_inferences_total", engine): 7,
        ("streamfleet_engine_restarts_total", engine): 1,
        ("streamfleet_engine_provider", (*engine, ("provider", "CPUExecutionProvider"))): 1,
        ("streamfleet_accelerator_missing", at): 0,
        ("inference_pipeline_inference_fps", source): 24.5,
        ("inference_pipeline_camera_fps", source): 25,
        ("inference_pipeline_frame_decoding_latency", source): 0.03,
        ("inference_pipeline_inference_latency", source): 0.02,
        ("inference_pipeline_active_streams", ()): 1,
    }
    assert {key: value for key, value in found.items() if ("source", "1") not in key[1]} == expected


def test_a_device_whose_models_lack_its_accelerator_is_told() -> None:
    missing = MissingAccelerator("no kernels", "another wheel")
    known = Known(
        fleet=None,
        pipelines=(),
        devices=(machine("edge-1"), machine("edge-2")),
        of_pipelines={},
        of_devices={
            "edge-1": Seen(replace(MACHINE, missing_accelerator=missing), 1.0),
            "edge-2": Seen(replace(MACHINE, device="edge-2"), 1.0),
        },
    )

    found = collected(known)

    assert found[("streamfleet_accelerator_missing", (("device", "edge-1"),))] == 1
    assert found[("streamfleet_accelerator_missing", (("device", "edge-2"),))] == 0


def test_what_was_told_long_ago_is_no_rate_of_the_present() -> None:
    known = Known(
        fleet=None,
        pipelines=(camera("door"),),
        devices=(),
        of_pipelines={"door": Seen(TOLD, 60.0)},
        of_devices={},
    )

    found = collected(known)

    source = (("pipeline_id", "door"), ("source", "0"))
    assert found[("streamfleet_broker_up", ())] == 0
    assert found[("streamfleet_pipeline_up", source[:1])] == 0
    assert found[("streamfleet_source_up", source)] == 0
    assert found[("streamfleet_source_fps", source)] == 0
    assert found[("streamfleet_source_frames_emitted_total", source)] == 8
    assert found[("streamfleet_source_last_frame_age_seconds", source)] == 60.5


def test_a_sensor_that_a_device_lacks_has_no_series() -> None:
    of_devices = {"edge-1": Seen(MACHINE, 1.0)}
    known = Known(
        fleet=None, pipelines=(), devices=(machine("edge-1"),), of_pipelines={}, of_devices=of_devices
    )

    found = collected(known)

    series = (("device", "edge-1"),)
    assert found["streamfleet_device_temperature_celsius", series] == 61.5
    assert found["streamfleet_device_throttled", series] == 0
    assert found["streamfleet_device_disk_bytes", series] == 2**40
    assert not {name for name, _ in found if name.startswith("streamfleet_device_gpu")}


@pytest.mark.parametrize(
    "report", [{}, {"latency_reports": 7, "sources_metadata": {}}, {"latency_reports": [[]]}]
)
def test_a_report_of_any_shape_does_no_harm(report: Any) -> None:
    stat = replace(TOLD, report=report, sources=(SOURCE, SOURCE))
    known = Known(
        fleet=None,
        pipelines=(camera("door"),),
        devices=(),
        of_pipelines={"door": Seen(stat, 1.0)},
        of_devices={},
    )

    found = collected(known)

    assert ("inference_pipeline_e2e_latency", ()) not in found
    assert found[("inference_pipeline_inference_fps", (("pipeline_id", "door"), ("source", "0")))] == 24.5


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6)
COUNTS = st.integers(0, 2**53)
FIGURES = st.none() | st.floats(0, 1e12, allow_nan=False)
SOURCES = st.builds(
    lambda number, **fields: replace(SOURCE, source_id=number, **fields),
    st.integers(0, 3),
    received=COUNTS,
    emitted=COUNTS,
    dropped=st.dictionaries(TEXTS, COUNTS, max_size=2),
    latency=FIGURES,
    last_frame_age=FIGURES,
    fps=st.floats(0, 1e9),
    decoder=TEXTS,
)


class _Parsed(Collector):
    """The families of a text, for the client library to write them again."""

    def __init__(self, text: str) -> None:
        self._text = text

    def collect(self) -> Iterator[Metric]:
        yield from text_string_to_metric_families(self._text)


@settings(max_examples=25, deadline=None)
@given(
    stats=st.dictionaries(
        st.sampled_from([f"door-{number}" for number in range(7)]),
        st.lists(SOURCES, max_size=2).map(tuple),
        max_size=8,
    ),
    sinks=st.dictionaries(TEXTS, COUNTS, max_size=2),
    ages=st.floats(0, 1e6),
)
def test_a_text_in_parts_is_what_the_client_library_writes_as_a_whole(
    stats: dict[str, tuple[SourceStat, ...]], sinks: dict[str, int], ages: float
) -> None:
    names = [f"door-{number}" for number in range(7)]
    told = {
        name: Seen(replace(TOLD, pipeline_id=name, sources=stats[name], dropped=sinks), ages)
        for name in names
        if name in stats
    }
    known = Known(
        fleet=None,
        pipelines=tuple(map(camera, names)),
        devices=tuple(machine(f"edge-{number}") for number in range(5)),
        of_pipelines=told,
        of_devices={"edge-4": Seen(MACHINE, ages)},
    )

    text = written(known, parts_of(known, size=3))

    assert text == written(known, [known]), "as a whole"
    assert text == generate_latest(_Parsed(text)).decode(), "as the library writes it"
    assert len(list(parts_of(known, size=3))) == 6
    declared = {family.name: {*family.labels} for part in parts_of(known) for family in collected_of(part)}
    for name, labels, _ in samples(text):
        assert declared.get(name, set()) == {label for label, _ in labels}, "as the documentation says"


def test_the_text_is_one_that_prometheus_takes_and_has_no_secret(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["gauged"] = pipeline("gauged")
    peer.devices["gauge-1"] = device("gauge-1")
    latencies = [entry for entry in REPORT["latency_reports"] if isinstance(entry, dict)]
    report: Any = {**REPORT, "latency_reports": latencies}
    peer.tell(replace(MACHINE, device="gauge-1"))

    text = ""

    def tells_of_sources() -> bool:
        nonlocal text
        text = http.get("/metrics").text
        return "streamfleet_source_fps{" in text

    until(tells_of_sources, lambda: peer.tell(replace(TOLD, pipeline_id="gauged", report=report)))

    found = read(text)
    assert found[("streamfleet_broker_up", ())] == 1
    assert "hunter2" not in text
    assert http.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


OLD, NEW = ModelRef("parts/1", "ab" * 32), ModelRef("parts/2", "cd" * 32)


def rollout(name: str, **changes: Any) -> RolloutView:
    return RolloutView(id=name, plan=RolloutPlan(old=OLD, new=NEW), **changes)


def test_roll_outs_are_told_by_phase_their_pipelines_while_they_last_and_the_last_return() -> None:
    known = Known(
        fleet=None,
        pipelines=(),
        devices=(),
        of_pipelines={},
        of_devices={},
        rollouts=(
            rollout("first", phase="returned", ended_at=100.0, stages={"back": 1, "waiting": 4}),
            rollout("second", phase="returned", ended_at=200.0),
            rollout("third", phase="waves", stages={"good": 5, "switched": 2, "waiting": 9}),
        ),
    )

    found = {key: value for key, value in collected(known).items() if "rollout" in key[0]}

    phases = {phase: found.get(("streamfleet_rollouts", (("phase", phase),))) for phase in get_args(Phase)}
    assert {phase: count for phase, count in phases.items() if count} == {"returned": 2, "waves": 1}
    assert found[("streamfleet_rollout_last_return_timestamp_seconds", ())] == 200.0
    stages = {
        dict(labels)["stage"]: (dict(labels)["rollout"], dict(labels)["old"], dict(labels)["new"], value)
        for (name, labels), value in found.items()
        if name == "streamfleet_rollout_pipelines"
    }
    assert stages == {
        stage: ("third", "parts/1", "parts/2", count)
        for stage, count in {"good": 5, "switched": 2, "waiting": 9}.items()
    }


def test_without_a_broker_what_was_known_is_told(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    http.get("/metrics")

    peer.stop()
    try:
        answer = http.get("/metrics")
    finally:
        peer.start()

    found = read(answer.text)
    assert answer.status_code == 200
    assert found[("streamfleet_broker_up", ())] == 0
    assert ("streamfleet_pipeline_up", (("pipeline_id", "door"),)) in found


def test_requests_are_counted_by_route_and_never_by_what_was_asked_for(http: httpx.Client) -> None:
    def count(method: str, route: str, status: int) -> float:
        labels = (("method", method), ("route", route), ("status", str(status)))
        return read(http.get("/metrics").text).get(("streamfleet_http_requests_total", labels), 0)

    keys = [
        ("GET", "/v2/pipelines/{pipeline_id}", 404),
        ("POST", "/v2/pipelines", 415),
        ("GET", "other", 404),
        ("other", "other", 404),
    ]
    before = [count(*key) for key in keys]

    http.get("/v2/pipelines/nobody-at-all")
    http.post("/v2/pipelines")
    http.get("/nothing-here")
    http.request("PROPFIND", "/nothing-here")  # what is no method at all is refused before it is counted

    assert [count(*key) for key in keys] == [each + 1 for each in before]
    assert "nobody-at-all" not in http.get("/metrics").text
    assert "streamfleet_http_request_duration_seconds_bucket" in http.get("/metrics").text
