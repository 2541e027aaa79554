"""The original's requests as its OpenAPI document describes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamfleet_api.roboflow.schemas import PipelineInitialisationRequest
from tests.fakes.ports_and_folders import SHARED

OPENAPI = SHARED / "design/enterprise-openapi.json"
OURS = {"device", "tracker"}


def bare(schema: Any) -> Any:
    """A schema without the words that are for people, and with its choices in one order."""
    if isinstance(schema, list):
        return sorted((bare(each) for each in schema), key=str)
    if not isinstance(schema, dict):
        return schema
    return {key: bare(value) for key, value in schema.items() if key not in ("description", "default")}


@pytest.mark.skipif(not OPENAPI.exists(), reason="the original's OpenAPI document is not here (../shared)")
@pytest.mark.parametrize(
    "name",
    ["PipelineInitialisationRequest", "UDPSinkConfiguration", "ObjectDetectionModelConfiguration"],
)
def test_fields_types_and_requirements_are_the_originals(name: str) -> None:
    theirs = json.loads(OPENAPI.read_text())["components"]["schemas"]
    template = "#/components/schemas/{model}"
    whole = PipelineInitialisationRequest.model_json_schema(ref_template=template)
    ours = {**whole.pop("$defs"), "PipelineInitialisationRequest": whole}[name]
    ours["properties"] = {key: value for key, value in ours["properties"].items() if key not in OURS}

    assert bare(ours) == bare(theirs[name])
    assert list(ours["properties"]) == list(theirs[name]["properties"])
