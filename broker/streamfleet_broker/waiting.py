"""Operators who wait until a device has done what they wished for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamfleet_broker.facts import Facts
from streamfleet_broker.protocol.messages import Reply
from streamfleet_broker.protocol.requests import Changed, PipelineView, Put
from streamfleet_broker.records import PipelineRecord
from streamfleet_broker.roster import Asker
from streamfleet_broker.state import State
from streamfleet_broker.views import confirmed


@dataclass(slots=True)
class _Waiter:
    """An operator who waits until the device has done it."""

    asker: Asker
    record: PipelineRecord  # as it was wished for
    reply: Callable[[PipelineView, bool], Changed | Put]  # to be told, and whether the device has done it
    deadline: float


class Waiting:
    """Answers each of them once: when it is done, when it never will be, or when their time is over."""

    def __init__(self, state: State, facts: Facts) -> None:
        self._state = state
        self._facts = facts
        self._waiters: dict[str, list[_Waiter]] = {}  # pipeline → who waits for it; none is empty

    def wait(
        self,
        record: PipelineRecord,
        reply: Callable[[PipelineView, bool], Changed | Put],
        asker: Asker,
        wait_ms: int,
        now: float,
    ) -> Reply | None:
        """Answer when the device has done it, or after `wait_ms`."""
        done = confirmed(record, self._state.observed(record))
        if done is not None or wait_ms == 0:
            return Reply(reply(self._facts.view(record, now), done or False))
        waiter = _Waiter(asker, record, reply, now + wait_ms / 1000)
        self._waiters.setdefault(record.pipeline_id, []).append(waiter)
        return None

    def settle(self, record: PipelineRecord, now: float) -> None:
        """Answer whoever waits for this pipeline, if there is something to say."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            done = confirmed(record, self._state.observed(record))
            if done is not None:
                self._release(waiter, self._facts.view(record, now), done=done)

    def supersede(self, record: PipelineRecord, now: float) -> None:
        """Who waits for an earlier wish will never see it done."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(waiter, self._facts.view(record, now), done=False)

    def removed(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """Answer whoever waits for a pipeline that is no more. `done`: it certainly emits nothing."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(waiter, self._facts.view(record, now), done=done and waiter.record.want == "stop")

    def give_up(self, now: float) -> None:
        """Answer those whose time is over."""
        for pipeline_id, waiters in list(self._waiters.items()):
            for waiter in list(waiters):
                if now >= waiter.deadline:
                    record = self._state.ledger.pipelines[pipeline_id]
                    self._release(waiter, self._facts.view(record, now), done=False)

    def undo(self) -> list[Asker]:
        """Who waited for a wish that the store did not take. Nobody answers them any more."""
        undone = []
        for pipeline_id, waiters in list(self._waiters.items()):
            record = self._state.ledger.pipelines.get(pipeline_id)
            for waiter in list(waiters):
                if record is None or record.version < waiter.record.version:
                    self._dismiss(waiter)
                    undone.append(waiter.asker)
        return undone

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert self._waiters.keys() <= self._state.ledger.pipelines.keys()
        assert all(self._waiters.values())

    def _release(self, waiter: _Waiter, pipeline: PipelineView, *, done: bool) -> None:
        self._dismiss(waiter)
        self._state.answer(waiter.asker, waiter.reply(pipeline, done))

    def _dismiss(self, waiter: _Waiter) -> None:
        waiters = self._waiters[waiter.record.pipeline_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[waiter.record.pipeline_id]
