"""Looks up the models that a request names."""

from __future__ import annotations

from collections.abc import Mapping

from streamfleet_api.storage.model_registry import Models, UnknownModel
from streamfleet_api.v2.mapping import Place, Resolved
from streamfleet_api.v2.request_reading import listed
from streamfleet_api.web.validation import Invalid
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.values import ModelRef


async def find_models(models: Models, places: Mapping[str, Place]) -> Resolved:
    """The models with these ids; `places`: where the request names them. Raises: Invalid."""
    return {model_id: await _find(models, model_id, place) for model_id, place in sorted(places.items())}


async def _find(models: Models, model_id: str, place: Place) -> ModelRef:
    try:
        return await models.find(model_id)
    except UnknownModel as exc:
        known = listed(model.id for model in await models.list())
        text = f"Input should be a model of the fleet: {known}; PUT /v2/models/{model_id} adds it"
        raise Invalid([{"type": "model", "loc": place, "msg": text, "input": model_id}]) from exc
    except BadModel as exc:
        text = f"Input should be a model that can be used: {exc}"
        raise Invalid([{"type": "model", "loc": place, "msg": text, "input": model_id}]) from exc
