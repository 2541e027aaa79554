"""What runs on a GPU, on a machine that has one. Not among the tests: it fetches what it needs.

python3 -m tests.check_gpu [--output DIR]        needs Python alone, and ends within eight minutes

Each step is a process with a deadline. The table at the end says of each `ok`, `FAILED` with what was
expected, or `skipped` with the reason, and is written to `gpu-check.json`. Exit code: 0; 1 if a step has
failed; 3 if there is no GPU, where only what concerns CPUs was checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tests.gpu.child import ROOT, run
from tests.gpu.outcome import Outcome, failed, ok, read, skipped
from tools.create_environment import ALL, installed_uv, pinned

LOCKS = ("worker-gpu", "api", "broker", "build")
NO_GPU = 3
_LEAST = 3.0  # seconds that a step is started with
_ENVIRONMENT, _TENSORRT, _DRIVER = "environment", "tensorrt", "driver"


@dataclass(frozen=True, slots=True)
class Step:
    """A step and its time."""

    name: str
    seconds: float


# The first ones ask what is there. Of the others, those come first whose answers matter most.
STEPS = (
    Step(_DRIVER, 60),
    Step("doctor", 100),
    Step(_TENSORRT, 60),
    Step("cuda", 90),
    Step("require", 60),
    Step("prefer", 60),
    Step("plan", 200),
    Step("memory", 60),
    Step("batches", 60),
    Step("files", 120),
)
_INSTALLATION = 240  # seconds
_WHEEL = 150  # seconds, for TensorRT


def main() -> int:
    """Install, check, and tell."""
    options = parse(sys.argv[1:])
    began = time.monotonic()
    until = began + 60 * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}

    def note(name: str, outcome: Outcome) -> None:
        outcomes[name] = outcome
        print(f"{outcome.line(name)}\n{'':21} ({time.monotonic() - began:.0f} s)", flush=True)

    if options.python is None:
        note(_ENVIRONMENT, install(options.environment, options.output, _within(until, _INSTALLATION)))
        if options.tensorrt and outcomes[_ENVIRONMENT].verdict == "ok":
            wheel = install_tensorrt(options.environment, options.output, _within(until, _WHEEL))
            note("wheel", wheel)
    python = options.python or options.environment / "bin/python"
    for step in STEPS:
        if options.steps and step.name not in options.steps:
            continue
        if outcomes.get(_ENVIRONMENT, ok("")).verdict != "ok":
            note(step.name, skipped("there is no environment to run it"))
            continue
        seconds = _within(until, step.seconds)
        if seconds < _LEAST:
            note(step.name, skipped(f"the {options.minutes:g} minutes are over"))
            continue
        note(step.name, checked(step, python, options.output, seconds=seconds, quick=options.quick))
    print(f"\n{table(outcomes)}")
    path = options.output / "gpu-check.json"
    path.write_text(json.dumps(document(outcomes), indent=2, ensure_ascii=False) + "\n")
    print(f"({time.monotonic() - began:.0f} s; {path})")
    return code(outcomes)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.check_gpu", description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(os.environ.get("OUT") or ROOT / "benchmarks/results"),
        help="folder of gpu-check.json and the logs of the steps [$OUT, or %(default)s]",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all steps [%(default)g]")
    parser.add_argument("--tensorrt", action="store_true", help="install TensorRT from the package registry")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-gpu", help="made if it is missing")
    parser.add_argument("--python", type=Path, help="the Python of an environment: nothing is installed")
    parser.add_argument("--steps", type=lambda text: text.split(","), help="some steps only, as cuda,plan")
    parser.add_argument("--quick", action="store_true", help="small sizes: only checks that the steps work")
    return parser.parse_args(arguments)


def install(environment: Path, output: Path, seconds: float) -> Outcome:
    """Create the environment from the locks of the images. On a Jetson it sees TensorRT of the system."""
    editables = output / "editables.txt"  # which our own package needs to stay where it is
    editables.write_text(pinned(ALL.read_text("utf-8"), "editables"))
    locks = [ROOT / f"compose/locks/{name}.txt" for name in LOCKS]
    system = [] if platform.machine() == "x86_64" else ["--system-site-packages"]
    command: list[str | Path] = [
        sys.executable,
        ROOT / "tools/create_environment.py",
        *system,
        environment,
        *locks,
        editables,
    ]
    ended = run(command, log=output / "environment.log", seconds=seconds)
    if ended.code is None:
        return failed(f"not within {seconds:.0f} s: {ended.last}")
    if ended.code:
        return failed(f"it could not be installed: {_told(output / 'environment.log', ended.last)}")
    return ok(f"{environment} from {', '.join(LOCKS)}")


def install_tensorrt(environment: Path, output: Path, seconds: float) -> Outcome:
    """Install the newest TensorRT, which no lock holds."""
    python = environment / "bin/python"
    uv = installed_uv(python)
    pip: list[str | Path] = [python, "-m", "pip", "install"]
    if uv is not None:
        pip = [uv, "pip", "install", "--python", python]
    ended = run([*pip, "tensorrt"], log=output / "wheel.log", seconds=seconds)
    if ended.code is None:
        return failed(f"TensorRT was not installed within {seconds:.0f} s: {ended.last}")
    if ended.code:
        return failed(f"TensorRT could not be installed: {_told(output / 'wheel.log', ended.last)}")
    return ok("TensorRT was installed")


def checked(step: Step, python: Path, output: Path, *, seconds: float, quick: bool) -> Outcome:
    """Run a step in a folder of its own, until its deadline."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:  # short, for unix sockets
        file = Path(folder) / "outcome.json"
        command: list[str | Path] = [
            python,
            "-m",
            "tests.gpu",
            step.name,
            "--outcome",
            file,
            "--folder",
            folder,
        ]
        command += ["--seconds", f"{seconds:.1f}", *(["--quick"] if quick else [])]
        ended = run(command, log=output / f"{step.name}.log", seconds=seconds)
        outcome = read(file)
    if outcome is not None:
        return outcome
    if ended.code is None:
        return failed(f"not within {seconds:.0f} s; it last said: {ended.last}")
    return failed(f"its process ended with {ended.code}: {ended.last}")


def table(outcomes: dict[str, Outcome]) -> str:
    """All outcomes, and a line that says whether this was a machine with a GPU."""
    lines = [f"{outcome.verdict:8} {name:12} {outcome.found}" for name, outcome in outcomes.items()]
    driver = outcomes.get(_DRIVER)
    if driver is not None and driver.verdict == "FAILED":
        lines += ["", f"no GPU: {driver.found}. Only what concerns CPUs was checked."]
    return "\n".join(lines)


def document(outcomes: dict[str, Outcome]) -> dict[str, object]:
    """The same for programs."""
    return {
        "check": "gpu",
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {"architecture": platform.machine(), "kernel": platform.release()},
        "code": code(outcomes),
        "steps": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }


def code(outcomes: dict[str, Outcome]) -> int:
    """The exit code."""
    names = [name for name, outcome in outcomes.items() if outcome.verdict == "FAILED"]
    if names == [_DRIVER]:
        return NO_GPU
    return int(bool(names))


def _within(until: float, seconds: float) -> float:
    return max(0.0, min(seconds, until - time.monotonic()))


def _told(log: Path, last: str) -> str:
    """The lines that say why an installation failed: the first error, and its cause below it."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if "error" in line.lower()), None)
    return last if first is None else " ".join(lines[first : first + 3])[:500]


if __name__ == "__main__":
    sys.exit(main())
