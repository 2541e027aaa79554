"""The file for what is there: applied, it changes nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from streamfleet_api.v2.fleet_file.change_set import MANAGER
from streamfleet_api.v2.mapping import as_request
from streamfleet_api.v2.requests import KeepRequest, PipelineRequest, SourceRequest, StageRequest
from streamfleet_core.protocol.requests import DeviceView, PipelineView
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.values import Manifest, ModelRef


def export(
    manager: str | None,
    pipelines: Iterable[PipelineView],
    devices: Iterable[DeviceView],
    models: Mapping[ModelRef, Manifest],
) -> dict[str, Any]:
    """The file of these pipelines, without credentials of their sources.

    A model is left out while one of the pipelines runs another content of its id: it would change that one.
    """
    views = list(pipelines)
    used = {model for view in views for model in view.spec.models}
    ids = [model.id for model in used]
    settings = [_device(each) for each in devices if each.labels or each.cordoned]
    document = {
        "manager": manager,
        "models": [
            {"id": model.id, "weights": models[model].weights.sha256}
            for model in sorted(used, key=lambda model: model.id)
            if model in models and ids.count(model.id) == 1
        ],
        "devices": settings,
        "pipelines": [_pipeline(view) for view in views],
    }
    return {key: _whole(value) for key, value in document.items() if value or key == "pipelines"}


def _whole(value: Any) -> Any:
    """The same with whole numbers as people write them."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _device(view: DeviceView) -> dict[str, Any]:
    labels = {"labels": view.labels} if view.labels else {}
    return {"name": view.device, **labels, **({"cordoned": True} if view.cordoned else {})}


def _pipeline(view: PipelineView) -> dict[str, Any]:
    content = as_request(view)
    content["sources"] = [_source(source) for source in content["sources"]]
    content["sinks"] = [{"host": sink["host"], "port": sink["port"]} for sink in content["sinks"]]
    content["stages"] = [_without_defaults(stage, StageRequest) for stage in content["stages"]]
    content["labels"] = {key: value for key, value in view.labels.items() if key != MANAGER}
    if content["keep"] is not None:
        content["keep"] = _without_defaults(content["keep"], KeepRequest)
    if content["sampling"] is not None:
        content["sampling"] = content["sampling"].model_dump(mode="json", exclude_defaults=True)
    return {"id": view.pipeline_id, **_without_defaults(content, PipelineRequest)}


def _source(source: dict[str, Any]) -> Any:
    shown = _without_defaults({**source, "reference": sanitised(source["reference"])}, SourceRequest)
    return shown["reference"] if list(shown) == ["reference"] else shown


def _without_defaults(content: dict[str, Any], of: type[BaseModel]) -> dict[str, Any]:
    """The keys that say something else than their default."""
    fields = of.model_fields
    return {key: value for key, value in content.items() if value != fields[key].default}
