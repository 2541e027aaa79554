"""What changes when a fleet is to be as a file says. Pure.

A pipeline belongs to the manager that its label `manager` names. A file of a manager creates, changes and
removes pipelines of this manager only, and one without a manager those without one, of which it removes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamfleet_core.protocol.requests import DesiredPipeline, PipelineView
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.values import Labels, to_plain

MANAGER = "manager"  # the label
Action = Literal["create", "update", "delete", "none"]

_SHOWN_DIGEST = 12  # characters
_LISTS = (list, tuple)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A value that becomes another one. None: it is not set."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """What becomes of one pipeline."""

    pipeline_id: str
    action: Action
    changes: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A pipeline that belongs to another manager."""

    pipeline_id: str
    manager: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """Everything that changes, and what must not have changed meanwhile."""

    pipelines: tuple[PipelineStep, ...]  # in the order of the file, then those that are removed
    puts: tuple[DesiredPipeline, ...]
    stops: tuple[str, ...]
    seen: Mapping[str, int] = field(default_factory=dict)  # the version of each pipeline; 0: there is none
    owned: Labels = field(default_factory=dict)  # labels of the pipelines that must all be in `seen`
    foreign: tuple[Foreign, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.puts or self.stops)


def manager_of(view: PipelineView) -> str | None:
    """The manager of a pipeline."""
    return view.labels.get(MANAGER)


def managed(labels: Labels, manager: str | None) -> Labels:
    """The labels of a pipeline of a manager."""
    return labels if manager is None else {**labels, MANAGER: manager}


def change_set_of(
    desired: Sequence[DesiredPipeline],
    views: Iterable[PipelineView],
    *,
    manager: str | None,
    prune: bool = True,
    take_over: bool = False,
) -> ChangeSet:
    """The change set for pipelines that have the label of their manager already."""
    there = {view.pipeline_id: view for view in views}
    named = {each.pipeline_id for each in desired}
    prunes = prune and manager is not None
    surplus = [
        view for view in there.values() if manager_of(view) == manager and view.pipeline_id not in named
    ]
    stops = tuple(view.pipeline_id for view in surplus) if prunes else ()
    steps = tuple(_step_of(each, there.get(each.pipeline_id)) for each in desired)
    actions = {each.pipeline_id: each.action for each in steps}
    seen = {name: there[name].version if name in there else 0 for name in (*actions, *stops)}
    return ChangeSet(
        pipelines=(*steps, *(PipelineStep(name, "delete") for name in stops)),
        puts=tuple(each for each in desired if actions[each.pipeline_id] != "none"),
        stops=stops,
        seen=seen,
        owned={MANAGER: manager} if prunes and manager is not None else {},
        foreign=() if take_over else tuple(_foreign(named, there, manager)),
    )


def removal_of(
    names: Iterable[str], views: Iterable[PipelineView], *, manager: str | None, take_over: bool = False
) -> ChangeSet:
    """The change set to remove the pipelines of a file. Those that are not there are left out."""
    there = {view.pipeline_id: view for view in views}
    stops = tuple(name for name in dict.fromkeys(names) if name in there)
    return ChangeSet(
        pipelines=tuple(PipelineStep(name, "delete") for name in stops),
        puts=(),
        stops=stops,
        seen={name: there[name].version for name in stops},
        foreign=() if take_over else tuple(_foreign(stops, there, manager)),
    )


def _foreign(
    names: Iterable[str], there: Mapping[str, PipelineView], manager: str | None
) -> Iterator[Foreign]:
    for name in sorted(names):
        if name in there and manager_of(there[name]) != manager:
            yield Foreign(name, manager_of(there[name]))


def _step_of(desired: DesiredPipeline, view: PipelineView | None) -> PipelineStep:
    if view is None:
        return PipelineStep(desired.pipeline_id, "create")
    changes = tuple(_changes(view, desired))
    return PipelineStep(desired.pipeline_id, "update" if changes else "none", changes)


def _changes(view: PipelineView, desired: DesiredPipeline) -> Iterator[FieldChange]:
    """What differs; credentials of sources are told apart and not shown."""
    before = _shown(view, view.requested)
    after = _shown(desired, desired.device)
    yield from differences(before, after)
    for number, (old, new) in enumerate(zip(view.spec.sources, desired.spec.sources, strict=False)):
        if old.reference != new.reference and sanitised(old.reference) == sanitised(new.reference):
            yield FieldChange(f"sources.{number}.login", "one", "another one")


def _shown(of: PipelineView | DesiredPipeline, device: str | None) -> dict[str, Any]:
    """All that a file says of a pipeline. `device`: the one that it names."""
    shown: dict[str, Any] = to_plain(of.spec)
    for model in (shown, *shown["stages"]):
        model["model"] = {**model["model"], "digest": model["model"]["digest"][:_SHOWN_DIGEST]}
    for source in shown["sources"]:
        source["reference"] = sanitised(source["reference"])
    return {
        **shown,
        "device": device,
        "selector": of.selector,
        "labels": of.labels,
        "on_disconnect": of.on_disconnect,
        "paused": of.desired_status == "pause",
    }


def differences(before: Any, after: Any, path: str = "") -> Iterator[FieldChange]:
    """The innermost values that differ. Lists of different lengths differ as a whole."""
    if before == after and type(before) is type(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, _LISTS) and isinstance(after, _LISTS) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{path}.{number}")
    elif before != after:
        yield FieldChange(path, before, after)
