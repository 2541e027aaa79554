"""A fleet as a file, on the command line: what is said, uploaded and asked, and where errors are."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.requests import ApplyPipelines
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Command
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.models import with_description

FILE = """\
manager: hall-1
pipelines:
  - {id: door, model: parts/1, sources: ["rtsp://10.0.0.9/door"]}
  - {id: gate, model: parts/1, sources: [0], confidence: 0.5}
"""


@pytest.fixture(autouse=True)
def _known(peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    peer.devices["edge-1"] = device("edge-1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FILE)
    return path


def test_a_plan_is_followed(run: Command, peer: Peer, file: Path) -> None:
    peer.pipelines["old"] = pipeline("old", labels={"manager": "hall-1"})

    planned = run("plan", "-f", str(file)).stdout
    assert list(peer.pipelines) == ["old"]
    done = run("apply", "-f", str(file)).stdout
    again = run("apply", "-f", str(file)).stdout

    changes = "+ door: new on edge-1\n+ gate: new on edge-1\n- old: removed\n"
    assert planned == f"{changes}2 to create, 1 to remove\n"
    assert done == f"{changes}2 created, 1 removed\n"
    assert again == "2 unchanged\n"


def test_a_difference_is_told_value_by_value(run: Command, file: Path) -> None:
    run("apply", "-f", str(file))
    file.write_text(FILE.replace("0.5", "0.7"))

    assert run("diff", "-f", str(file), "--exit-code", code=3).stdout == (
        "  gate\n-   confidence: 0.5\n+   confidence: 0.7\n"
    )
    run("apply", "-f", str(file))
    assert run("diff", "-f", str(file), "--exit-code").stdout == ""


def test_an_export_is_a_file(run: Command, file: Path) -> None:
    run("apply", "-f", str(file))

    file.write_text(run("export").stdout)

    assert file.read_text().startswith("manager: hall-1\n")
    assert run("diff", "-f", str(file)).stdout == ""


def test_pipelines_of_a_file_are_removed(run: Command, peer: Peer, file: Path) -> None:
    run("apply", "-f", str(file))
    peer.pipelines["own"] = pipeline("own")

    assert run("delete", "-f", str(file)).stdout == "- door: removed\n- gate: removed\n2 removed\n"
    assert list(peer.pipelines) == ["own"]


def test_errors_of_all_kinds_have_a_line_and_a_column(run: Command, peer: Peer, file: Path) -> None:
    def error(text: str) -> str:
        file.write_text(text)
        return run("apply", "-f", str(file), code=1).stderr

    assert error("a: [") == (
        f"error: {file}:2:1: expected YAML (while parsing a flow node did not find expected node content)\n"
    )
    assert error(FILE.replace("confidence: 0.5", "confidence: 5")).startswith(
        f"error: {file}:4:58: pipelines.1.confidence: expected less than or equal to 1"
    )
    assert error(FILE.replace("confidence", "confidance")) == (
        f"error: {file}:4:46: pipelines.1.confidance: expected one of the known keys, perhaps 'confidence', "
        "got 'confidance'\n"
    )
    assert error(f"models: [{{id: x/1, file: none.onnx}}]\n{FILE}") == (
        f"error: {file}:1:26: expected a file, got 'none.onnx': No such file or directory\n"
    )
    assert not [each for each in peer.asked if isinstance(each, ApplyPipelines)]


def test_the_file_of_a_model_is_uploaded_and_its_errors_keep_their_lines(
    run: Command, peer: Peer, file: Path
) -> None:
    peer.models.clear()
    (file.parent / "demo.onnx").write_bytes(with_description(demo_model(), __name__))
    text = f"models:\n  - id: conveyor/8\n    file: demo.onnx\n{FILE.replace('parts/1', 'conveyor/8')}"

    file.write_text(text.replace("[0]", "[-1]"))
    wrong = run("apply", "-f", str(file), code=1).stderr
    file.write_text(text)
    done = run("apply", "-f", str(file))

    assert (
        wrong == f"error: {file}:7:45: pipelines.1.sources.0: expected greater than or equal to 0, got -1\n"
    )
    assert done.stdout.startswith("+ model conveyor/8: new\n")
    assert done.stderr == f"uploading conveyor/8: {file.parent / 'demo.onnx'}\n"
    assert run("apply", "-f", str(file)).stderr == ""
    assert peer.pipelines["door"].spec.model == peer.models["conveyor/8"]


def test_the_schema_is_printed(run: Command) -> None:
    assert '"title": "A Streamfleet fleet"' in run("schema").stdout
