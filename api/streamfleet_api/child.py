"""One process of a fleet on this machine: started, watched, started again, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from streamfleet_api.commands import CommandFailed
from streamfleet_api.process import dying_with_parent

FIRST_PAUSE = 0.1  # seconds, doubled at each death in a row, until a child starts again
LONGEST_PAUSE = 2.0  # seconds: whatever kills a broker again and again, the fleet is back within ten
HEALTHY = 10.0  # seconds after which a death counts as the first one
_FOLDERS = ("STREAMFLEET_MODEL_CACHE_DIR", "MODEL_CACHE_DIR")  # of the environment, for the api
_REAP_TIMEOUT = 3.0  # seconds until the kernel has ended what was killed


class Child:
    """One process of the fleet, started again when it dies."""

    def __init__(
        self, name: str, command: list[str], log: Path | None, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment  # asked at each start: a worker that has no identity needs a token
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = 0.0
        self._next = 0.0

    def start(self) -> None:
        """Start the process. Raises: CommandFailed, OSError."""
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = None
            if self.log is not None:
                output = stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                env={**_inherited(), **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",  # `-m` imports from its folder first, and in ours may lie anything
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )
        self._started = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def started(self) -> float | None:
        """When the process was (monotonic seconds), None while none runs."""
        return None if self._process is None or self._process.poll() is not None else self._started

    def ending(self) -> str | None:
        """How the process ended, for people; None while it runs or before its start."""
        code = None if self._process is None else self._process.poll()
        return None if code is None else _told(code)

    def revive(self, now: float) -> str | None:
        """Start the process again when it ended and its back-off is over; a line for people when it ended."""
        ending = self.ending()
        if ending is None and self._process is not None:
            return None
        notice = None
        if self._process is not None:
            self._failures = 1 if now - self._started > HEALTHY else self._failures + 1
            pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._next = now + pause
            self._process = None
            notice = f"{self.name} {ending}, starts again in {pause:.1f} s"
        if now >= self._next:
            try:
                self.start()
            except (CommandFailed, OSError) as exc:
                self._next = now + 1.0
                return f"{self.name} cannot start yet: {exc}"
        return notice

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL for its whole process group, which also ends what is stopped or hangs."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, deadline: float) -> None:
        """Until it has ended, or the deadline (monotonic) and then `kill`."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(_REAP_TIMEOUT)
        self._process = None


def end(children: list[Child], timeout: float) -> None:
    """All of them at once, killed if they take longer."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + timeout
    for child in children:
        child.wait(deadline)


def _told(code: int) -> str:
    """An exit code of `Popen`, where a signal is below zero."""
    if code >= 0:
        return f"ended with {code}"
    known = -code in set(signal.Signals)
    return f"was killed ({signal.Signals(-code).name if known else f'signal {-code}'})"


def _inherited() -> dict[str, str]:
    """Our environment, without what children have no need to know; folders as they are from anywhere."""
    ours = {name: value for name, value in os.environ.items() if name != "STREAMFLEET_TOKEN"}
    folders = {name: str(Path(ours[name]).expanduser().absolute()) for name in _FOLDERS if ours.get(name)}
    return {**ours, **folders}
