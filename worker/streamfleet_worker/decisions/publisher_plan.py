"""The publisher of a device: one process that always runs. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable

from streamfleet_worker.decisions.children import Child
from streamfleet_worker.decisions.reconcile_actions import Action, StartPublisher
from streamfleet_worker.decisions.reconcile_events import PublisherId
from streamfleet_worker.decisions.restart_policy import RestartPolicy
from streamfleet_worker.ipc.child_messages import PublisherReport


class PublisherPlan:
    """Keeps the publisher running. `rng` returns numbers in [0, 1) for the jitter."""

    def __init__(self, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._runs = 0
        self._restart_policy = RestartPolicy()
        self.child: Child[PublisherId] | None = None
        self.report: PublisherReport | None = None  # the last one of the present process
        self.watched: tuple[str, ...] = ()  # topics of previews with a subscriber, in its last report

    def reported(self, child_id: PublisherId, report: PublisherReport, now: float) -> None:
        """Record a report. Only the present process counts."""
        if self.child is not None and self.child.id == child_id:
            self.child.heard_at = now
            self.report = report
            self.watched = report.watched

    def only_counts(self, child_id: PublisherId, report: PublisherReport) -> bool:
        """Whether it reports other counters than before, and nothing else: nothing follows from it."""
        is_present = self.child is not None and self.child.id == child_id
        return is_present and self.report is not None and self.watched == report.watched

    def exited(self, child_id: PublisherId, now: float) -> None:
        """Start it again after the backoff."""
        if self.child is not None and self.child.id == child_id:
            self._restart_policy.crashed(self.child.started_at, now, self._rng())
            self.child = self.report = None
            self.watched = ()

    def kill_stuck(self, now: float) -> list[Action]:
        """Kill it if it does not report in time."""
        if self.child is None or not self.child.staying:
            return []
        complaint = self.child.silence(now)
        return [] if complaint is None else [self.child.kill(complaint)]

    def deadline(self) -> float:
        """Return when it must be looked at again, if nothing happens until then. It may be over."""
        return self._restart_policy.at if self.child is None else self.child.deadline()

    def keep(self, now: float) -> list[Action]:
        """Start it if it does not exist."""
        if self.child is not None or now < self._restart_policy.at:
            return []
        self._runs += 1
        self.child = Child(id=PublisherId(self._runs), started_at=now)
        return [StartPublisher(self.child.id)]
