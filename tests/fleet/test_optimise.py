"""A variant is built once, and every device of the same kind runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamfleet_api.local.demo import conveyor_model
from tests.fleet.harness import BIN, LOADING, Fleet, process_name, wait_for

COMMAND = ("models", "optimise", "parts/1", "--device", "local-1", "--rebuild")
BUILDER = "sf-optimise"


@pytest.fixture
def parts(own_fleet: Fleet, tmp_path: Path) -> Fleet:
    """A camera on each of two devices, with the demo's detector."""
    file = tmp_path / "conveyor.onnx"
    file.write_bytes(conveyor_model())
    own_fleet.add_model("parts/1", file)
    for number in (1, 2):
        place = ("--device", f"local-{number}", "--video", f"scene://conveyor/{number}")
        # Slowly: what builds has the cores that cameras and engines leave.
        own_fleet.cli("run", "--id", f"belt-{number}", "--model", "parts/1", "--max-fps", "2", *place)
    return own_fleet


def builders() -> set[int]:
    """The processes that build variants, of all fleets on this machine."""
    return {
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and process_name(int(folder.name)) == BUILDER
    }


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def builder_of(fleet: Fleet) -> int | None:
    """The process that builds for a device of this fleet."""
    agents = fleet.pids()
    return next((pid for pid in builders() if parent_of(pid) in agents), None)


@contextlib.contextmanager
def building(fleet: Fleet) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command, and the process that builds for it on its device."""
    with subprocess.Popen(
        [*fleet.prefix, str(BIN / "streamfleet"), *COMMAND, "--calibrate", "scene://conveyor/5"],
        env=fleet.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            yield command, wait_for(lambda: builder_of(fleet), "a process that builds on local-1")
        finally:
            command.kill()


def optimisation(fleet: Fleet, device: str = "local-1") -> dict[str, Any] | None:
    found: dict[str, Any] | None = fleet.http.get(f"/v2/devices/{device}").json()["optimisation"]
    return found


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


def registered(fleet: Fleet) -> dict[str, Any]:
    """Return what is registered of the model. What it costs is measured anew while pipelines use it."""
    model: dict[str, Any] = fleet.http.get("/v2/models/parts/1").json()
    del model["costs"]
    return model


def digest(fleet: Fleet) -> str:
    return str(fleet.http.get("/v2/models/parts/1").json()["digest"])


def test_a_second_device_of_the_same_kind_fetches_the_variant_that_was_built_once(parts: Fleet) -> None:
    wait_for(lambda: run_all(parts, ""), "both devices run the model itself")
    # Two pictures in a hundred may differ more in so few of them.
    command = ("models", "optimise", "parts/1", "--calibrate", "scene://conveyor/5", "--agreement", "0.9")

    # It has the lowest priority of the machine: whatever else runs there is first.
    options = ("--frames", "8", "--device", "local-2", "--json")
    told = json.loads(parts.cli(*command, *options, timeout=2 * LOADING).stdout)

    if not told["registered"]:
        assert {each["refusal"] for each in told["trials"]} == {"not faster"}, told
        pytest.skip("INT8 is not faster on this processor")
    assert told["updated"] == ["belt-1", "belt-2"]
    wait_for(lambda: run_all(parts, told["winner"]), lambda: f"both run the variant: {engines(parts)}")
    (variant,) = parts.http.get("/v2/models/parts/1").json()["variants"]
    fetched = [path for path in parts.data.rglob(variant["weights"]["sha256"]) if "api" not in path.parts]
    assert len(fetched) == 2
    assert {engine["variant_trouble"] for engine in engines(parts)} == {""}
    again = parts.cli(*command).stdout
    assert again.startswith(f"parts/1 has a variant already: {told['winner']} for {variant['board']}: ")
    assert f"{told['winner']} for {variant['board']}" in parts.cli("models", "show", "parts/1").stdout
    assert variant["board"] in parts.cli("devices", "show", "local-1").stdout


def test_what_ends_the_command_ends_the_building_on_the_device(parts: Fleet) -> None:
    before = registered(parts)
    with building(parts) as (command, builder):
        busy = parts.cli(*COMMAND, "--calibrate", "scene://conveyor/5", check=False)

        command.send_signal(signal.SIGTERM)

        assert command.wait(LOADING) == 130
        wait_for(lambda: not parent_of(builder), "the end of the process that builds")
    assert "local-1 builds variants of parts/1 already" in busy.stderr
    wait_for(lambda: optimisation(parts) is None, lambda: f"no task: {optimisation(parts)}")
    wait_for(lambda: not list(parts.data.rglob("optimise")), "no files of it")
    assert registered(parts) == before


def test_a_builder_ends_with_its_agent_and_is_not_started_again(parts: Fleet) -> None:
    with building(parts) as (command, builder):
        os.kill(parent_of(builder), signal.SIGKILL)

        assert command.wait(LOADING) == 1
        assert command.stderr is not None
        assert "local-1" in command.stderr.read()
        wait_for(lambda: not parent_of(builder), "the end of the process that builds")
    wait_for(lambda: parts.http.get("/v2/devices/local-1").json()["state"] == "ready", "the agent is back")
    wait_for(lambda: not list(parts.data.rglob("optimise")), "no files of it")
    assert builder_of(parts) is None


def test_a_device_without_samples_says_so(parts: Fleet) -> None:
    few = parts.cli(*COMMAND, check=False)

    assert few.returncode == 1
    assert "local-1: expected at least 16 samples of the pipelines here that use parts/1" in few.stderr
    assert "--calibrate" in few.stderr
