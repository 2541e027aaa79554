"""What a change did to a pipeline, in the words of the command line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Entry = dict[str, Any]  # one of `GET /v2/pipelines`

# Key of a spec → option, and what null means.
_VALUES = {
    "max_fps": ("max-fps", "default"),
    "confidence": ("confidence", "default"),
    "iou_threshold": ("iou", "default"),
    "class_agnostic_nms": ("class-agnostic-nms", "default"),
    "max_candidates": ("max-candidates", "default"),
    "max_detections": ("max-detections", "default"),
    "tracker": ("tracker", "none"),
}


def changes(before: Entry, after: Entry) -> list[str]:
    """Each thing that is another one now, as `confidence 0.4 → 0.3`."""
    return list(_changes(before, after)) or (
        ["video with another login"] if _is_hidden(before, after) else []
    )


def _changes(before: Entry, after: Entry) -> Iterator[str]:
    old, new = before["spec"], after["spec"]
    if old["model"] != new["model"]:
        yield _step("model", *_models(old["model"], new["model"]))
    if old["sources"] != new["sources"]:
        yield _videos(_sources(old["sources"]), _sources(new["sources"]))
    if old["sinks"] != new["sinks"]:
        yield _step("sink", _sinks(old["sinks"]), _sinks(new["sinks"]))
    for key, (name, absent) in _VALUES.items():
        if old[key] != new[key]:
            yield _step(name, _value(old[key], absent), _value(new[key], absent))
    if old["sampling"] != new["sampling"]:
        yield _sampling(old["sampling"], new["sampling"])
    if before["requested"] != after["requested"]:
        yield _step("device", before["requested"] or "default", after["requested"] or "default")
    if before["want"] != after["want"]:
        yield "paused" if after["want"] == "pause" else "resumed"
    for key, name in (("selector", "select"), ("labels", "label")):
        yield from _labels(name, before[key], after[key])


def begins_anew(before: Entry, after: Entry) -> bool:
    """Does it play from the beginning? As `PipelineSpec.plays_like`, and on another device in any case."""
    visible = _played(before) != _played(after) or before["device"] != after["device"]
    return visible or _is_hidden(before, after)


def _is_hidden(before: Entry, after: Entry) -> bool:
    """Did only change what is never shown, the credentials of a source?"""
    return before["gen"] != after["gen"] and not any(_changes(before, after))


def _played(entry: Entry) -> tuple[Any, list[Any]]:
    sources = [{**source, "max_fps": None} for source in entry["spec"]["sources"]]
    return entry["spec"]["model"], sources


def _step(name: str, before: str, after: str) -> str:
    return f"{name} {before} → {after}"


def _models(before: Entry, after: Entry) -> tuple[str, str]:
    """By id, and by content where the same id stands for another one by now."""
    if before["id"] != after["id"]:
        return before["id"], after["id"]
    return f"{before['id']} ({before['digest'][:12]})", after["digest"][:12]


def _value(value: Any, absent: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return absent if value is None else str(value)


def _videos(before: str, after: str) -> str:
    return f"video {after} with other properties" if before == after else _step("video", before, after)


def _sources(sources: list[Entry]) -> str:
    return ", ".join(map(_source, sources))


def _source(source: Entry) -> str:
    how = [source["mode"]] if source["mode"] else []
    if source["max_fps"] is not None:
        how.append(f"max-fps {source['max_fps']:g}")
    return f"{source['reference']} ({', '.join(how)})" if how else str(source["reference"])


def _sinks(sinks: list[Entry]) -> str:
    return ", ".join(f"{sink['host']}:{sink['port']}" for sink in sinks) or "none"


def _sampling(before: Entry | None, after: Entry | None) -> str:
    names = [f"{each['dataset']} ({_strategies(each)})" if each else "none" for each in (before, after)]
    return f"sample {names[0]} by other rules" if names[0] == names[1] else _step("sample", *names)


def _strategies(sampling: Entry) -> str:
    return ", ".join(strategy["name"] for strategy in sampling["strategies"])


def _labels(name: str, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            yield f"{name} {key} taken away"
        elif key not in before:
            yield f"{name} {key}={after[key]}"
        elif before[key] != after[key]:
            yield _step(f"{name} {key}", before[key], after[key])
