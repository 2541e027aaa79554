"""The checks of this machine for a fleet on it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from streamfleet_api.local import preflight
from streamfleet_api.local.machine_findings import is_running, machine_findings, options_of, port_findings
from streamfleet_api.local.options import Options
from streamfleet_api.local.ports import _bound
from tests.fakes.ports_and_folders import free_port


def free_options(folder: Path, **changes: int) -> Options:
    """Options with free ports."""
    names = ("port", "manager_port", "devices_port", "relay_in_port", "relay_out_port")
    ports = {name: free_port() for name in (*names, "pictures_in_port", "pictures_out_port")}
    return Options(data_dir=folder, **{**ports, **changes})  # type: ignore[arg-type]


def test_the_worker_checks_the_machine_and_runs_the_model_of_the_demo(tmp_path: Path) -> None:
    found = {each.name: each for each in machine_findings(tmp_path)}

    assert "the demo's model on CPUExecutionProvider" in found["inference"].found
    assert str(tmp_path) in found["disk"].found


def test_checks_that_cannot_run_are_skipped_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slow,) = machine_findings(tmp_path, timeout=0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (missing,) = machine_findings(tmp_path)

    assert (slow.severity, slow.found) == (
        "warning",
        "skipped: the checks of the machine did not end within 0 s",
    )
    assert (missing.severity, missing.found) == ("warning", "skipped: it wrote nothing")


def test_ports_that_are_free_are_fine_and_those_taken_are_named_with_their_option(tmp_path: Path) -> None:
    options = free_options(tmp_path)

    (free,) = port_findings(options)
    with contextlib.closing(_bound(options.host, options.relay_in_port)) as other:
        other.listen()
        (taken,) = port_findings(options)

    assert free.severity == "ok"
    assert taken.severity == "error"
    assert (
        taken.found
        == f"--relay-in-port {options.relay_in_port} is taken: something else listens there on 127.0.0.1"
    )


def test_ports_of_a_fleet_that_runs_here_are_fine(tmp_path: Path) -> None:
    options = free_options(tmp_path)
    before = is_running(tmp_path)
    with preflight.locked(tmp_path), contextlib.closing(_bound(options.host, options.port)) as ours:
        ours.listen()
        (found,) = port_findings(options)
        running = is_running(tmp_path)

    assert (before, running, is_running(tmp_path)) == (False, True, False)
    assert found.severity == "ok"


def test_a_host_that_is_not_ours_is_told(tmp_path: Path) -> None:
    (found,) = port_findings(Options(data_dir=tmp_path, host="203.0.113.7"))

    assert found.severity == "error"
    assert "--host 203.0.113.7" in found.found


def test_the_ports_are_those_of_the_environment(tmp_path: Path) -> None:
    environment = {"STREAMFLEET_PORT": "9001", "PORT": "9002", "STREAMFLEET_DEVICES_PORT": "many"}

    options = options_of(tmp_path, {**environment, "STREAMFLEET_HOST": "0.0.0.0"})

    assert options == Options(data_dir=tmp_path, host="0.0.0.0", port=9001, manager_port=9002)
