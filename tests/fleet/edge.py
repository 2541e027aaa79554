"""A worker that is no child of `streamfleet up`, with all of its processes: a device of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.patience import PATIENCE
from tests.fleet.harness import BIN, MARK, Fleet, marked_processes, process_name


@dataclass(slots=True)
class Edge:
    """A worker that is no child of the fleet, with all of its processes."""

    fleet: Fleet
    name: str
    home: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None
    program: tuple[str, ...] = (str(BIN / "streamfleet-worker"),)

    def start(self, *options: str) -> None:
        """Start it. It joins with its token at the first time."""
        command = [*self.program, "--data-dir", str(self.home), *options]
        environment = {**self.fleet.environment, MARK: self.mark}
        with (self.home.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """End every process of it at once."""
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):  # its parent ended, and it did, too
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(PATIENCE)

    def signal_agent(self, number: int) -> None:
        """Send a signal to its agent."""
        for pid in marked_processes(self.mark):
            if process_name(pid) == "sf-agent":
                os.kill(pid, number)
