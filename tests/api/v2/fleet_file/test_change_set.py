"""What a file changes: nothing where the fleet is so already, and nothing of other managers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_api.v2.fleet_file.change_set import (
    ChangeSet,
    FieldChange,
    Foreign,
    change_set_of,
    removal_of,
)
from streamfleet_api.v2.fleet_file.checks import FleetState, check
from streamfleet_api.v2.fleet_file.export import export
from streamfleet_api.v2.fleet_file.reading import read_file
from streamfleet_core.documents.yaml_text import read_yaml, write_yaml
from streamfleet_core.protocol.requests import DesiredPipeline, DeviceView, PipelineView
from streamfleet_core.protocol.values import (
    Manifest,
    ModelRef,
    Motion,
    PipelineSpec,
    SourceSpec,
    Stage,
    UdpSink,
    Weights,
)
from tests.fakes.broker import device, pipeline

MANIFESTS = {
    ModelRef(f"parts/{number}", f"{number}" * 64): Manifest(
        family="yolox",
        labels=("bolt", "nut"),
        input_width=64,
        input_height=64,
        weights=Weights(f"{number + 3}" * 64, 9),
    )
    for number in (1, 2)
}
MODELS = {model.id: model for model in MANIFESTS}
HALL = {"manager": "hall-1"}

labels = st.dictionaries(
    st.sampled_from(["site", "line", "x.y"]), st.sampled_from(["", "1e5", "no", "hall-1", "3"]), max_size=2
)
sources = st.builds(
    SourceSpec,
    st.sampled_from(["rtsp://user:pw@10.0.0.9/a", "rtsp://10.0.0.9/b?key=1", "TestPatternStreamProducer", 0]),
    mode=st.sampled_from([None, "live", "file"]),
    max_fps=st.sampled_from([None, 2.5, 10.0]),
    properties=st.sampled_from([{}, {"frame_width": 640.0}]),
    classes=st.sampled_from([None, ("bolt",)]),
    region=st.sampled_from([None, ((0.0, 0.0), (1.0, 0.0), (0.5, 1.0))]),
    motion=st.sampled_from([None, Motion(), Motion(sensitivity=0.25)]),
)
stages = st.builds(
    Stage,
    name=st.sampled_from(["text"]),
    model=st.sampled_from(list(MANIFESTS)),
    classes=st.sampled_from([None, ("nut",)]),
    margin=st.sampled_from([0.0, 0.5]),
)
specs = st.builds(
    PipelineSpec,
    model=st.sampled_from(list(MANIFESTS)),
    sources=st.lists(sources, min_size=1, max_size=2).map(tuple),
    sinks=st.lists(st.just(UdpSink("10.0.0.5", 9)), max_size=1).map(tuple),
    max_fps=st.sampled_from([None, 5.0]),
    confidence=st.sampled_from([None, 0.0, 0.5, 1.0]),
    class_agnostic_nms=st.sampled_from([None, True, False]),
    tracker=st.sampled_from([None, "sort"]),
    priority=st.sampled_from(["normal", "high"]),
    stages=st.lists(stages, max_size=1).map(tuple),
)
desired = st.builds(
    DesiredPipeline,
    pipeline_id=st.sampled_from([f"cam-{number}" for number in range(6)]),
    spec=specs,
    device=st.sampled_from([None, "edge-1"]),
    labels=labels,
    desired_status=st.sampled_from(["run", "pause"]),
    on_disconnect=st.sampled_from([None, "stop", "continue"]),
)
fleets = st.lists(desired, max_size=4, unique_by=lambda each: each.pipeline_id)


def state(views: Sequence[PipelineView], devices: Sequence[DeviceView] = ()) -> FleetState:
    """A fleet with two models and one device."""
    return FleetState(
        pipelines=tuple(views),
        devices=tuple(devices) or (device("edge-1"),),
        models=MODELS,
        manifest=MANIFESTS.get,
        has_blob=lambda _digest: True,
    )


def applied(change_set: ChangeSet, views: Sequence[PipelineView]) -> list[PipelineView]:
    """The fleet after a change set, as the broker would have it."""
    after = {view.pipeline_id: view for view in views if view.pipeline_id not in change_set.stops}
    for put in change_set.puts:
        before = after.get(put.pipeline_id)
        after[put.pipeline_id] = pipeline(
            put.pipeline_id,
            spec=put.spec,
            requested=put.device,
            labels=put.labels,
            selector=put.selector,
            desired_status=put.desired_status,
            on_disconnect=put.on_disconnect,
            version=1 + (before.version if before else 0),
        )
    return list(after.values())


def owned(pipelines: Sequence[DesiredPipeline], manager: str | None) -> list[DesiredPipeline]:
    """The same for a manager."""
    extra = {} if manager is None else {"manager": manager}
    return [replace(each, labels={**each.labels, **extra}) for each in pipelines]


def of_text(text: str, views: Sequence[PipelineView], **options: Any) -> ChangeSet:
    """The change set for a file."""
    read = read_file(read_yaml(text.encode()))
    checked = check(read, state(views))
    return change_set_of(checked.pipelines, views, manager=read.file.manager, **options)


@given(fleets, fleets, st.sampled_from([None, "hall-1"]))
def test_a_file_is_applied_once(
    before: list[DesiredPipeline], wanted: list[DesiredPipeline], manager: str | None
) -> None:
    views = applied(change_set_of(owned(before, manager), [], manager=manager), [])
    pipelines = owned(wanted, manager)

    change_set = change_set_of(pipelines, views, manager=manager)
    again = change_set_of(pipelines, applied(change_set, views), manager=manager)

    assert again.is_empty
    assert {each.action for each in again.pipelines} <= {"none"}
    assert {each.pipeline_id for each in change_set.pipelines if each.action == "update"} == {
        put.pipeline_id for put in change_set.puts
    } & {view.pipeline_id for view in views}


@given(fleets, st.sampled_from([None, "hall-1"]))
def test_what_is_exported_changes_nothing(pipelines: list[DesiredPipeline], manager: str | None) -> None:
    views = applied(change_set_of(owned(pipelines, manager), [], manager=manager), [])

    text = write_yaml(export(manager, views, [device("edge-1", labels={"a": "1e5"})], MANIFESTS))
    change_set = of_text(text, views)

    assert change_set.is_empty, (text, change_set.pipelines)
    assert "pw" not in text
    assert len(change_set.pipelines) == len(pipelines)


@given(fleets)
def test_a_file_of_another_manager_changes_and_removes_nothing(pipelines: list[DesiredPipeline]) -> None:
    views = applied(change_set_of(owned(pipelines, "hall-2"), [], manager="hall-2"), [])

    change_set = change_set_of(owned(pipelines, "hall-1"), views, manager="hall-1")
    empty = change_set_of([], views, manager="hall-1")

    assert change_set.foreign == tuple(
        Foreign(name, "hall-2") for name in sorted(each.pipeline_id for each in pipelines)
    )
    assert empty.is_empty
    assert empty.stops == ()


def view(pipeline_id: str, labels: Mapping[str, str] = HALL, **changes: Any) -> PipelineView:
    """A pipeline of hall-1."""
    spec = PipelineSpec(model=MODELS["parts/1"], sources=(SourceSpec("rtsp://u:p@cam/1"),))
    return pipeline(pipeline_id, **{"spec": spec, "labels": dict(labels), "version": 4, **changes})


def test_a_pipeline_that_vanished_is_removed_unless_it_is_kept() -> None:
    views = [view("door"), view("gate"), view("yard", {"manager": "hall-2"}), view("own", {})]
    text = "manager: hall-1\npipelines: [{id: door, model: parts/1, sources: ['rtsp://cam/1']}]\n"

    change_set = of_text(text, views)
    kept = of_text(text, views, prune=False)

    assert [(each.pipeline_id, each.action) for each in change_set.pipelines] == [
        ("door", "none"),
        ("gate", "delete"),
    ]
    assert (change_set.stops, change_set.seen, change_set.owned) == (("gate",), {"door": 4, "gate": 4}, HALL)
    assert (kept.stops, kept.seen, kept.owned) == ((), {"door": 4}, {})


def test_a_file_without_a_manager_removes_nothing() -> None:
    text = "pipelines: [{id: door, model: parts/1, sources: ['rtsp://cam/1']}]\n"

    change_set = of_text(text, [view("gate", {}), view("yard")])

    assert [(each.pipeline_id, each.action) for each in change_set.pipelines] == [("door", "create")]
    assert (change_set.seen, change_set.owned) == ({"door": 0}, {})


def test_pipelines_of_others_are_taken_over_only_on_request() -> None:
    text = "manager: hall-1\npipelines: [{id: own, model: parts/1, sources: ['rtsp://cam/1']}]\n"
    views = [view("own", {})]

    assert of_text(text, views).foreign == (Foreign("own", None),)
    change_set = of_text(text, views, take_over=True)
    assert change_set.foreign == ()
    assert change_set.pipelines[0].changes == (FieldChange("labels.manager", None, "hall-1"),)


def test_a_removal_takes_only_what_is_there_and_ones_own() -> None:
    views = [view("door"), view("yard", {"manager": "hall-2"})]

    change_set = removal_of(["door", "gone", "yard"], views, manager="hall-1")

    assert (change_set.stops, change_set.foreign) == (("door", "yard"), (Foreign("yard", "hall-2"),))


def test_changes_are_told_value_by_value_and_without_passwords() -> None:
    text = (
        "manager: hall-1\npipelines:\n- id: door\n  model: parts/2\n"
        "  sources: [{reference: 'rtsp://u:other@cam/1', max_fps: 5}]\n  labels: {line: '3'}\n"
    )

    (step,) = of_text(text, [view("door")]).pipelines

    assert step.changes == (
        FieldChange("model.id", "parts/1", "parts/2"),
        FieldChange("model.digest", "1" * 12, "2" * 12),
        FieldChange("sources.0.max_fps", None, 5.0),
        FieldChange("labels.line", None, "3"),
        FieldChange("sources.0.login", "one", "another one"),
    )


def test_what_runs_keeps_the_content_of_a_model_that_the_file_does_not_name() -> None:
    old = replace(MODELS["parts/1"], digest="f" * 64)
    running = view("door", spec=PipelineSpec(model=old, sources=(SourceSpec("rtsp://cam/1"),)))
    text = "manager: hall-1\npipelines: [{id: door, model: parts/1, sources: ['rtsp://cam/1']}]\n"

    assert of_text(text, [running]).is_empty
    (put,) = of_text(f"models: [{{id: parts/1, weights: '{'4' * 64}'}}]\n{text}", [running]).puts
    assert put.spec.model == MODELS["parts/1"]
