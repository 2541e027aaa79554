"""Builds variants of a model on a device of the fleet, and follows it until it has ended.

pictures ──upload──▶ API ──▶ broker ──▶ device: builds, measures, uploads the best ──▶ API registers it
progress and figures ◀── the status of the device ◀──┘
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamfleet_api.cli.trials.uploads import undisturbed
from streamfleet_api.client.errors import CommandFailed
from streamfleet_core.protocol.tasks.optimisation import OptimisationStat

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

_EVERY = 0.3  # seconds between two looks; a device tells its status once a second
_BEGIN = 30.0  # seconds until its status must say that it has begun
_GONE = ("new", "lost", "left", "quarantined")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptimisation:
    """Variants of a model, built on a device."""

    client: Client
    model_id: str
    device: str
    agreement: float
    frames: int
    dry_run: bool

    def run(self, pictures: str, on_progress: Callable[[str], None]) -> OptimisationStat:
        """Let the device build, and return its last word. Whatever ends this ends it there.

        Raises: CommandFailed.
        """
        task_id = self.client.start_optimisation(
            self.model_id,
            self.device,
            pictures=pictures,
            frames=self.frames,
            agreement=self.agreement,
            dry_run=self.dry_run,
        )
        try:
            return self._followed(task_id, on_progress)
        finally:
            with undisturbed(), contextlib.suppress(CommandFailed):  # what has ended cannot be cancelled
                self.client.cancel_optimisation(task_id)

    def _followed(self, task_id: str, on_progress: Callable[[str], None]) -> OptimisationStat:
        began = time.monotonic()
        is_known = False
        while True:
            device = self.client.get_device(self.device)
            stat = device.optimisation
            if stat is not None and stat.id == task_id:
                is_known = True
                on_progress(f"{self.device}: {stat.progress}")
                if stat.ended:
                    return stat
            elif is_known:
                raise CommandFailed(
                    f"{self.device} has given it up: its agent or the broker was started again"
                )
            elif time.monotonic() - began > _BEGIN:
                raise CommandFailed(f"{self.device} has not begun within {_BEGIN:.0f} s")
            if device.state in _GONE:
                raise CommandFailed(
                    f"{self.device} is {device.state}: nothing is registered",
                    f"'streamfleet doctor {self.device}' tells what is wrong",
                )
            time.sleep(_EVERY)
