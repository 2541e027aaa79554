"""The JSON Schema for editors: current, a schema, and of the same opinion as the api about files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from streamfleet_api.v2.fleet_file.reading import read_file, read_pipelines
from streamfleet_api.v2.fleet_file.schema import schema
from streamfleet_core.documents.errors import BadDocument
from streamfleet_core.documents.yaml_text import read_yaml
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT

COMMITTED = ROOT / "docs/fleet.schema.json"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PIPELINE = {"id": "door", "model": "parts/1", "sources": ["rtsp://cam/1"]}
GOOD: list[dict[str, Any]] = [
    {},
    {"manager": "hall-1", "pipelines": [PIPELINE]},
    {
        "templates": {
            "t": {
                "model": "${model}",
                "sources": [{"reference": "${id}", "max_fps": "${fps}", "classes": "${classes}"}],
                "confidence": "${confidence}",
                "labels": {"line": "${line}"},
                "sampling": "${sampling}",
                "stages": "${stages}",
                "paused": "${paused}",
                "tracker": "${tracker}",
            }
        },
        "pipelines": [],
    },
    {
        "models": [
            {"id": "parts/1", "file": "parts.onnx", "labels": ["a"]},
            {"id": "x", "weights": "a" * 64},
        ],
        "devices": [{"name": "edge-1", "labels": {"site": "hall-1", "old": None}}],
    },
]
BAD: list[Any] = [
    [],
    {"pipeline": []},
    {"manager": "-"},
    {"pipelines": [{"id": "door", "model": "parts/1"}]},
    {"pipelines": [{**PIPELINE, "confidence": 2}]},
    {"pipelines": [{**PIPELINE, "confidance": 0.5}]},
    {"pipelines": [{**PIPELINE, "sources": []}]},
    {"pipelines": [{**PIPELINE, "labels": {"line": 3}}]},
    {"pipelines": [{**PIPELINE, "id": "no id"}]},
    {"templates": {"t": {"modell": "x"}}},
    {"models": [{"id": "parts/1", "weights": "short"}]},
    {"devices": [{"labels": {}}]},
]


def is_taken(document: Any) -> bool:
    """Whether the api takes a file, as far as the file alone says."""
    try:
        read_pipelines(read_file(read_yaml(json.dumps(document).encode())), {})
    except BadDocument:
        return False
    return True


def test_the_committed_schema_is_current() -> None:
    text = json.dumps(schema(), indent=2) + "\n"

    assert COMMITTED.read_text() == text, "run: python -m tools.docs.fleet_schema"


@pytest.mark.parametrize("document", GOOD)
def test_schema_and_api_take_the_same_files(document: Any) -> None:
    assert jsonschema_rs.is_valid(schema(), document)
    assert is_taken(document)


@pytest.mark.parametrize("document", BAD)
def test_schema_and_api_refuse_the_same_files(document: Any) -> None:
    assert not jsonschema_rs.is_valid(schema(), document)
    assert not is_taken(document)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_checker_takes_the_examples(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(COMMITTED), str(path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert is_taken(read_yaml(path.read_bytes()).plain)
