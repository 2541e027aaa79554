"""What operators wish of pipelines: created, put, begun anew, paused, resumed and stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from typing_extensions import assert_never

from streamfleet_broker.effects import Audit
from streamfleet_broker.facts import Facts
from streamfleet_broker.movement import MAX_WISHES, Movement, size
from streamfleet_broker.protocol.messages import Desired, Error, Reply
from streamfleet_broker.protocol.requests import (
    Changed,
    ChangePipeline,
    CreatePipeline,
    PipelineView,
    Put,
    PutPipeline,
    RestartPipeline,
)
from streamfleet_broker.records import KeyRecord, PipelineRecord
from streamfleet_broker.releases import Releases
from streamfleet_broker.roster import Asker, is_silent
from streamfleet_broker.state import MAX_PIPELINES, State, no_pipeline
from streamfleet_broker.views import spelled
from streamfleet_broker.waiting import Waiting

MAX_KEYS = 10_000  # under which requests may be made again
KEY_LIFE = 86_400.0  # seconds

PipelineChange = CreatePipeline | PutPipeline | RestartPipeline | ChangePipeline


class Wishes:
    """Makes of each wish what devices are told, with no more disturbance than it needs."""

    def __init__(
        self, state: State, movement: Movement, facts: Facts, waiting: Waiting, releases: Releases
    ) -> None:
        self._state = state
        self._movement = movement
        self._facts = facts
        self._waiting = waiting
        self._releases = releases

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert len(self._state.ledger.keys) <= MAX_KEYS
        assert "" not in self._state.ledger.keys

    def do(self, request: PipelineChange, asker: Asker, now: float) -> Reply | Error | None:
        """The answer to a request, or None when it comes later."""
        match request:
            case CreatePipeline():
                return self._create_pipeline(request, now)
            case PutPipeline():
                return self._put_pipeline(request, asker, now)
            case RestartPipeline():
                return self._restart_pipeline(request, asker, now)
            case ChangePipeline():
                return self._change_pipeline(request, asker, now)
            case _:
                assert_never(request)

    def _create_pipeline(self, request: CreatePipeline, now: float) -> Reply | Error:
        if (earlier := self._made_before(request, now)) is not None:
            return earlier
        known = self._state.ledger.pipelines.get(request.pipeline_id)
        if known is None:
            record = self._begin(_new(request), now)
        elif known.want != "stop" and _is_same(known, replace(_new(request), want=known.want)):
            record = known
        else:
            state = "being stopped" if known.want == "stop" else "there already, and another one"
            return Error("conflict", f"pipeline {request.pipeline_id} is {state}")
        if isinstance(record, Error):
            return record
        if request.key:
            self._keep_key(KeyRecord(request.key, request.digest, request.pipeline_id, self._state.wall(now)))
        return Reply(self._facts.view(record, now))

    def _made_before(self, request: CreatePipeline, now: float) -> Reply | Error | None:
        """What came of the first request under the same key."""
        row = self._state.ledger.keys.get(request.key)
        if row is None or self._state.wall(now) - row.created_at > KEY_LIFE:
            return None
        if row.digest != request.digest:
            return Error("mismatch", "something else was asked for under this key before")
        record = self._state.wished(row.pipeline_id)
        if record is None:
            text = f"pipeline {row.pipeline_id} was made under this key and has been deleted"
            return Error("conflict", text)
        return Reply(self._facts.view(record, now))

    def _keep_key(self, row: KeyRecord) -> None:
        """Keys that are too old, or too many, go."""
        oldest = sorted(self._state.ledger.keys.values(), key=lambda known: known.created_at)
        surplus = len(oldest) + 1 - MAX_KEYS
        for position, known in enumerate(oldest):
            if position < surplus or row.created_at - known.created_at > KEY_LIFE:
                self._state.ledger.remove(known)
        self._state.ledger.write(row)

    def _begin(self, wished: PipelineRecord, now: float) -> PipelineRecord | Error:
        """A pipeline that is not there yet comes to be, with all that is wished of it."""
        if (refusal := self._refuse_wish(wished)) is not None:
            return refusal
        gen = self._state.ledger.floor + 1
        created = max((record.created for record in self._state.ledger.pipelines.values()), default=0) + 1
        record = replace(
            wished, gen=gen, start_gen=gen, created=created, version=1, created_at=self._state.wall(now)
        )
        if record.requested is None:
            record = replace(record, device=self._movement.target(record, self._movement.candidates()))
        self._state.change(record)
        self._state.then.append(Audit(record.pipeline_id, f"created on {record.device or 'no device yet'}"))
        return record

    def _refuse_wish(self, record: PipelineRecord) -> Error | None:
        name = record.requested
        if size(Desired(self._state.rev, (record.wish(),))) > MAX_WISHES:
            return Error("invalid", f"pipeline {record.pipeline_id} is larger than {MAX_WISHES} bytes")
        if name is None:
            return None
        if name not in self._state.devices:
            return self._state.no_device(name)
        if not self._movement.meets(name, record.selector):
            return Error("invalid", f"device {name} does not have the labels {spelled(record.selector)}")
        if len(self._state.ledger.placed[name] - {record.pipeline_id}) >= MAX_PIPELINES:
            return Error("too_many", f"device {name} has {MAX_PIPELINES} pipelines already")
        if not self._movement.fits(record, name):
            return Error("too_many", f"the pipelines of device {name} would not fit into one message")
        return None

    def _put_pipeline(self, request: PutPipeline, asker: Asker, now: float) -> Reply | Error | None:
        known = self._state.ledger.pipelines.get(request.pipeline_id)
        if known is not None and _is_asked_again(known, asker):
            return self._waiting.wait(known, _put(created=known.version == 1), asker, request.wait_ms, now)
        if known is not None and known.want == "stop":
            return Error("conflict", f"pipeline {request.pipeline_id} is being stopped")
        if request.expected is not None and (known is None or known.version != request.expected):
            state = "is not there" if known is None else f"has version {known.version}"
            text = f"pipeline {request.pipeline_id} {state}, expected version {request.expected}"
            return Error("conflict", text)
        wished = replace(_new(request), changed_by=asker.request_id)
        if known is not None and _is_same(known, wished):
            return self._waiting.wait(known, _put(changed=False), asker, request.wait_ms, now)
        record = self._begin(wished, now) if known is None else self._rewish(known, wished, now)
        if isinstance(record, Error):
            return record
        return self._waiting.wait(record, _put(created=known is None), asker, request.wait_ms, now)

    def _rewish(self, known: PipelineRecord, wished: PipelineRecord, now: float) -> PipelineRecord | Error:
        """A pipeline becomes what is wished of it, with no more disturbance than that needs."""
        record = replace(
            known,
            spec=wished.spec,
            requested=wished.requested,
            selector=wished.selector,
            labels=wished.labels,
            want=wished.want,
            version=known.version + 1,
            changed_by=wished.changed_by,
        )
        if (refusal := self._refuse_wish(record)) is not None:
            return refusal
        device = self._device_for(record)
        if device != known.device:
            record = self._movement.moved(record, device, now)
        elif not record.spec.plays_like(known.spec) or record.pinned != known.pinned:
            record = replace(record, gen=known.gen + 1, start_gen=known.gen + 1)
        elif (record.spec, record.want) != (known.spec, known.want):
            record = replace(record, gen=known.gen + 1)
        if record.gen == known.gen:
            self._state.ledger.write(record)
        else:
            self._state.change(record)
            self._waiting.supersede(record, now)
        event = f"version {record.version}: {_summary(known, record)}"
        self._state.then.append(Audit(record.pipeline_id, event))
        return record

    def _device_for(self, record: PipelineRecord) -> str | None:
        """Where a changed pipeline runs: where it did, if that still suits it."""
        name, movement = record.device, self._movement
        if record.requested is not None:
            return record.requested
        if name is not None and movement.meets(name, record.selector) and movement.fits(record, name):
            return name
        return movement.target(record, movement.candidates())

    def _restart_pipeline(self, request: RestartPipeline, asker: Asker, now: float) -> Reply | Error:
        record = self._state.wished(request.pipeline_id)
        if record is None:
            return no_pipeline(request.pipeline_id)
        if not _is_asked_again(record, asker):
            gen, version = record.gen + 1, record.version + 1
            record = replace(
                record, want="run", gen=gen, start_gen=gen, version=version, changed_by=asker.request_id
            )
            self._state.change(record)
            self._waiting.supersede(record, now)
            self._state.then.append(Audit(record.pipeline_id, "begins anew"))
        return Reply(self._facts.view(record, now))

    def _change_pipeline(self, request: ChangePipeline, asker: Asker, now: float) -> Reply | Error | None:
        known = self._state.ledger.pipelines.get(request.pipeline_id)
        if known is not None and _is_asked_again(known, asker):
            return self._waiting.wait(known, Changed, asker, request.wait_ms, now)
        record = self._state.wished(request.pipeline_id)
        if record is None:
            return no_pipeline(request.pipeline_id)
        if request.want != "stop" and (request.want == record.want or self._state.has_finished(record)):
            status = self._facts.view(record, now).status
            return Error("conflict", f"pipeline {record.pipeline_id} is {status}")
        record = replace(
            record,
            want=request.want,
            gen=record.gen + 1,
            version=record.version + 1,
            changed_by=asker.request_id,
        )
        self._state.then.append(Audit(record.pipeline_id, f"wanted: {request.want}"))
        holder = None if record.holder is None else self._state.devices[record.holder]
        if request.want == "stop" and (holder is None or self._state.is_gone(holder, now)):
            done = holder is None or is_silent(holder, record)
            self._releases.remove(record, now, done=done)
            return Reply(Changed(self._facts.view(record, now), done))
        self._state.change(record)
        self._waiting.supersede(record, now)
        return self._waiting.wait(record, Changed, asker, request.wait_ms, now)


def _new(request: CreatePipeline | PutPipeline) -> PipelineRecord:
    """What is wished for, of a pipeline about which nothing is known yet."""
    return PipelineRecord(
        request.pipeline_id,
        1,
        1,
        request.want,
        request.spec,
        request.device,
        request.device,
        1,
        selector=request.selector,
        labels=request.labels,
    )


def _is_same(record: PipelineRecord, wished: PipelineRecord) -> bool:
    """Is it wished for just so already?"""
    return all(
        getattr(record, name) == getattr(wished, name)
        for name in ("spec", "requested", "selector", "labels", "want")
    )


def _is_asked_again(record: PipelineRecord, asker: Asker) -> bool:
    """Is this the request that made a pipeline what it is? Its answer got lost."""
    return bool(asker.request_id) and record.changed_by == asker.request_id


def _put(*, created: bool = False, changed: bool = True) -> Callable[[PipelineView, bool], Put]:
    return lambda pipeline, done: Put(pipeline, created, changed, done)


def _summary(known: PipelineRecord, record: PipelineRecord) -> str:
    """What a change means for who looks at the pipeline."""
    if record.start_gen != known.start_gen:
        return f"begins anew on {record.device or 'no device yet'}"
    return "changes as it runs" if record.gen != known.gen else "nothing that a device is told"
