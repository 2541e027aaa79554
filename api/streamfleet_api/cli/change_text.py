"""Describes changes of a pipeline for the command line. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streamfleet_core.protocol.hosts import place_of

if TYPE_CHECKING:
    from streamfleet.results import ModelRef, Pipeline, SourceSpec, Spec, Stage, UdpSink
    from streamfleet_core.protocol.values import Keep, Motion

# Key of a spec → option, and what null means.
_VALUES = {
    "max_fps": ("max-fps", "default"),
    "confidence": ("confidence", "default"),
    "iou_threshold": ("iou", "default"),
    "class_agnostic_nms": ("class-agnostic-nms", "default"),
    "max_candidates": ("max-candidates", "default"),
    "max_detections": ("max-detections", "default"),
    "tracker": ("tracker", "none"),
    "priority": ("priority", "normal"),
    "mask_format": ("mask-format", "polygon"),
}


def changes(before: Pipeline, after: Pipeline) -> list[str]:
    """Each thing that is another one now, as `confidence 0.4 → 0.3`."""
    return list(_changes(before, after)) or (
        ["video with another login"] if _is_hidden(before, after) else []
    )


def _changes(before: Pipeline, after: Pipeline) -> Iterator[str]:
    old, new = before.spec, after.spec
    if old.model != new.model:
        yield _step("model", *_models(old.model, new.model))
    if old.sources != new.sources:
        yield from _source_changes(old.sources, new.sources)
    if old.sinks != new.sinks:
        yield _step("sink", _sinks(old.sinks), _sinks(new.sinks))
    for key, (name, absent) in _VALUES.items():
        if (was := getattr(old, key)) != (is_now := getattr(new, key)):
            yield _step(name, _value(was, absent), _value(is_now, absent))
    yield from _further(old, new)
    if before.requested != after.requested:
        yield _step("device", before.requested or "default", after.requested or "default")
    if before.on_disconnect != after.on_disconnect:
        yield _step("on-disconnect", before.on_disconnect or "default", after.on_disconnect or "default")
    if before.desired_status != after.desired_status:
        yield "paused" if after.desired_status == "pause" else "resumed"
    for key, name in (("selector", "select"), ("labels", "label")):
        yield from _labels(name, getattr(before, key), getattr(after, key))


def _further(old: Spec, new: Spec) -> Iterator[str]:
    if old.stages != new.stages:
        yield _step("stages", stages_text(old.stages), stages_text(new.stages))
    if old.sampling != new.sampling:
        yield _sampling(old.sampling, new.sampling)
    if old.keep != new.keep:
        yield _step("keep", keep_text(old.keep), keep_text(new.keep))


def keep_text(keep: Keep | None) -> str:
    """What is kept of predictions, as `3600 s, 256 MiB`."""
    if keep is None:
        return "default"
    age = [] if keep.age is None else [f"{keep.age:g} s"]
    size = [] if keep.size is None else [f"{keep.size / 1024**2:g} MiB"]
    return ", ".join((*age, *size)) or "default"


def begins_anew(before: Pipeline, after: Pipeline) -> bool:
    """Whether a change restarts the pipeline.

    As `PipelineSpec.can_update_to`, and always on another device or for another behavior without the broker.
    With other models it restarts if nothing runs that could go on.
    """
    has_new_models = _ordered_models(before) != _ordered_models(after)
    visible = (
        (has_new_models and before.status in ("ended", "failed"))
        or _played(before) != _played(after)
        or before.device != after.device
        or _without_broker(before) != _without_broker(after)
    )
    return visible or _is_hidden(before, after)


def _without_broker(entry: Pipeline) -> str:
    return entry.on_disconnect or ("continue" if entry.pinned else "stop")


def _is_hidden(before: Pipeline, after: Pipeline) -> bool:
    """Whether only credentials of a source changed, which are never shown."""
    return before.generation != after.generation and not any(_changes(before, after))


def _played(entry: Pipeline) -> tuple[list[SourceSpec], list[Stage]]:
    """What cannot change during a run. Models can."""
    spec = entry.spec
    return [each.fixed for each in spec.sources], [replace(each, model=spec.model) for each in spec.stages]


def _ordered_models(entry: Pipeline) -> list[ModelRef]:
    return [entry.spec.model, *(stage.model for stage in entry.spec.stages)]


def _step(name: str, before: str, after: str) -> str:
    return f"{name} {before} → {after}"


def _models(before: ModelRef, after: ModelRef) -> tuple[str, str]:
    """By id, and by content where the same id stands for another one by now."""
    if before.id != after.id:
        return before.id, after.id
    return f"{before.id} ({before.digest[:12]})", after.digest[:12]


def _value(value: Any, absent: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return absent if value is None else str(value)


def _source_changes(old: Sequence[SourceSpec], new: Sequence[SourceSpec]) -> Iterator[str]:
    """Only what changed, where the videos are the same, and the same of each."""
    if [source.fixed for source in old] == [source.fixed for source in new]:
        steps = [list(_filters(*pair)) for pair in zip(old, new, strict=True)]
        if all(each == steps[0] for each in steps):
            yield from steps[0]
            return
    yield _videos(_sources(old), _sources(new))


def _filters(old: SourceSpec, new: SourceSpec) -> Iterator[str]:
    """What changes of a source without a restart."""
    if old.max_fps != new.max_fps:
        yield _step("max-fps of the video", _value(old.max_fps, "default"), _value(new.max_fps, "default"))
    for name, of in (("class", _classes), ("region", _region), ("motion", _motion)):
        if of(old) != of(new):
            yield _step(name, of(old), of(new))


def _classes(source: SourceSpec) -> str:
    return "default" if source.classes is None else ", ".join(source.classes)


def _region(source: SourceSpec) -> str:
    return "default" if source.region is None else region_text(source.region)


def _motion(source: SourceSpec) -> str:
    return "default" if source.motion is None else motion_text(source.motion)


def _videos(before: str, after: str) -> str:
    return f"video {after} with other properties" if before == after else _step("video", before, after)


def _sources(sources: Sequence[SourceSpec]) -> str:
    return ", ".join(map(_source, sources))


def _source(source: SourceSpec) -> str:
    how: list[str] = [source.mode] if source.mode else []
    if source.max_fps is not None:
        how.append(f"max-fps {source.max_fps:g}")
    if source.decoder is not None:
        how.append(f"decoder {source.decoder}")
    if source.classes is not None:
        how.append(f"classes {', '.join(source.classes)}")
    if source.region is not None:
        how.append(f"region {region_text(source.region)}")
    if source.motion is not None:
        how.append(f"motion {motion_text(source.motion)}")
    return f"{source.reference} ({', '.join(how)})" if how else str(source.reference)


def stages_text(stages: Sequence[Stage]) -> str:
    """Each stage as the option of the command line."""
    texts = []
    for stage in stages:
        of = f"@{','.join(stage.classes)}" if stage.classes else ""
        texts.append(f"{stage.name}={stage.model.id}{of}")
    return ", ".join(texts) or "none"


def region_text(region: Sequence[tuple[float, float]]) -> str:
    """The corners of a region, as `--region` takes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in region)


def motion_text(motion: Motion) -> str:
    """A motion gate, as `--motion` takes it."""
    return f"{motion.sensitivity:g},{motion.max_still:g}s"


def _sinks(sinks: Sequence[UdpSink]) -> str:
    return ", ".join(place_of(sink.host, sink.port) for sink in sinks) or "none"


def _sampling(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    names = [f"{each['dataset']} ({_strategies(each)})" if each else "none" for each in (before, after)]
    return f"sample {names[0]} by other rules" if names[0] == names[1] else _step("sample", *names)


def _strategies(sampling: dict[str, Any]) -> str:
    return ", ".join(strategy["name"] for strategy in sampling["strategies"])


def _labels(name: str, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            yield f"{name} {key} taken away"
        elif key not in before:
            yield f"{name} {key}={after[key]}"
        elif before[key] != after[key]:
            yield _step(f"{name} {key}", before[key], after[key])
