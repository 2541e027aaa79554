"""Devices on the command line: shown, labelled, removed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamfleet_api.cli.commands import drain
from streamfleet_api.cli.context import did_you_mean
from streamfleet_core.protocol.requests import Move, Rebalance, RebalanceDevices, Utilisation
from streamfleet_core.protocol.status import BatchingStat, DeviceStat, EngineStat, MissingAccelerator
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api, Command, until
from tests.fakes.broker import Peer, device, pipeline


def test_a_device_is_shown_with_its_figures_and_what_runs_there(api: Api, run: Command, peer: Peer) -> None:
    dropped = {"control": 2, "data": 7000}
    peer.devices["edge-shown"] = device("edge-shown", labels={"site": "hall-1"}, dropped=dropped)
    peer.pipelines["door"] = pipeline("door", device="edge-shown")
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    missing = MissingAccelerator("onnxruntime has no CUDA", "pip install 'streamfleet[worker,cuda]'")
    engine = EngineStat(
        digest="ab" * 32,
        state="ready",
        inferences=7,
        restarts=1,
        provider="CPUExecutionProvider",
    )
    batching = BatchingStat(
        max_batch=8, max_delay=0.0025, max_batch_origin="measured", max_delay_origin="given"
    )
    accelerated = EngineStat(
        digest="cd" * 32, state="ready", provider="CUDAExecutionProvider", batching=batching
    )
    replaced = EngineStat(digest="ef" * 32, state="ready", model="parts/1")
    figures: dict[str, Any] = {"cores": 4, "load": 1.25, "memory": 8 * 10**9, "memory_available": 10**9}
    figures |= {"disk": 10**12, "disk_available": 2 * 10**9, "gpu_load": 0.4, "gpu_power_watts": 12.5}
    figures |= {"temperature": 91.5, "throttled": True, "throttle_reason": "too hot"}
    figures["missing_accelerator"] = missing
    stat = DeviceStat(
        device="edge-shown",
        session="ready",
        capacity=8,
        pipelines=1,
        engines=(engine, accelerated, replaced),
        at=1.5,
        **figures,
    )
    until(lambda: api.http.get("/v2/devices/edge-shown").json()["load"] == 1.25, lambda: peer.tell(stat))

    assert run("devices", "show", "edge-shown").stdout.splitlines() == [
        "edge-shown: ready",
        "  pipelines   1 of 8: door",
        "  labels      site=hall-1",
        "  load        1.2 on 4 cores",
        "  memory      1.0 GB of 8.0 GB available",
        "  disk        2.0 GB of 1000.0 GB available",
        "  heat        92 °C, throttled: too hot",
        "  gpu         load 40%, 12.5 W",
        "  dropped     2 control, 7000 data messages beyond its budget",
        "  model       parts/1 ready on CPU, 7 inferences, 1 restart",
        "  model       cdcdcdcdcdcd ready on CUDA, 0 inferences",
        "              in batches of up to 8 (measured), which wait for up to 2.5 ms (given)",
        "  model       parts/1 (efefefefefef) ready, 0 inferences",
        "  warning     onnxruntime has no CUDA",
        "              pip install 'streamfleet[worker,cuda]'",
        "  version     0.1.0",
        "  heard       0.2 s ago",
    ]
    assert json.loads(run("devices", "show", "edge-shown", "--json").stdout)["cores"] == 4


def test_labels_of_a_device_are_set_and_taken_away(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1", labels={"old": "1", "kept": "2"})
    peer.devices["edge-2"] = device("edge-2")

    done = run("devices", "label", "edge-1", "site=hall-1", "old-")
    listed = run("devices", "list", "-l", "site=hall-1").stdout.splitlines()
    none = run("devices", "-l", "site=hall-2")

    assert done.stdout == "edge-1: kept=2,site=hall-1\n"
    assert [line.split()[0] for line in listed[1:]] == ["edge-1"]
    assert listed[1].endswith("kept=2,site=hall-1")
    assert (none.stdout, none.stderr) == ("", "no device has site=hall-2\n")


def test_devices_that_are_away_are_removed_and_the_others_named(run: Command, peer: Peer) -> None:
    peer.devices |= {"edge-1": device("edge-1"), "edge-2": device("edge-2", state="lost")}

    done = run("devices", "remove", "edge-1", "edge-2", code=1)

    assert done.stdout == "edge-2 removed\n"
    assert done.stderr == "error: it is here\n"
    assert list(peer.devices) == ["edge-1"]


@pytest.mark.parametrize("arguments", [["show", "edge-l"], ["label", "edge-l", "a=b"], ["remove", "edge-l"]])
def test_a_device_that_nobody_knows_is_guessed(run: Command, peer: Peer, arguments: list[str]) -> None:
    peer.devices["edge-1"] = device("edge-1")

    done = run("devices", *arguments, code=1)

    assert done.stderr == "error: no device edge-l\n       did you mean edge-1?\n"


def test_a_device_that_has_a_token_and_no_more_cannot_be_labelled_yet(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1", state="new")

    done = run("devices", "label", "edge-1", "a=b", code=1)

    assert done.stderr == "error: edge-1 has not joined yet\n       try again when it has\n"


@pytest.mark.parametrize(
    ("given", "known", "question"),
    [
        ("nono/1", ["conveyor/1"], ""),
        ("conveyr/1", ["conveyor/1", "shapes/1"], "did you mean conveyor/1?"),
        ("yolo/1", ["yolo11n/1"], "did you mean yolo11n/1?"),
        ("edge-l", ["edge-1", "edge-2"], "did you mean edge-2 or edge-1?"),
        ("a/1", ["b/1"], ""),
    ],
)
def test_only_what_is_like_it_is_guessed(given: str, known: list[str], question: str) -> None:
    assert did_you_mean(given, known) == question


@pytest.mark.parametrize("label", ["site", "-", "=x"])
def test_what_is_no_label_is_a_usage_error(run: Command, label: str) -> None:
    assert (
        "expected key=value, or key- to take it away"
        in run("devices", "label", "x", "--", label, code=2).stderr
    )


def test_a_device_is_drained_and_what_is_left_is_told_and_taken_back(run: Command, peer: Peer) -> None:
    peer.devices["edge-old"] = device("edge-old")

    cordoned = run("devices", "cordon", "edge-old")
    listed = run("devices").stdout
    drained = run("devices", "drain", "edge-old", "--wait", "--timeout", "10m", code=1)
    shown = run("devices", "show", "edge-old").stdout
    run("devices", "uncordon", "edge-old")
    after = run("devices", "show", "edge-old").stdout

    assert cordoned.stdout.startswith("edge-old is cordoned")
    assert "ready, cordoned" in listed
    assert drained.stdout.splitlines() == [
        "edge-old drained: 1 pipeline is left",
        "  usb staying: a local camera waits for its device",
    ]
    assert "edge-old: ready, drained" in shown
    assert "  left        usb staying: a local camera waits for its device" in shown
    assert "edge-old: ready\n" in after


def test_a_drain_that_is_not_done_in_time_is_listed_once(
    run: Command, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.devices["edge-old"] = device("edge-old")
    peer.confirms = False
    monkeypatch.setattr(drain, "_FORCED", 0.1)

    drained = run("devices", "drain", "edge-old", "--wait", "--force", code=1)

    assert drained.stderr.splitlines() == [
        "edge-old draining: 1 pipeline is left",
        "  usb moving: a local camera waits for its device",
    ]
    assert drained.stdout == "edge-old is not drained yet: the drain goes on\n"


def test_a_rebalance_says_what_moves_and_the_load_before_and_after(run: Command, peer: Peer) -> None:
    none = run("devices", "rebalance", "--dry-run").stdout
    peer.rebalance = Rebalance(
        (Move("door", "edge-1", "edge-2"),),
        {"edge-1": Utilisation(0.9, 0.5), "edge-2": Utilisation(0.1, 0.5)},
    )

    dry = run("devices", "rebalance", "--dry-run")
    real = run("devices", "rebalance")
    read = json.loads(run("devices", "rebalance", "--json").stdout)

    assert none == "no move would lower the load of the devices that have most\n"
    assert dry.stdout.splitlines() == [
        "1 pipeline would move:",
        "  door from edge-1 to edge-2",
        "edge-1: 90% in use, then 50%",
        "edge-2: 10% in use, then 50%",
    ]
    assert real.stdout.splitlines()[0] == "1 pipeline moves, at most four at a time:"
    assert read["moves"] == [{"pipeline_id": "door", "source": "edge-1", "target": "edge-2"}]
    asked = [each.dry_run for each in peer.asked if isinstance(each, RebalanceDevices)]
    assert asked == [True, True, False, False]


def test_a_drain_is_forced_or_has_a_time(run: Command) -> None:
    refused = run("devices", "drain", "edge-1", "--force", "--timeout", "1m", code=2)

    assert "--force is --timeout 0s" in refused.stderr


def test_a_drill_says_whether_its_device_is_unknown_or_takes_no_part(run: Command, peer: Peer) -> None:
    peer.devices["edge-old"] = device("edge-old")

    unknown = run("drill", "--device", "edge-nowhere", code=1).stderr
    unwilling = run("drill", "--device", "edge-old", code=1).stderr

    assert "no device edge-nowhere" in unknown
    assert "device edge-old does not take part in drills" in unwilling
