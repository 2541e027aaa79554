"""Compares a file with the fleet: names that the fleet does not know, and contents of models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from streamfleet_api.v2.fleet_file.change_set import managed
from streamfleet_api.v2.fleet_file.reading import ReadFile, ReadPipeline, read_pipelines
from streamfleet_api.v2.fleet_file.requests import FileDevice, FileModel, FilePipeline
from streamfleet_api.v2.mapping import desired, merged_labels, model_places, named_classes
from streamfleet_api.v2.request_reading import listed
from streamfleet_core.documents.errors import MAX_FINDINGS, BadDocument, Finding
from streamfleet_core.documents.node import Node
from streamfleet_core.models.kept_classes import expected_class, unknown_names
from streamfleet_core.protocol.requests import DesiredPipeline, DeviceSettings, DeviceView, PipelineView
from streamfleet_core.protocol.values import Labels, Manifest, ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The fleet as it is."""

    pipelines: tuple[PipelineView, ...]
    devices: tuple[DeviceView, ...]
    models: Mapping[str, ModelRef]
    unusable: Mapping[str, str] = field(default_factory=dict)  # why models of the file cannot be used
    manifest: Callable[[ModelRef], Manifest | None]
    has_blob: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ModelStep:
    """A model of the file, and what the fleet has under its id."""

    wanted: FileModel
    node: Node
    before: ModelRef | None
    is_done: bool  # the fleet has what the file says
    has_content: bool


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """A device of the file, and its settings before and after."""

    name: str
    before: DeviceSettings
    after: DeviceSettings


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that fits the fleet."""

    models: tuple[ModelStep, ...]
    devices: tuple[DeviceStep, ...]
    pipelines: tuple[DesiredPipeline, ...]


def check(read: ReadFile, state: FleetState) -> Checked:
    """Check all names, and resolve the models. Raises: BadDocument."""
    views = {view.pipeline_id: view for view in state.pipelines}
    pipelines = read_pipelines(read, {name: view.spec.sources for name, view in views.items()})
    nodes = zip(read.file.models, read.root.items_of("models"), strict=True)
    models = {wanted.id: _model(wanted, node, state) for wanted, node in nodes}
    before = {view.device: view for view in state.devices if view.state != "new"}
    devices = {
        wanted.name: _device(before[wanted.name], wanted)
        for wanted in read.file.devices
        if wanted.name in before
    }
    labels = {name: view.labels for name, view in before.items()}
    labels |= {name: step.after.labels for name, step in devices.items()}
    findings = chain(
        _of_models(models.values()),
        _of_devices(read.file.devices, read.root.items_of("devices"), before),
        _of_pipelines(pipelines, models, labels, state),
    )
    if found := list(islice(findings, MAX_FINDINGS)):
        raise BadDocument(*found)
    return Checked(
        tuple(models.values()),
        tuple(devices.values()),
        tuple(
            _desired(each.request, _resolved(each.request, views, models, state), read.file.manager)
            for each in pipelines
        ),
    )


def fits(wanted: FileModel, manifest: Manifest | None) -> bool:
    """Whether a content is what the file says."""
    if wanted.weights is None:
        return True
    return (
        manifest is not None
        and manifest.weights.sha256 == wanted.weights
        and wanted.family in (None, manifest.family)
        and (wanted.labels is None or tuple(wanted.labels) == manifest.labels)
    )


def _model(wanted: FileModel, node: Node, state: FleetState) -> ModelStep:
    before = state.models.get(wanted.id)
    is_done = before is not None and fits(wanted, state.manifest(before))
    has_content = is_done or (wanted.weights is not None and state.has_blob(wanted.weights))
    return ModelStep(wanted, node, before, is_done, has_content)


def _device(view: DeviceView, wanted: FileDevice) -> DeviceStep:
    cordoned = view.cordoned if wanted.cordoned is None else wanted.cordoned
    after = DeviceSettings(merged_labels(view.labels, wanted.labels), cordoned)
    return DeviceStep(wanted.name, DeviceSettings(view.labels, view.cordoned), after)


def _of_models(models: Iterable[ModelStep]) -> Iterator[Finding]:
    for step in models:
        if step.wanted.file is not None:
            text = "'weights', the sha256 of its uploaded content: the command line uploads the file"
            yield step.node.entries["file"].wrong(text, kind="model")
        elif step.before is None and step.wanted.weights is None:
            text = "a model of the fleet, or its 'weights' or 'file' beside the id"
            yield step.node.entries["id"].wrong(text, kind="model")


def _of_devices(
    wanted: Iterable[FileDevice], nodes: Iterable[Node], known: Iterable[str]
) -> Iterator[Finding]:
    for device, node in zip(wanted, nodes, strict=True):
        if device.name not in known:
            yield node.entries["name"].wrong(f"a device that has joined: {listed(known)}", kind="device")


def _of_pipelines(
    pipelines: Iterable[ReadPipeline],
    declared: Mapping[str, ModelStep],
    devices: Mapping[str, Labels],
    state: FleetState,
) -> Iterator[Finding]:
    for each in pipelines:
        request, node = each.request, each.node
        for model_id, place in model_places(request.model, request.stages).items():
            if model_id not in state.models and model_id not in declared:
                why = state.unusable.get(model_id)
                text = f"a model that can be used: {why}" if why else _known_models(state, declared)
                yield node.find(place[1:]).wrong(text, kind="model")
        if request.device is not None:
            at = node.entries["device"]
            if request.device not in devices:
                yield at.wrong(f"a device that has joined: {listed(devices)}", kind="device")
            elif not request.selector.items() <= devices[request.device].items():
                yield at.wrong("a device with the labels of 'selector'", kind="device")
        yield from _classes(each, declared, state)


def _known_models(state: FleetState, declared: Collection[str]) -> str:
    return f"a model of the fleet or of the file: {listed({*state.models, *declared})}"


def _classes(each: ReadPipeline, declared: Collection[str], state: FleetState) -> Iterator[Finding]:
    """Names that are no classes of the model; not of one whose content may change."""
    model = state.models.get(each.request.model)
    named = list(named_classes(each.request))
    manifest = None if model is None or model.id in declared or not named else state.manifest(model)
    if manifest is None:
        return
    for place, names in named:
        for index in unknown_names(names, manifest.labels)[:1]:
            at = each.node.find([*place[1:], index])
            yield at.wrong(expected_class(names[index], manifest.labels), kind="class")


def _resolved(
    request: FilePipeline,
    views: Mapping[str, PipelineView],
    declared: Mapping[str, ModelStep],
    state: FleetState,
) -> dict[str, ModelRef]:
    """The content of each model of a pipeline.

    What runs keeps the content that it has under the id of a model, unless the file says another one.
    """
    view = views.get(request.id)
    running = {} if view is None else {model.id: model for model in view.spec.models}
    resolved = {}
    for model_id in model_places(request.model, request.stages):
        step, own = declared.get(model_id), running.get(model_id)
        if own is not None and (step is None or fits(step.wanted, state.manifest(own))):
            resolved[model_id] = own
        elif step is not None and not step.is_done:  # in a dry run: its manifest is not known yet
            resolved[model_id] = ModelRef(model_id, str(step.wanted.weights))
        else:
            resolved[model_id] = state.models[model_id]
    return resolved


def _desired(request: FilePipeline, models: Mapping[str, ModelRef], manager: str | None) -> DesiredPipeline:
    return replace(desired(request, request.id, models), labels=managed(request.labels, manager))
