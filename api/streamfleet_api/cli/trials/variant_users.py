"""Lets the pipelines that use a model on one kind of board run the variant that it has by now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from streamfleet.requests import PipelineChanges, Stage
from streamfleet_api.cli.context import warn
from streamfleet_api.client.errors import Rejected

if TYPE_CHECKING:
    from streamfleet.results import AddedModel, Device, Model, Pipeline
    from streamfleet.results import Stage as StageFound
    from streamfleet_api.client.http_client import Client


def update_users(
    client: Client, model: Model | AddedModel, devices: Iterable[Device], board: str
) -> list[str]:
    """Give the pipelines on such boards the present content of the model, and return their ids.

    They use it as their first model or in a stage. All other models of a pipeline stay as they are.
    """
    here = {each.device for each in devices if each.board == board}
    contents = {each.id: each.digest for each in client.list_models()}
    updated = []
    for each in client.list_pipelines():
        if (each.device is None or each.device in here) and _uses_old(each, model):
            changes = _renewed(each, model, contents)
            if changes is None:
                warn(
                    f"{each.pipeline_id} keeps its file of {model.id}: a model of another stage was replaced"
                )
            elif _changed(client, each, changes):
                updated.append(each.pipeline_id)
    return updated


def _uses_old(pipeline: Pipeline, model: Model | AddedModel) -> bool:
    return any(each.id == model.id and each.digest != model.digest for each in pipeline.spec.models)


def _renewed(
    pipeline: Pipeline, model: Model | AddedModel, contents: Mapping[str, str]
) -> PipelineChanges | None:
    """What names the model again; None if that would replace another model, too."""
    spec = pipeline.spec
    if spec.model.id == model.id:
        return {"model": model.id}  # stages with the same model follow
    others = {each.model for each in spec.stages if each.model.id != model.id}
    if any(contents.get(each.id) != each.digest for each in others):
        return None
    return {"stages": [_request_of(each) for each in spec.stages]}


def _request_of(stage: StageFound) -> Stage:
    request: Stage = {**asdict(stage), "model": stage.model.id}  # type: ignore[typeddict-item]
    return request


def _changed(client: Client, pipeline: Pipeline, changes: PipelineChanges) -> bool:
    """Change a pipeline, unless it is stopped or its stages are changed meanwhile."""
    version = pipeline.version if "stages" in changes else None
    try:
        client.patch_pipeline(pipeline.pipeline_id, if_match=version, **changes)
    except Rejected as exc:
        warn(f"{pipeline.pipeline_id} keeps its file: {exc}")
        return False
    return True
