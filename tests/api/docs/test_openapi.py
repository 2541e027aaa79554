"""The documentation: all routes are in it, the original's as they were, and its page is safe."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import zmq.asyncio
from starlette.routing import Route

from streamfleet_api.app import Services, create_app
from streamfleet_api.config import parse
from streamfleet_api.docs.html import page
from streamfleet_api.docs.openapi import template
from streamfleet_api.v2 import requests
from streamfleet_api.web.validation import validate
from tests.fakes.ports_and_folders import SHARED

ORIGINAL = SHARED / "design/enterprise-openapi.json"
OPERATIONS = {
    ("get", "/list_pipelines"): "list_pipelines_list_pipelines_get",
    ("get", "/status/{pipeline_id}"): "get_status_status__pipeline_id__get",
    ("post", "/initialise"): "initialise_initialise_post",
    ("post", "/pause/{pipeline_id}"): "pause_pause__pipeline_id__post",
    ("post", "/resume/{pipeline_id}"): "resume_resume__pipeline_id__post",
    ("post", "/terminate/{pipeline_id}"): "terminate_terminate__pipeline_id__post",
}


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    """As the api serves it."""
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every operation by method and path."""
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def references(value: Any) -> set[str]:
    """Every `$ref` in a document."""
    if isinstance(value, list):
        return set().union(*map(references, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return found.union(*map(references, value.values()))


async def test_every_route_is_documented_and_nothing_else(document: dict[str, Any], tmp_path: Path) -> None:
    config = parse(["--data-dir", str(tmp_path / "api")], {})
    context = zmq.asyncio.Context()
    app = create_app(config, Services.make(config, context), token="")
    context.destroy(linger=0)

    routed = {
        (method.lower(), template(route.path))
        for route in app.routes
        if isinstance(route, Route) and route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert routed == set(operations(document))


def test_operations_have_ids_of_their_own_and_references_that_lead_somewhere(
    document: dict[str, Any],
) -> None:
    ids = [operation["operationId"] for operation in operations(document).values()]
    tags = {tag["name"] for tag in document["tags"]}
    schemas = document["components"]["schemas"]

    assert document["openapi"] == "3.1.0"
    assert len(set(ids)) == len(ids)
    assert all(operation["tags"][0] in tags for operation in operations(document).values())
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


@pytest.mark.parametrize(("key", "operation_id"), OPERATIONS.items())
def test_the_originals_operations_have_its_ids(
    document: dict[str, Any], key: tuple[str, str], operation_id: str
) -> None:
    operation = operations(document)[key]

    kinds = {
        status: answer["content"]["application/json"]["schema"].get("$ref", "").rpartition("/")[2]
        for status, answer in operation["responses"].items()
    }

    assert operation["operationId"] == operation_id
    expected = "CommandResponse" if key[0] == "post" else ""
    assert kinds["200"].startswith(expected)
    assert kinds["200"]
    assert (kinds.get("422") == "HTTPValidationError") == (key[1] != "/list_pipelines")


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the original's OpenAPI document is not here (../shared)")
def test_the_originals_part_means_what_it_meant(document: dict[str, Any]) -> None:
    theirs = json.loads(ORIGINAL.read_text())

    for key, operation in operations(theirs).items():
        ours = operations(document)[key]
        assert ours["operationId"] == operation["operationId"]
        assert bare(ours.get("parameters", [])) == bare(operation.get("parameters", []))
        assert bare(ours.get("requestBody")) == bare(operation.get("requestBody"))
        for status, answer in operation["responses"].items():
            assert bare(ours["responses"][status]) == bare(answer), (key, status)
    for name, schema in theirs["components"]["schemas"].items():
        ours = bare(document["components"]["schemas"][name])
        added = set(ours["properties"]) - set(schema["properties"])
        assert added <= {"device", "tracker"}
        ours["properties"] = {key: each for key, each in ours["properties"].items() if key not in added}
        assert ours == bare(schema), name


def bare(schema: Any) -> Any:
    """A schema without the words that are for people, and with its choices in one order."""
    if isinstance(schema, list):
        return sorted((bare(each) for each in schema), key=str)
    if not isinstance(schema, dict):
        return schema
    # An object that says nothing of further keys allows them, as one does that says so.
    return {
        key: bare(value)
        for key, value in schema.items()
        if key not in ("description", "default") and (key, value) != ("additionalProperties", True)
    }


# the page -------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline = ""
        self.handlers: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_script = tag in ("script", "style")
        if tag in ("script", "link", "img"):
            self.loaded.append(values.get("src") or values.get("href") or "")
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(http: httpx.Client) -> None:
    answer = http.get("/docs")

    reader = Reader()
    reader.feed(answer.text)
    assert answer.headers["content-type"].startswith("text/html")
    assert reader.loaded == ["/docs/docs.css", "/docs/docs.js"]
    assert (reader.inline, reader.handlers) == ("", [])
    for path in ("/docs", *reader.loaded):
        headers = http.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert http.get("/docs/__init__.py").status_code == 404


def test_the_page_has_every_operation_and_links_that_lead_somewhere(
    http: httpx.Client, document: dict[str, Any]
) -> None:
    text = http.get("/docs").text

    anchors = set(re.findall(r'id="([^"]+)"', text))
    assert {operation["operationId"] for operation in operations(document).values()} <= anchors
    assert set(re.findall(r'href="#([^"]+)"', text)) <= anchors


def test_what_stands_in_the_document_is_text_on_the_page(document: dict[str, Any]) -> None:
    canary = "<img src=x onerror=alert(1)>"
    hostile = json.loads(json.dumps(document).replace("Every pipeline, oldest first", canary))

    text = page(hostile)

    assert canary not in text
    assert "&lt;img src=x" in text


def test_every_example_is_one_that_is_accepted(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    examples = {name: schema["examples"] for name, schema in schemas.items() if "examples" in schema}

    for name, given in examples.items():
        for example in given:
            assert validate(example, getattr(requests, name))
    assert {"PipelineRequest", "NewPipelineRequest", "PipelinePatch"} <= set(examples)
