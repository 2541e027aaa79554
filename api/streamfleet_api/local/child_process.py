"""One process of a fleet on this machine: started, watched, restarted, stopped."""

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

from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.local.hang_detector import ProcessId
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.process import dying_with_parent

FIRST_PAUSE = 0.2  # seconds before a restart, doubled at each exit in a row
LONGEST_PAUSE = 2.0  # seconds: the fleet is back within ten seconds, even if the broker keeps crashing
HEALTHY = 10.0  # seconds of running after which an exit counts as the first one
_FOLDERS = ("STREAMFLEET_MODEL_CACHE_DIR", "MODEL_CACHE_DIR")  # of the environment, for the api
_REAP_TIMEOUT = 3.0  # seconds for the kernel to end a killed process


class ChildProcess:
    """One process of the fleet, restarted when it exits."""

    def __init__(
        self,
        child_id: ProcessId,
        command: list[str],
        log: Path | None,
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self.id = child_id
        self.log = log
        self._command = command
        self._environment = environment  # asked at each start: a worker that has no identity needs a token
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(first=FIRST_PAUSE, limit=LONGEST_PAUSE, jitter=0.0)
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
        """The process id; None while no process exists."""
        return None if self._process is None else self._process.pid

    @property
    def started(self) -> float | None:
        """When the process started (monotonic seconds); None while none runs."""
        return None if self._process is None or self._process.poll() is not None else self._started

    def ending(self) -> str | None:
        """Describe how the process ended; None while it runs or before its start."""
        code = None if self._process is None else self._process.poll()
        return None if code is None else _told(code)

    def revive(self, now: float) -> str | None:
        """Restart the process if it ended and its backoff is over. Return a notice when it has just ended."""
        ending = self.ending()
        if ending is None and self._process is not None:
            return None
        notice = None
        if self._process is not None:
            if now - self._started > HEALTHY:
                self._backoff.succeeded()
            pause = self._backoff.failed()
            self._next = now + pause
            self._process = None
            notice = f"{ending}, restarts in {pause:.1f} s"
        if now >= self._next:
            try:
                self.start()
            except (CommandFailed, OSError) as exc:
                self._next = now + 1.0
                return f"cannot start yet: {exc}"
        return notice

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to its whole process group, which also ends stopped and hung processes."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, deadline: float) -> None:
        """Wait until it has ended; kill it at the deadline (monotonic)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(_REAP_TIMEOUT)
        self._process = None


def end(children: list[ChildProcess], timeout: float) -> None:
    """Stop all of them at once, and kill those that take longer than `timeout`."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + timeout
    for child in children:
        child.wait(deadline)


def _told(code: int) -> str:
    """Describe an exit code of `Popen`, which is negative for a signal."""
    if code >= 0:
        return f"ended with {code}"
    known = -code in set(signal.Signals)
    return f"was killed ({signal.Signals(-code).name if known else f'signal {-code}'})"


def _inherited() -> dict[str, str]:
    """Our environment without the token, and with absolute folders."""
    ours = {name: value for name, value in os.environ.items() if name != "STREAMFLEET_TOKEN"}
    folders = {name: str(Path(ours[name]).expanduser().absolute()) for name in _FOLDERS if ours.get(name)}
    return {**ours, **folders}
