"""Runs the command of a step until its deadline, and ends all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MARK = "GPU_CHECK_MARK"  # in the environment of all descendants
_ENDING = 10.0  # seconds for a step that is told to end, before it is killed
_SHOWN = 300  # characters of its last line


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int | None  # None: not within its time
    last: str  # the last line that it wrote


def run(command: Sequence[str | Path], *, log: Path, seconds: float, cwd: Path = ROOT) -> Ended:
    """Run a command, whose output is written to `log`. Nothing of it runs afterwards."""
    mark = uuid.uuid4().hex
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, _MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            code = _wait(process, seconds)
        finally:
            process.kill()
            process.wait()
            _kill_marked(mark)
    return Ended(code, _last_line(log))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING)
    return None


def _kill_marked(mark: str) -> None:
    """Kill what has inherited our mark, until nothing has: a fleet's processes have sessions of their own."""
    until = time.monotonic() + _ENDING
    while (pids := _marked(f"{_MARK}={mark}".encode())) and time.monotonic() < until:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _marked(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile, or is no process
            if folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:_SHOWN] if lines else "it said nothing"
