"""Replies to operators that wait until a device has confirmed a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamfleet_broker.fleet.devices import Asker
from streamfleet_broker.fleet.pipeline_status import confirmed
from streamfleet_broker.fleet.queries import FleetQueries
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.messages import Reply
from streamfleet_core.protocol.requests import Changed, Outcome, PipelineView, Put

Outcomes = tuple[Outcome, ...]
# Builds the reply from a pipeline and whether its device has confirmed the change; None: not yet.
ReplyBuilder = Callable[[PipelineView, bool], Changed | Put | Outcomes | None]


class OutcomeCollector:
    """Collects the outcomes of many pipelines into one reply."""

    def __init__(self, pipeline_ids: Iterable[str]) -> None:
        self._outcomes: dict[str, Outcome | None] = dict.fromkeys(pipeline_ids)

    @property
    def answer(self) -> Outcomes | None:
        """The outcomes in the order of the ids; None until all are known."""
        known = tuple(outcome for outcome in self._outcomes.values() if outcome is not None)
        return known if len(known) == len(self._outcomes) else None

    def record(self, outcome: Outcome) -> None:
        """Add the outcome of one pipeline."""
        self._outcomes[outcome.pipeline_id] = outcome

    def confirm(self, pipeline: PipelineView, confirmed: bool) -> Outcomes | None:
        """Add the outcome of a confirmed or impossible change, and return the reply if it is complete."""
        self.record(Outcome(pipeline.pipeline_id, confirmed))
        return self.answer


@dataclass(slots=True)
class _Waiter:
    """An operator that waits for the confirmation of a change."""

    asker: Asker
    record: PipelineRecord  # as it was changed
    reply: ReplyBuilder
    deadline: float


class PendingReplies:
    """Replies to each waiting operator exactly once: on confirmation, on impossibility, or on timeout."""

    def __init__(self, state: State, queries: FleetQueries) -> None:
        self._state = state
        self._queries = queries
        self._waiters: dict[str, list[_Waiter]] = {}  # by pipeline; no list is empty

    def wait(
        self,
        record: PipelineRecord,
        reply: ReplyBuilder,
        asker: Asker,
        wait_ms: int,
        now: float,
    ) -> Reply | None:
        """Reply once the device has confirmed the change, or after `wait_ms`."""
        done = confirmed(record, self._state.observed(record))
        if done is not None or wait_ms == 0:
            return Reply(reply(self._queries.view(record, now), done or False))
        waiter = _Waiter(asker, record, reply, now + wait_ms / 1000)
        self._waiters.setdefault(record.pipeline_id, []).append(waiter)
        return None

    def settle(self, record: PipelineRecord, now: float) -> None:
        """Reply to the waiters of a pipeline whose change is confirmed or impossible."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            done = confirmed(record, self._state.observed(record))
            if done is not None:
                self._release(waiter, self._queries.view(record, now), done=done)

    def supersede(self, record: PipelineRecord, now: float) -> None:
        """Reply to the waiters of an earlier change, which will never be confirmed."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(waiter, self._queries.view(record, now), done=False)

    def removed(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """Reply to the waiters of a removed pipeline. `done`: it certainly emits nothing."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(
                waiter, self._queries.view(record, now), done=done and waiter.record.desired_status == "stop"
            )

    def expire(self, now: float) -> None:
        """Reply to waiters whose time is over."""
        for pipeline_id, waiters in list(self._waiters.items()):
            for waiter in list(waiters):
                if now >= waiter.deadline:
                    record = self._state.records.pipelines[pipeline_id]
                    self._release(waiter, self._queries.view(record, now), done=False)

    def undo(self) -> list[Asker]:
        """Dismiss and return the waiters of changes that the store rejected."""
        undone = []
        for pipeline_id, waiters in list(self._waiters.items()):
            record = self._state.records.pipelines.get(pipeline_id)
            for waiter in list(waiters):
                if record is None or record.version < waiter.record.version:
                    self._dismiss(waiter)
                    undone.append(waiter.asker)
        return list(dict.fromkeys(undone))  # of many changes together each asker once

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert self._waiters.keys() <= self._state.records.pipelines.keys()
        assert all(self._waiters.values())

    def _release(self, waiter: _Waiter, pipeline: PipelineView, *, done: bool) -> None:
        self._dismiss(waiter)
        if (data := waiter.reply(pipeline, done)) is not None:
            self._state.answer(waiter.asker, data)

    def _dismiss(self, waiter: _Waiter) -> None:
        waiters = self._waiters[waiter.record.pipeline_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[waiter.record.pipeline_id]
