"""The whole state of one pipeline, in lines for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streamfleet_api.cli.change_text import keep_text, motion_text, region_text, stages_text
from streamfleet_api.cli.pipeline_text import is_stale, place
from streamfleet_api.cli.tables import labelled
from streamfleet_core.protocol.hosts import place_of

if TYPE_CHECKING:
    from streamfleet.results import Pipeline, PipelineReport, SampleStat, SourceSpec, SourceStat

MAX_UPDATES = 5  # of the last things that happened to its sources


def status_lines(entry: Pipeline, status: PipelineReport) -> Iterator[str]:
    """Of `GET /v2/pipelines/{id}`, and of its `/status`."""
    yield f"{entry.pipeline_id}: {place(entry)}"
    reason = entry.reason or status.reason
    if entry.restarts:
        crash = status.last_crash if status.last_crash != reason else ""
        why = f", the last because: {crash}" if crash else ""
        yield _line("restarts", f"{entry.restarts}{why}")
    if reason:
        yield _line("reason", reason)
    yield _line("rate", _rate(entry))
    if entry.latency is not None:
        yield _line("latency", f"{entry.latency * 1000:.0f} ms from frame to prediction")
    yield from _desired(entry)
    if status.active_model is not None and status.active_model.id != entry.spec.model.id:
        yield _line("in use", f"{status.active_model.id}, until {entry.spec.model.id} is ready")
    for source in status.sources:
        yield from _source(source)
        yield from _choices(entry.spec.sources[source.source_id : source.source_id + 1])
    if lost := {sink: count for sink, count in status.dropped.items() if count}:
        yield _line("not sent", ", ".join(f"{count} to {sink}" for sink, count in lost.items()))
    yield from _samples(entry.spec.sampling, status.samples)
    for update in status.report["video_source_status_updates"][-MAX_UPDATES:]:
        when = update["timestamp"][:19].replace("T", " ")
        yield f"  {when}  {_update(update['event_type'], update['payload'])}{_repeats(update)}"


def _update(kind: str, payload: dict[str, Any]) -> str:
    """One of Roboflow's status updates."""
    about = dict(payload)
    source = f"source {about.pop('source_id')} " if "source_id" in about else ""
    if kind == "SOURCE_STATE_UPDATE":
        return f"{source}{payload['previous_state'].lower()} → {payload['new_state'].lower()}"
    name = kind.removeprefix("SOURCE_") if source else kind
    what = f"{source}{name.lower().replace('_', ' ')}"
    return f"{what}: {about['error_message']}" if about.get("error_message") else what


def _repeats(update: dict[str, Any]) -> str:
    """Of an update that stands for several, in ours."""
    return f", {update['times']} times since {update['since'][11:19]}" if "times" in update else ""


def _line(name: str, text: str) -> str:
    return f"  {name:10}  {text}"


def _rate(entry: Pipeline) -> str:
    if entry.fps is None:
        return "nothing is known yet"
    stale = f", {entry.age:.0f} s ago" if is_stale(entry.age) else ""
    most = entry.spec.max_fps
    return f"{entry.fps:.1f} frames/s{stale}{'' if most is None else f', at most {most:g}'}"


def _desired(entry: Pipeline) -> Iterator[str]:
    spec = entry.spec
    thresholds = [
        f"{name} {value:g}"
        for name, value in (("confidence", spec.confidence), ("iou", spec.iou_threshold))
        if value is not None
    ]
    tracker = [spec.tracker] if spec.tracker else []
    yield _line("model", ", ".join([spec.model.id, *thresholds, *tracker]))
    if spec.priority != "normal":
        yield _line("priority", spec.priority)
    if spec.mask_format != "polygon":
        yield _line("masks", spec.mask_format)
    if spec.keep is not None:
        yield _line("keeps", keep_text(spec.keep))
    for stage in spec.stages:
        yield _line("stage", stages_text([stage]) + _counted(stage.name, entry))
    if spec.sinks:
        yield _line("sinks", ", ".join(place_of(sink.host, sink.port) for sink in spec.sinks))
    if entry.on_disconnect is not None:
        yield _line("on its own", "continues" if entry.on_disconnect == "continue" else "stops")
    if entry.labels:
        yield _line("labels", labelled(entry.labels))
    if entry.requested or entry.selector:
        yield _line("only on", entry.requested or labelled(entry.selector))


def _counted(name: str, entry: Pipeline) -> str:
    stat = next((each for each in entry.stages if each.name == name), None)
    if stat is None:
        return ""
    late = f", {stat.late} late" if stat.late else ""
    failed = f", {stat.failed} failed" if stat.failed else ""
    return f": {stat.inferred} objects{late}{failed}"


def _samples(sampling: dict[str, Any] | None, counted: SampleStat | None) -> Iterator[str]:
    if sampling is None and counted is None:
        return
    where = f"for {sampling['dataset']}" if sampling else "no longer"
    yield _line("samples", f"{where}, {counted.written if counted else 0} kept{_unkept(counted)}")
    if counted and counted.error:
        yield _line("", counted.error)


def _unkept(counted: SampleStat | None) -> str:
    drops = counted.dropped.items() if counted else ()
    lost = ", ".join(f"{count} {cause}" for cause, count in drops if count)
    return f", dropped {lost}" if lost else ""


def _source(source: SourceStat) -> Iterator[str]:
    yield _line(f"source {source.source_id}", f"{source.reference}: {source.state.lower()}")
    if source.cause or source.reason:
        tries = f", tried {source.attempts} times" if source.attempts > 1 else ""
        why = ": ".join(part for part in (source.cause, source.reason) if part)
        yield _line("", f"{why}{tries}")
    if source.width:
        latency = "" if source.latency is None else f", {source.latency * 1000:.0f} ms"
        size = f"{source.width}x{source.height}"
        yield _line("", f"{size}, {source.fps:.1f} frames/s{latency}{_seen(source)}")
    if source.decoder and (source.decoder != "software" or source.decoder_note):
        yield _line("", f"decoded by {source.decoder}{f': {note}' if (note := source.decoder_note) else ''}")
    if source.received:
        yield _line("", f"received {source.received}, emitted {source.emitted}{_drops(source)}")


def _choices(spec: Sequence[SourceSpec]) -> Iterator[str]:
    """What a source leaves out."""
    for source in spec:
        if source.classes is not None:
            yield _line("", f"only {', '.join(source.classes)}")
        if source.region is not None:
            yield _line("", f"only in the region {region_text(source.region)}")
        if source.motion is not None:
            yield _line("", f"only with motion ({motion_text(source.motion)})")


def _seen(source: SourceStat) -> str:
    if source.frozen_for:
        return f", the picture has been frozen for {source.frozen_for:.0f} s"
    age = source.last_frame_age
    return f", the last frame {age:.0f} s ago" if age is not None and age >= 1 else ""


def _drops(source: SourceStat) -> str:
    causes = [f"{count} {cause}" for cause, count in source.dropped.items() if count]
    return f", dropped {', '.join(causes)}" if causes else ", none dropped"
