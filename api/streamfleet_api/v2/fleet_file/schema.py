"""The JSON Schema of a file of a fleet, for editors and checkers.

It is made of the models that check requests. In a template each value may also be a text with parameters, and
nothing is required; a pipeline with a template needs no more than its id.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from streamfleet_api.v2.fleet_file.requests import FilePipeline, FleetFile
from streamfleet_api.v2.requests import PipelineRequest
from streamfleet_core.documents.templates import PARAMETER_NAME
from streamfleet_core.protocol.limits import ID_PATTERN, schema_pattern

SCHEMA_TYPE = "application/schema+json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_WITH_PARAMETER = {"type": "string", "pattern": r"\$\{" + PARAMETER_NAME + r"\}"}
_SUFFIX = "InTemplate"
_REF = "#/$defs/"


@functools.cache
def schema() -> dict[str, Any]:
    """The schema, which is made once. Do not change it."""
    whole = FleetFile.model_json_schema()
    pipeline = FilePipeline.model_json_schema()
    definitions = {**whole.pop("$defs", {}), **pipeline.pop("$defs", {})}
    in_template = _relaxed(PipelineRequest.model_json_schema())
    own = in_template.pop("$defs", {})
    definitions |= {f"{name}{_SUFFIX}": each for name, each in own.items()}
    parameters = {
        "type": "object",
        "propertyNames": {"pattern": schema_pattern(PARAMETER_NAME)},
        "description": "Values of the parameters.",
    }
    definitions["Template"] = {
        **in_template,
        "title": "Template",
        "description": "What pipelines share. `${name}` in a text is a parameter.",
        "properties": {**in_template["properties"], "parameters": parameters},
        "required": [],
    }
    definitions["Pipeline"] = {
        **pipeline,
        "title": "Pipeline",
        "properties": {
            **pipeline["properties"],
            "template": {"type": "string", "description": "The template that it is made of."},
            "parameters": parameters,
        },
        "required": ["id"],
        "anyOf": [{"required": ["template"]}, {"required": ["model", "sources"]}],
    }
    whole["properties"]["templates"] |= {"additionalProperties": {"$ref": f"{_REF}Template"}}
    whole["properties"]["templates"].pop("patternProperties", None)
    whole["properties"]["templates"]["propertyNames"] = {"pattern": schema_pattern(ID_PATTERN)}
    whole["properties"]["pipelines"]["items"] = {"$ref": f"{_REF}Pipeline"}
    return {"$schema": DIALECT, **whole, "title": "A Streamfleet fleet", "$defs": definitions}


def _relaxed(part: Any) -> Any:
    """The schema of the same value in a template."""
    if isinstance(part, list):
        return [_relaxed(each) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return {**part, "$ref": f"{part['$ref']}{_SUFFIX}"}
    relaxed = {
        key: value if key in ("default", "examples", "discriminator", "const", "enum") else _relaxed(value)
        for key, value in copy.deepcopy(part).items()
        if key not in ("required", "discriminator", "examples")
    }
    if "oneOf" in relaxed:  # with a parameter, several may fit
        relaxed["anyOf"] = relaxed.pop("oneOf")
    is_value = part.get("type") in ("string", "number", "integer", "boolean", "array", "object") or (
        "enum" in part or "const" in part
    )
    if not is_value or ("properties" in part and "sources" in part["properties"]):
        return relaxed
    described = {key: relaxed.pop(key) for key in ("title", "description", "default") if key in relaxed}
    return {**described, "anyOf": [relaxed, _WITH_PARAMETER]}
