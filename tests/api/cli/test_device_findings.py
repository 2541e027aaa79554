"""What is wrong with a device, and what mends it."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest

from streamfleet.results import Device, Model, Pipeline
from streamfleet_api.cli.device_findings import device_findings
from streamfleet_api.cli.main import cli
from streamfleet_api.feeds.statuses import Seen
from streamfleet_api.v2.responses import Device as Answered
from streamfleet_core.protocol.requests import DeviceState, PipelineStatus
from streamfleet_core.protocol.status import (
    ClockStat,
    DeviceStat,
    EngineStat,
    KeepingStat,
    MissingAccelerator,
    SourceCause,
    SourceStat,
)
from streamfleet_core.runtime.finding import Finding
from tests.api.conftest import as_client_has_it
from tests.fakes.broker import device, pipeline

ENGINE = EngineStat(digest="ab" * 32, state="ready", provider="CPUExecutionProvider")


def stat(**changes: Any) -> DeviceStat:
    """The status of a device that is well."""
    figures: dict[str, Any] = {"cores": 4, "load": 1.0, "memory": 8 * 10**9, "memory_available": 4 * 10**9}
    figures |= {"disk": 10**12, "disk_available": 10**11, "temperature": 60.0, "throttled": False}
    known = {"device": "edge-1", "session": "ready", "capacity": 8, "pipelines": 1, "engines": (ENGINE,)}
    return DeviceStat(**{**known, **figures, "at": 0.0, **changes})


def seen(told: DeviceStat | None = None, *, age: float = 0.5, state: str = "ready", **changes: Any) -> Device:
    """A device as a client gets it. Its clock is right, unless `changes` tell otherwise."""
    view = device("edge-1", state=state)
    answer = Answered.of(view, Seen(told or stat(), age)).model_dump(mode="json")
    return msgspec.convert({**answer, "clock_offset": 0.1, "agent": "1.0", **changes}, Device)


def findings(entry: Device, *pipelines: Pipeline) -> dict[str, Finding]:
    """By name. What is wrong has a remedy."""
    found = {each.name: each for each in device_findings(entry, pipelines, version="1.0")}
    assert all(bool(each.remedy) == (each.severity != "ok") for each in found.values())
    return found


def test_nothing_is_wrong_with_a_device_that_is_well() -> None:
    found = findings(seen(), as_client_has_it(pipeline("door", status="running")))

    assert {each.severity for each in found.values()} == {"ok"}
    assert list(found) == [
        *("state", "status", "version", "clock", "accelerator", "heat", "memory", "load", "disk"),
        *("model parts/1", "capacity", "pipeline door"),
    ]


def test_a_model_has_its_id_also_where_no_pipeline_uses_it() -> None:
    unknown = dict.fromkeys(("family", "labels", "input_width", "input_height", "weights"))
    model = Model(id="parts/2", digest="ab" * 32, **unknown)
    names = {
        count: [each.name for each in device_findings(seen(), (), models, version="1.0")]
        for count, models in ((1, [model]), (0, []))
    }

    assert "model parts/2" in names[1]
    assert "model abababababab" in names[0]


@pytest.mark.parametrize(
    ("name", "entry", "severity", "text"),
    [
        ("state", seen(state="lost", silent=40.0), "error", "lost, heard 40.0 s ago"),
        ("state", seen(state="left"), "warning", "its worker was stopped"),
        ("state", seen(state="quarantined"), "error", "its key is used twice"),
        ("status", seen(age=60.0), "warning", "60.0 s old"),
        ("version", seen(agent="0.9"), "warning", "0.9, and this command line is 1.0"),
        ("clock", seen(clock_offset=-90.0), "warning", "90.0 s behind the API's"),
        (
            "clock",
            seen(stat(clock=ClockStat(False, 16.0))),
            "warning",
            "0.1 s ahead of the API's, and no time server sets it",
        ),
        (
            "sent predictions",
            seen(stat(keeping=KeepingStat("disk", "No space left on device"))),
            "warning",
            "not kept on disk: No space left on device",
        ),
        (
            "accelerator",
            seen(stat(missing_accelerator=MissingAccelerator("no CUDA", "install it"))),
            "warning",
            "no CUDA",
        ),
        (
            "heat",
            seen(stat(throttled=True, throttle_reason="too hot")),
            "warning",
            "60 °C, throttled: too hot",
        ),
        ("heat", seen(stat(temperature=90.0)), "warning", "90 °C: it slows down soon"),
        ("heat", seen(stat(temperature=104.0)), "error", "104 °C"),
        ("memory", seen(stat(memory_available=10**8)), "warning", "100.0 MB of 8.0 GB available"),
        ("load", seen(stat(load=9.0)), "warning", "9.0 on 4 cores"),
        ("disk", seen(stat(disk_available=5 * 10**8)), "warning", "500.0 MB of 1000.0 GB available"),
        ("disk", seen(stat(disk_available=0)), "error", "0 bytes of 1000.0 GB available"),
        (
            "model abababababab",
            seen(stat(engines=(EngineStat(digest="ab" * 32, state="failed", reason="bad"),))),
            "error",
            "failed: bad",
        ),
        (
            "model abababababab",
            seen(stat(engines=(EngineStat(digest="ab" * 32, state="ready", restarts=2),))),
            "warning",
            "ready, 2 restarts of its process",
        ),
        (
            "model parts/1 (cdcdcdcdcdcd)",
            seen(
                stat(engines=(EngineStat(digest="cd" * 32, state="failed", reason="bad", model="parts/1"),))
            ),
            "error",
            "failed: bad",
        ),
        ("capacity", seen(pipelines=8, capacity=8), "warning", "8 of 8 pipelines: it takes no more"),
    ],
)
def test_what_is_wrong_with_a_device_is_told(name: str, entry: Device, severity: str, text: str) -> None:
    found = findings(entry)

    assert found[name].severity == severity
    assert text in found[name].found
    assert [each.name for each in found.values() if each.severity != "ok"] == [name]


def test_a_device_without_status_has_no_figures_and_one_without_sensors_no_heat() -> None:
    view = device("edge-1")
    silent = msgspec.convert({**Answered.of(view, None).model_dump(mode="json"), "agent": "1.0"}, Device)
    bare = seen(stat(temperature=None, throttled=None, disk=0, cores=0, memory=0, engines=()))

    assert list(findings(silent)) == ["state", "status", "version", "capacity"]
    assert findings(silent)["status"].severity == "warning"
    assert list(findings(bare)) == ["state", "status", "version", "clock", "capacity"]


def test_a_device_that_never_joined_gets_its_token() -> None:
    assert findings(seen(state="new")) == {
        "state": Finding(
            "state", "error", "new, heard 0.2 s ago: it has not joined yet", "streamfleet devices add edge-1"
        )
    }


@pytest.mark.parametrize("state", get_args(DeviceState))
def test_every_state_of_a_device_is_known(state: str) -> None:
    assert findings(seen(state=state))["state"].found.startswith(state)


@pytest.mark.parametrize("cause", get_args(SourceCause))
def test_every_cause_of_a_source_is_mended_by_something(cause: SourceCause) -> None:
    source = SourceStat(source_id=0, reference="rtsp://h/a", state="ERROR", cause=cause, reason="why")
    entry = as_client_has_it(pipeline("door", status="reconnecting"))

    found = findings(seen(), _with_sources(entry, source))

    assert found["pipeline door"].severity == "error"
    assert found["pipeline door"].found == f"source 0: {cause}: why"
    assert "{" not in found["pipeline door"].remedy


@pytest.mark.parametrize("status", get_args(PipelineStatus))
def test_every_status_of_a_pipeline_is_known(status: Any) -> None:
    found = findings(seen(), as_client_has_it(pipeline("door", status=status)))["pipeline door"]

    assert found.found.startswith(status)
    fine = ("running", "starting", "paused", "ended", "stopping", "moving")
    assert (found.severity == "ok") == (status in fine)


@pytest.mark.parametrize(
    ("source", "severity", "text"),
    [
        ({"frozen_for": 30.0}, "warning", "its picture has not changed for 30 s"),
        ({"decoder": "software", "decoder_note": "no nvh264dec"}, "warning", "software: no nvh264dec"),
    ],
)
def test_a_source_that_works_but_not_well_is_a_warning(
    source: dict[str, Any], severity: str, text: str
) -> None:
    told = SourceStat(source_id=0, reference="rtsp://h/a", state="RUNNING", **source)

    found = findings(seen(), _with_sources(as_client_has_it(pipeline("door", status="running")), told))

    assert found["pipeline door"].severity == severity
    assert text in found["pipeline door"].found


def test_the_commands_that_are_told_exist() -> None:
    entries = [seen(state=state) for state in get_args(DeviceState)]
    statuses = [
        as_client_has_it(pipeline(f"p{n}", status=each)) for n, each in enumerate(get_args(PipelineStatus))
    ]
    text = "\n".join(each.remedy for entry in entries for each in findings(entry, *statuses).values())

    commands = set(re.findall(r"streamfleet ([a-z]+)", text))

    assert commands >= {"devices", "status", "set", "restart"}
    assert commands <= set(cli.commands)


def _with_sources(entry: Pipeline, *sources: SourceStat) -> Pipeline:
    return msgspec.convert(
        {**msgspec.to_builtins(entry), "sources": msgspec.to_builtins(sources)}, type=Pipeline
    )
