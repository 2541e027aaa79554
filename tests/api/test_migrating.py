"""The page for users of the original promises nothing that is not there."""

from __future__ import annotations

import importlib
import re

import pytest

from streamfleet_worker import library
from tests.api.conftest import Api
from tests.fakes.ports_and_folders import ROOT

PAGE = (ROOT / "MIGRATING.md").read_text()
SOURCES = "\n".join(
    path.read_text() for package in ("broker", "worker", "api") for path in (ROOT / package).rglob("*.py")
)


def section(title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_every_variable_that_it_lists_is_read() -> None:
    rows = [line for line in section("Environment variables").splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)(?:\*)?`", row.split("|")[1])}

    assert len(names) > 20
    assert {name for name in names if f'"{name}' not in SOURCES} == set()


def test_every_class_and_sink_that_it_lists_can_be_imported() -> None:
    rows = [line for line in section("Stream, UdpStream, InferencePipeline").splitlines() if "| `" in line]
    names = {name.split(".")[0] for row in rows for name in re.findall(r"`([A-Za-z_.]+)`", row.split("|")[1])}

    assert {"Stream", "UdpStream", "InferencePipeline", "UDPSink", "VideoFrame"} <= names
    assert {name for name in names if not hasattr(library, name)} == set()


@pytest.mark.parametrize("title", ["The HTTP API on port 8080", "`/inference_pipelines` and the SDK"])
def test_every_endpoint_that_it_names_is_served(api: Api, title: str) -> None:
    paths = set(api.http.get("/openapi.json").json()["paths"])
    named = {
        path.replace("{id}", "{pipeline_id}")
        for path in re.findall(r"`(?:GET|POST) (/[\w/{}]+)`", section(title))
    }
    of_core = {f"/inference_pipelines/{name}" for name in ("list", "initialise", "initialise_webrtc")}
    of_core |= {
        f"/inference_pipelines/{{pipeline_id}}/{name}"
        for name in ("status", "pause", "resume", "terminate", "consume")
    }

    assert named | of_core <= paths


def test_every_file_that_it_points_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGE)

    assert {target for target in targets if not (ROOT / target).exists()} == set()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_every_module_and_name_that_imports_lead_to_is_there() -> None:
    rows = [line.split("|")[2] for line in section("Imports").splitlines() if line.startswith("| `")]
    modules = {name for row in rows for name in re.findall(r"`(streamfleet_worker[\w.]*)`", row)}
    named = [
        (name, names)
        for row in rows
        for name, names in re.findall(r"`(streamfleet_worker[\w.]*)` \(([^)]*)\)", row)
    ]

    assert len(modules) >= 4
    for module in modules:
        importlib.import_module(module)
    for module, names in named:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
