"""`streamfleet doctor` of this machine and of a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamfleet_api.cli.main import cli
from streamfleet_core.protocol.status import DeviceStat
from tests.api.conftest import Api, Command, until
from tests.fakes.broker import Peer, device
from tests.fakes.ports_and_folders import free_port


def names(text: str) -> dict[str, str]:
    """The severity of each finding in JSON, by name."""
    return {each["name"]: each["severity"] for each in json.loads(text)}


def test_this_machine_is_checked_without_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "MANAGER_PORT", "DEVICES_PORT", "RELAY_IN_PORT", "RELAY_OUT_PORT"):
        monkeypatch.setenv(f"STREAMFLEET_{name}", str(free_port()))
    for name in ("PICTURES_IN_PORT", "PICTURES_OUT_PORT"):
        monkeypatch.setenv(f"STREAMFLEET_{name}", str(free_port()))

    done = CliRunner().invoke(cli, ["--data-dir", str(tmp_path), "doctor"])

    assert done.exit_code == 0, done.stdout
    assert "ok       python" in done.stdout
    assert "ok       ports" in done.stdout
    assert done.stdout.splitlines()[-1] in ("nothing is wrong", "0 errors, 1 warning")


def test_the_fleet_is_asked_and_its_clock_compared(run: Command, api: Api) -> None:
    (api.folder / "api/token").chmod(0o644)
    try:
        found = run("doctor", "--json", code=1).stdout
    finally:
        (api.folder / "api/token").chmod(0o600)

    assert names(found)["fleet"] == "ok"
    assert [each for each in json.loads(found) if each["severity"] == "error"] == [
        {
            "name": "keys",
            "severity": "error",
            "found": f"{api.folder}/api/token has rights 044 for others, and is refused",
            "remedy": f"chmod 600 {api.folder}/api/token",
        }
    ]


def test_a_fleet_that_should_answer_and_does_not_is_an_error(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    done = CliRunner().invoke(cli, ["--url", url, "--data-dir", str(tmp_path), "doctor", "--json"])

    assert done.exit_code == 1
    assert names(done.stdout)["fleet"] == "error"


def test_a_device_is_checked_with_what_the_fleet_knows(run: Command, peer: Peer, api: Api) -> None:
    peer.devices["edge-hot"] = device("edge-hot")
    stat = DeviceStat(
        device="edge-hot",
        session="ready",
        capacity=8,
        pipelines=0,
        engines=(),
        at=0.0,
        temperature=104.0,
    )
    until(lambda: api.http.get("/v2/devices/edge-hot").json()["temperature"] == 104, lambda: peer.tell(stat))

    text = run("doctor", "edge-hot", code=1).stdout
    found = names(run("doctor", "edge-hot", "--json", code=1).stdout)

    assert "error    heat      104 °C" in text.splitlines()
    assert (found["heat"], found["clock"], found["state"]) == ("error", "warning", "ok")
    assert text.splitlines()[-1] == "1 error, 1 warning"


def test_a_device_that_no_fleet_knows_is_guessed(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1")

    done = run("doctor", "edge-l", code=1)

    assert done.stderr == "error: no device edge-l\n       did you mean edge-1?\n"
