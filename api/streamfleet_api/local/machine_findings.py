"""Checks of this machine: those of the worker's program, and the ports of `streamfleet up`."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import msgspec

from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.local.options import ENVIRONMENT, Options
from streamfleet_api.local.ports import named, taken_ports
from streamfleet_core.runtime.finding import Finding, decode, error, ok, warning

MODEL = "conveyor.onnx"  # the demo's
TIMEOUT = 300.0  # seconds; each slow check has a deadline of its own below it


def machine_findings(data_dir: Path, *, timeout: float = TIMEOUT) -> list[Finding]:
    """What the worker's program finds, which needs none of a worker's packages."""
    with resources.as_file(resources.files("streamfleet_api.local") / MODEL) as model:
        command = [sys.executable, "-m", "streamfleet_worker", "doctor", "--json"]
        command += ["--data-dir", str(data_dir), "--model", str(model)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
            )
            return decode(done.stdout)
        except subprocess.TimeoutExpired:
            return [_skipped(f"the checks of the machine did not end within {timeout:.0f} s")]
        except msgspec.DecodeError:
            *_, last = ["it wrote nothing", *done.stderr.decode("utf-8", "replace").strip().splitlines()]
            return [_skipped(last)]


def _skipped(why: str) -> Finding:
    return warning("machine", f"skipped: {why}", "pip install 'streamfleet[worker,cpu]'")


def is_running(data_dir: Path) -> bool:
    """Whether `streamfleet up` runs on a data directory."""
    try:
        with (data_dir / "up.lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def options_of(data_dir: Path, environment: Mapping[str, str]) -> Options:
    """The options of `streamfleet up` in an environment. A port that is no number is left at its default."""
    given: dict[str, int] = {}
    for option, names in ENVIRONMENT.items():
        text = next((environment[name] for name in names if environment.get(name)), "")
        if option != "--host" and text.isascii() and text.isdigit():
            given[option.removeprefix("--").replace("-", "_")] = int(text)
    host = next((environment[name] for name in ENVIRONMENT["--host"] if environment.get(name)), "127.0.0.1")
    return Options(data_dir=data_dir, host=host, **given)  # type: ignore[arg-type]


def port_findings(options: Options) -> Iterator[Finding]:
    """Are the ports of `streamfleet up` free, or in use by it?"""
    shown = ", ".join(str(port) for port in options.ports.values())
    if is_running(options.data_dir):
        yield ok("ports", f"{shown}: a fleet runs on {options.data_dir}")
        return
    try:
        taken = taken_ports(options.host, options.ports)
    except CommandFailed as exc:
        yield error("ports", str(exc), "choose another with this option")
        return
    if taken:
        remedy = "ss -ltnp shows what listens; stop it, or choose other ports with these options"
        yield error("ports", named(taken, options.host), remedy)
    else:
        yield ok("ports", f"{shown} are free on {options.host}")
