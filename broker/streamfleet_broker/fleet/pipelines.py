"""Changes of pipelines: create, put, restart, pause, resume and stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from typing_extensions import assert_never

from streamfleet_broker.fleet.capacity.placement import meets
from streamfleet_broker.fleet.capacity.spare import FleetPool
from streamfleet_broker.fleet.device_plane.confirmations import DeviceConfirmations
from streamfleet_broker.fleet.devices import Asker, is_silent
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.pending_replies import OutcomeCollector, PendingReplies
from streamfleet_broker.fleet.pipeline_status import spelled
from streamfleet_broker.fleet.queries import FleetQueries
from streamfleet_broker.fleet.records import KeyRecord, PipelineRecord
from streamfleet_broker.fleet.scheduler import MAX_DESIRED_SIZE, Scheduler, size
from streamfleet_broker.fleet.state import MAX_PIPELINES, State, no_pipeline
from streamfleet_core.protocol.messages import Desired, Error, Reply
from streamfleet_core.protocol.requests import (
    Applied,
    ApplyPipelines,
    Change,
    Changed,
    ChangePipeline,
    ChangePipelines,
    CreatePipeline,
    DesiredPipeline,
    Outcome,
    PipelineView,
    Put,
    PutPipeline,
    RestartPipeline,
)
from streamfleet_core.protocol.values import ModelRef

MAX_KEYS = 10_000  # idempotency keys
KEY_LIFE = 86_400.0  # seconds

PipelineChange = (
    CreatePipeline | PutPipeline | RestartPipeline | ChangePipeline | ChangePipelines | ApplyPipelines
)


class Pipelines:
    """Applies changes to pipelines, and interrupts what runs no more than necessary."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        queries: FleetQueries,
        pending_replies: PendingReplies,
        confirmations: DeviceConfirmations,
    ) -> None:
        self._state = state
        self._scheduler = scheduler
        self._queries = queries
        self._pending_replies = pending_replies
        self._confirmations = confirmations

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert len(self._state.records.keys) <= MAX_KEYS
        assert "" not in self._state.records.keys

    def do(self, request: PipelineChange, asker: Asker, now: float) -> Reply | Error | None:
        """Execute a request. The reply, or None if it follows later."""
        match request:
            case CreatePipeline():
                return self._create_pipeline(request, now)
            case PutPipeline():
                return self._put_pipeline(request, asker, now)
            case RestartPipeline():
                return self._restart_pipeline(request, asker, now)
            case ChangePipeline():
                return self._change_pipeline(request, asker, now)
            case ChangePipelines():
                return self._change_pipelines(request, asker, now)
            case ApplyPipelines():
                return self._apply(request, asker, now)
            case _:
                assert_never(request)

    def _apply(self, request: ApplyPipelines, asker: Asker, now: float) -> Reply | Error:
        """Put and stop many pipelines in one step, and so in one write, if they are as the asker saw them."""
        puts = [replace(_new(each), changed_by=asker.request_id) for each in request.puts]
        records = self._state.records.pipelines
        known = {each.pipeline_id: records.get(each.pipeline_id) for each in puts}
        is_retry = any(record and _is_retry(record, asker) for record in known.values())
        if not is_retry and (difference := self._difference(request)):
            return Error("conflict", difference)
        if request.dry_run:
            with self._scheduler.supposing(request.devices) as pool:
                done = self._placed({each.pipeline_id: self._becoming(each, now) for each in puts}, pool)
            stopped = [Applied(pipeline_id=pipeline_id) for pipeline_id in request.stops]
        else:
            done = {each.pipeline_id: self._apply_one(each, now) for each in puts}
            stopped = [self._stop_one(pipeline_id, asker, now) for pipeline_id in request.stops]
            self._create_rest(of for name, of in done.items() if name not in records)
            done = {name: of if isinstance(of, Error) else records[name] for name, of in done.items()}
        return Reply((*(_applied(name, known[name], of) for name, of in done.items()), *stopped))

    def _placed(
        self, becoming: dict[str, PipelineRecord | Error], pool: FleetPool
    ) -> dict[str, PipelineRecord | Error]:
        """The same with the devices that pipelines without one would be placed on."""
        records = [of for of in becoming.values() if isinstance(of, PipelineRecord)]
        for record in records:
            if record.device is not None and record.pipeline_id not in self._state.records.pipelines:
                self._scheduler.put(record, pool)
        waiting = [record for record in records if record.device is None]
        chosen = self._scheduler.choices(waiting, pool)
        placed = {of.pipeline_id: replace(of, device=name) for of, name in chosen}
        return {**becoming, **placed}

    def _difference(self, request: ApplyPipelines) -> str:
        """What is no longer as the asker of a request saw it; "" if all of it is."""
        for pipeline_id, version in request.seen.items():
            record = self._state.active_pipeline(pipeline_id)
            if (0 if record is None else record.version) != version:
                state = "is not there" if record is None else f"has version {record.version}"
                return f"pipeline {pipeline_id} {state}, expected version {version}"
        for record in self._state.records.pipelines.values() if request.owned else ():
            is_seen = record.pipeline_id in request.seen or record.desired_status == "stop"
            if not is_seen and meets(record.labels, request.owned):
                return f"pipeline {record.pipeline_id} has the labels {spelled(request.owned)} by now"
        return ""

    def _becoming(self, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """What becomes of a pipeline; a new one has only a device that was requested."""
        known = self._state.records.pipelines.get(desired.pipeline_id)
        if known is None:
            return self._created(desired, now)
        if known.desired_status == "stop":
            return Error("conflict", f"pipeline {desired.pipeline_id} is being stopped")
        return known if _is_same(known, desired) else self._updated(known, desired, now)

    def _apply_one(self, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """Put one of many pipelines. A new one without a device is not written yet."""
        known = self._state.records.pipelines.get(desired.pipeline_id)
        record = self._becoming(desired, now)
        if isinstance(record, Error) or record is known:
            return record
        if known is not None:
            self._write_update(known, record, now)
        elif record.device is not None:
            self._write_new(record)
        return record

    def _create_rest(self, new: Iterable[PipelineRecord | Error]) -> None:
        """Write new pipelines without a device, and place each beside those before it."""
        records = [each for each in new if isinstance(each, PipelineRecord)]
        first = self._next_created()
        numbered = [replace(record, created=first + number) for number, record in enumerate(records)]
        for record, device in self._scheduler.choices(numbered):
            self._write_new(replace(record, device=device))
        for record in numbered:
            if record.pipeline_id not in self._state.records.pipelines:
                self._write_new(record)

    def _stop_one(self, pipeline_id: str, asker: Asker, now: float) -> Applied:
        """Stop one of many pipelines. It may be gone already."""
        done = self._change_pipeline(ChangePipeline(pipeline_id, "stop"), asker, now)
        if isinstance(done, Error) and done.code != "not_found":
            return Applied(pipeline_id=pipeline_id, refusal=done.code, message=done.message)
        return Applied(pipeline_id=pipeline_id)

    def _create_pipeline(self, request: CreatePipeline, now: float) -> Reply | Error:
        if (earlier := self._earlier_reply(request, now)) is not None:
            return earlier
        known = self._state.records.pipelines.get(request.pipeline_id)
        if known is None:
            record = self._create_record(_new(request), now)
        elif known.desired_status != "stop" and _is_same(
            known, replace(_new(request), desired_status=known.desired_status)
        ):
            record = known
        else:
            state = "being stopped" if known.desired_status == "stop" else "there already, and another one"
            return Error("conflict", f"pipeline {request.pipeline_id} is {state}")
        if isinstance(record, Error):
            return record
        if request.key:
            self._keep_key(KeyRecord(request.key, request.digest, request.pipeline_id, self._state.wall(now)))
        return Reply(self._queries.view(record, now))

    def _earlier_reply(self, request: CreatePipeline, now: float) -> Reply | Error | None:
        """The reply to an earlier request with the same key."""
        row = self._state.records.keys.get(request.key)
        if row is None or self._state.wall(now) - row.created_at > KEY_LIFE:
            return None
        if row.digest != request.digest:
            return Error("mismatch", "this key was used for a different request before")
        record = self._state.active_pipeline(row.pipeline_id)
        if record is None:
            text = f"pipeline {row.pipeline_id} was created with this key and has been deleted"
            return Error("conflict", text)
        return Reply(self._queries.view(record, now))

    def _keep_key(self, row: KeyRecord) -> None:
        """Store a key, and remove expired and surplus ones."""
        oldest = sorted(self._state.records.keys.values(), key=lambda known: known.created_at)
        surplus = len(oldest) + 1 - MAX_KEYS
        for position, known in enumerate(oldest):
            if position < surplus or row.created_at - known.created_at > KEY_LIFE:
                self._state.records.remove(known)
        self._state.records.write(row)

    def _create_record(self, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """Create a pipeline and place it on a device."""
        record = self._created(desired, now)
        if isinstance(record, Error):
            return record
        if record.requested is None:
            record = replace(record, device=self._scheduler.target(record))
        self._write_new(record)
        return record

    def _write_new(self, record: PipelineRecord) -> None:
        self._state.change(record)
        event = f"created on {record.device or 'no device yet'}"
        self._state.after_commit.append(LogEvent(record.pipeline_id, event))

    def _next_created(self) -> int:
        return max((record.created for record in self._state.records.pipelines.values()), default=0) + 1

    def _created(self, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """The record of a new pipeline, without a device unless one was requested."""
        if (refusal := self._refuse(desired)) is not None:
            return refusal
        generation = self._state.records.floor + 1
        return replace(
            desired,
            generation=generation,
            run_generation=generation,
            created=self._next_created(),
            version=1,
            created_at=self._state.wall(now),
        )

    def _refuse(self, record: PipelineRecord) -> Error | None:
        name = record.requested
        if size(Desired(self._state.revision, (record.assignment(),))) > MAX_DESIRED_SIZE:
            return Error("invalid", f"pipeline {record.pipeline_id} is larger than {MAX_DESIRED_SIZE} bytes")
        if name is None:
            return None
        if name not in self._state.devices:
            return self._state.no_device(name)
        if not self._scheduler.meets(name, record.selector):
            return Error("invalid", f"device {name} does not have the labels {spelled(record.selector)}")
        records = self._state.records
        known = records.pipelines.get(record.pipeline_id)
        if self._scheduler.is_cordoned(name) and (known is None or known.device != name):
            return Error("conflict", f"device {name} is cordoned: uncordon it, or name another device")
        if len((records.placed[name] | records.standby[name]) - {record.pipeline_id}) >= MAX_PIPELINES:
            return Error("too_many", f"device {name} has {MAX_PIPELINES} pipelines already")
        if not self._scheduler.fits(record, name):
            return Error("too_many", f"the pipelines of device {name} would not fit into one message")
        return None

    def _put_pipeline(self, request: PutPipeline, asker: Asker, now: float) -> Reply | Error | None:
        known = self._state.records.pipelines.get(request.pipeline_id)
        if known is not None and _is_retry(known, asker):
            return self._pending_replies.wait(
                known, _put(created=known.version == 1), asker, request.wait_ms, now
            )
        if known is not None and known.desired_status == "stop":
            return Error("conflict", f"pipeline {request.pipeline_id} is being stopped")
        if request.expected is not None and (known is None or known.version != request.expected):
            state = "is not there" if known is None else f"has version {known.version}"
            text = f"pipeline {request.pipeline_id} {state}, expected version {request.expected}"
            return Error("conflict", text)
        desired = replace(_new(request), changed_by=asker.request_id)
        if known is not None and _is_same(known, desired):
            return self._pending_replies.wait(known, _put(changed=False), asker, request.wait_ms, now)
        record = self._create_record(desired, now) if known is None else self._update(known, desired, now)
        if isinstance(record, Error):
            return record
        return self._pending_replies.wait(record, _put(created=known is None), asker, request.wait_ms, now)

    def _update(self, known: PipelineRecord, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """Update a pipeline, and restart it only if the change requires that."""
        record = self._updated(known, desired, now)
        if not isinstance(record, Error):
            self._write_update(known, record, now)
        return record

    def _updated(self, known: PipelineRecord, desired: PipelineRecord, now: float) -> PipelineRecord | Error:
        """The record of a changed pipeline."""
        record = replace(
            known,
            spec=desired.spec,
            requested=desired.requested,
            selector=desired.selector,
            requested_on_disconnect=desired.requested_on_disconnect,
            labels=desired.labels,
            desired_status=desired.desired_status,
            version=known.version + 1,
            changed_by=desired.changed_by,
            crash_loops=known.crash_loops if _runs_the_same(known, desired) else (),
        )
        if (refusal := self._refuse(record)) is not None:
            return refusal
        device = self._device_for(record)
        if device != known.device:
            return self._scheduler.moved(record, device, now)
        if self._begins_anew(known, record):
            generation = known.generation + 1
            return replace(record, generation=generation, run_generation=generation, standby=None)
        if record.pinned and record.standby is not None:  # it names its device by now, and no longer moves
            return replace(record, generation=known.generation + 1, standby=None)
        if (record.spec, record.desired_status) != (known.spec, known.desired_status):
            return replace(record, generation=known.generation + 1)
        return record

    def use_model(self, pipeline_id: str, model: ModelRef, now: float) -> None:
        """Let a pipeline use another model. It may be gone, or use it already."""
        known = self._state.active_pipeline(pipeline_id)
        if known is None or known.spec.model == model:
            return
        desired = replace(known, spec=replace(known.spec, model=model), changed_by=b"")
        record = self._updated(known, desired, now)
        if isinstance(record, Error):
            self._state.after_commit.append(LogEvent(pipeline_id, record.message, severity="error"))
        else:
            self._write_update(known, record, now)

    def _begins_anew(self, known: PipelineRecord, record: PipelineRecord) -> bool:
        """Whether a change on the same device begins a new run."""
        if known.is_poison and not record.is_poison:
            return True
        if not record.spec.can_update_to(known.spec) or record.on_disconnect != known.on_disconnect:
            return True
        # Nothing runs that could go on with it.
        has_new_models = record.spec.ordered_models != known.spec.ordered_models
        return has_new_models and self._state.has_finished(known)

    def _write_update(self, known: PipelineRecord, record: PipelineRecord, now: float) -> None:
        if record.generation == known.generation:
            self._state.records.write(record)
        else:
            self._state.change(record)
            self._pending_replies.supersede(record, now)
        event = f"version {record.version}: {_summary(known, record)}"
        self._state.after_commit.append(LogEvent(record.pipeline_id, event))

    def _device_for(self, record: PipelineRecord) -> str | None:
        """The device of a changed pipeline: the present one, if it still fits."""
        name, scheduler = record.device, self._scheduler
        if record.is_poison:
            return None
        if record.requested is not None:
            return record.requested
        if name is not None and scheduler.meets(name, record.selector) and scheduler.fits(record, name):
            return name
        return scheduler.target(record)

    def _restart_pipeline(self, request: RestartPipeline, asker: Asker, now: float) -> Reply | Error:
        record = self._state.active_pipeline(request.pipeline_id)
        if record is None:
            return no_pipeline(request.pipeline_id)
        if not _is_retry(record, asker):
            generation, version = record.generation + 1, record.version + 1
            record = replace(
                record,
                desired_status="run",
                generation=generation,
                run_generation=generation,
                standby=None,
                version=version,
                changed_by=asker.request_id,
                crash_loops=(),
            )
            self._state.change(record)
            self._pending_replies.supersede(record, now)
            self._state.after_commit.append(LogEvent(record.pipeline_id, "restarted"))
        return Reply(self._queries.view(record, now))

    def _change_pipeline(self, request: ChangePipeline, asker: Asker, now: float) -> Reply | Error | None:
        known = self._state.records.pipelines.get(request.pipeline_id)
        if known is not None and _is_retry(known, asker):
            return self._pending_replies.wait(known, Changed, asker, request.wait_ms, now)
        record = self._state.active_pipeline(request.pipeline_id)
        if record is None:
            return no_pipeline(request.pipeline_id)
        resumes = request.desired_status == "run" and record.is_poison
        if request.desired_status != "stop" and not resumes and self._is_vain(request, record):
            status = self._queries.view(record, now).status
            return Error("conflict", f"pipeline {record.pipeline_id} is {status}")
        record = replace(
            record,
            desired_status=request.desired_status,
            standby=None if request.desired_status == "stop" else record.standby,
            crash_loops=() if resumes else record.crash_loops,
            generation=record.generation + 1,
            version=record.version + 1,
            changed_by=asker.request_id,
        )
        self._state.after_commit.append(
            LogEvent(record.pipeline_id, f"desired status: {request.desired_status}")
        )
        holder = None if record.holder is None else self._state.devices[record.holder]
        if request.desired_status == "stop" and (holder is None or self._state.is_gone(holder, now)):
            done = holder is None or is_silent(holder, record)
            self._confirmations.remove(record, now, done=done)
            return Reply(Changed(self._queries.view(record, now), done))
        self._state.change(record)
        self._pending_replies.supersede(record, now)
        return self._pending_replies.wait(record, Changed, asker, request.wait_ms, now)

    def _is_vain(self, request: ChangePipeline, record: PipelineRecord) -> bool:
        """Whether a change would change nothing."""
        is_over = record.is_poison or self._state.has_finished(record)
        return is_over or request.desired_status == record.desired_status

    def _change_pipelines(self, request: ChangePipelines, asker: Asker, now: float) -> Reply | None:
        """Change many pipelines in one step, and so in one write."""
        collector = OutcomeCollector(request.pipeline_ids)
        for pipeline_id in dict.fromkeys(request.pipeline_ids):
            outcome = self._change_one(pipeline_id, request.change, asker, now)
            record = self._state.records.pipelines.get(pipeline_id)
            if outcome.refusal or outcome.confirmed or request.wait_ms == 0 or record is None:
                collector.record(outcome)
            else:
                self._pending_replies.wait(record, collector.confirm, asker, request.wait_ms, now)
        answer = collector.answer
        return None if answer is None else Reply(answer)

    def _change_one(self, pipeline_id: str, change: Change, asker: Asker, now: float) -> Outcome:
        """Change one of many pipelines. Without a device there is nothing to confirm."""
        if change == "restart":
            done = self._restart_pipeline(RestartPipeline(pipeline_id), asker, now)
        else:
            done = self._change_pipeline(ChangePipeline(pipeline_id, change), asker, now) or Reply(None)
        if isinstance(done, Error):
            return Outcome(pipeline_id, refusal=done.code, message=done.message)
        changed = done.data
        is_known = not isinstance(changed, Changed) or changed.confirmed or changed.pipeline.device is None
        return Outcome(pipeline_id, confirmed=is_known)


def _applied(name: str, known: PipelineRecord | None, done: PipelineRecord | Error) -> Applied:
    """The result of a put pipeline, which was `known` before."""
    if isinstance(done, Error):
        return Applied(pipeline_id=name, refusal=done.code, message=done.message)
    return Applied(
        pipeline_id=name,
        device=done.device,
        generation=done.generation,
        restarts=known is not None
        and known.device is not None
        and known.run_generation != done.run_generation,
    )


def _new(request: CreatePipeline | PutPipeline | DesiredPipeline) -> PipelineRecord:
    """The record of a new pipeline."""
    return PipelineRecord(
        pipeline_id=request.pipeline_id,
        generation=1,
        run_generation=1,
        desired_status=request.desired_status,
        spec=request.spec,
        requested=request.device,
        device=request.device,
        created=1,
        selector=request.selector,
        requested_on_disconnect=request.on_disconnect,
        labels=request.labels,
    )


def _is_same(record: PipelineRecord, desired: PipelineRecord) -> bool:
    """Whether a record already has all that is desired."""
    return all(
        getattr(record, name) == getattr(desired, name)
        for name in ("spec", "requested", "selector", "labels", "requested_on_disconnect", "desired_status")
    )


def _runs_the_same(record: PipelineRecord, desired: PipelineRecord) -> bool:
    """Whether only labels of a record change."""
    return _is_same(record, replace(desired, labels=record.labels))


def _is_retry(record: PipelineRecord, asker: Asker) -> bool:
    """Whether a request was already applied, and its reply got lost."""
    return bool(asker.request_id) and record.changed_by == asker.request_id


def _put(*, created: bool = False, changed: bool = True) -> Callable[[PipelineView, bool], Put]:
    return lambda pipeline, done: Put(pipeline, created, changed, done)


def _summary(known: PipelineRecord, record: PipelineRecord) -> str:
    """Describe a change for the log."""
    if record.run_generation != known.run_generation:
        return f"restarts on {record.device or 'no device yet'}"
    return "updated while it runs" if record.generation != known.generation else "no change on a device"
