"""A variant is built once, and every device of the same kind runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamfleet_api.local.demo import conveyor_model
from tests.fleet.harness import Fleet, wait_for


@pytest.fixture
def parts(own_fleet: Fleet, tmp_path: Path) -> Fleet:
    """A camera on each of two devices, with the demo's detector."""
    file = tmp_path / "conveyor.onnx"
    file.write_bytes(conveyor_model())
    own_fleet.add_model("parts/1", file)
    for number in (1, 2):
        place = ("--device", f"local-{number}", "--video", f"scene://conveyor/{number}")
        own_fleet.cli("run", "--id", f"belt-{number}", "--model", "parts/1", *place)
    return own_fleet


def engines(fleet: Fleet) -> list[dict[str, Any]]:
    """The engines of both devices that infer."""
    devices = fleet.http.get("/v2/devices").json()["devices"]
    return [
        engine
        for device in devices
        for engine in device["engines"]
        if engine["state"] == "ready" and engine["inferences"]
    ]


def run_all(fleet: Fleet, precision: str) -> bool:
    return [each["variant"] for each in engines(fleet) if each["digest"] == digest(fleet)] == [precision] * 2


def digest(fleet: Fleet) -> str:
    return str(fleet.http.get("/v2/models/parts/1").json()["digest"])


def test_a_second_device_of_the_same_kind_fetches_the_variant_that_was_built_once(parts: Fleet) -> None:
    wait_for(lambda: run_all(parts, ""), "both devices run the model itself")
    # Two pictures in a hundred may differ more in so few of them.
    command = ("models", "optimise", "parts/1", "--calibrate", "scene://conveyor/5", "--agreement", "0.9")

    told = json.loads(parts.cli(*command, "--frames", "16", "--device", "local-2", "--json").stdout)

    if not told["registered"]:
        assert {each["refusal"] for each in told["trials"]} == {"not faster"}, told
        pytest.skip("INT8 is not faster on this processor")
    assert told["restarted"] == ["belt-1", "belt-2"]
    wait_for(lambda: run_all(parts, told["winner"]), lambda: f"both run the variant: {engines(parts)}")
    (variant,) = parts.http.get("/v2/models/parts/1").json()["variants"]
    fetched = [path for path in parts.data.rglob(variant["weights"]["sha256"]) if "api" not in path.parts]
    assert len(fetched) == 2
    assert {engine["variant_trouble"] for engine in engines(parts)} == {""}
    again = parts.cli(*command).stdout
    assert again.startswith(f"parts/1 has a variant already: {told['winner']} for {variant['board']}: ")
    assert f"{told['winner']} for {variant['board']}" in parts.cli("models", "show", "parts/1").stdout
    assert variant["board"] in parts.cli("devices", "show", "local-1").stdout
