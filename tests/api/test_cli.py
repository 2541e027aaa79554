"""The command line: tables for people, JSON for programs, errors on stderr with the next step."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamfleet_api.cli import cli
from streamfleet_api.client import path_of, token_for
from streamfleet_api.demo import demo_model
from streamfleet_broker.protocol.requests import CreatePipeline
from streamfleet_broker.protocol.values import ModelRef, SourceSpec, UdpSink
from tests.api.conftest import Api, environment, free_port
from tests.api.peer import KEY, Peer, device, pipeline, sha256
from tests.api.test_modelfile import save

DEMO = demo_model()


class Command:
    """`streamfleet` in front of the api under test."""

    def __init__(self, api: Api) -> None:
        self.options = ["--url", api.url, "--data-dir", str(api.folder)]

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, [*self.options, *arguments])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own."""
        command = [sys.executable, "-m", "streamfleet_api.cli", *self.options, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, env=environment(), check=False
        )


@pytest.fixture
def run(api: Api) -> Command:
    """Runs one command."""
    return Command(api)


# models ---------------------------------------------------------------------------------------------------


def test_a_model_is_uploaded_and_registered(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)

    added = run("models", "add", "shapes/1", str(file))
    again = run("models", "add", "shapes/1", str(file), "--json")
    listed = run("models", "list")

    assert added.stdout == "shapes/1: ultralytics, 320x320, 3 classes\n"
    assert json.loads(again.stdout)["weights"]["sha256"] == sha256(DEMO)
    assert listed.stdout.split()[5:12] == [
        "shapes/1",
        "ultralytics",
        "320x320",
        "3:",
        "red,",
        "green,",
        "blue",
    ]
    assert [model["id"] for model in json.loads(run("models", "list", "--json").stdout)] == ["shapes/1"]


def test_labels_and_family_may_come_with_the_command(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = save(tmp_path / "yolox.onnx", (1, 126, 7), metadata={})
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")

    refused = run("models", "add", "pets/1", str(file), "--labels", str(labels), code=1)
    added = run("models", "add", "pets/1", str(file), "--labels", str(labels), "--family", "yolox")

    assert "--family yolox" in refused.stderr
    assert not refused.stdout
    assert added.stdout == "pets/1: yolox, 96x64, 2 classes\n"


def test_a_missing_file_is_a_usage_error(run: Command) -> None:
    assert "gone.onnx" in run("models", "add", "a/1", "gone.onnx", code=2).stderr


# pipelines ------------------------------------------------------------------------------------------------


def test_init_puts_a_video_and_a_model_to_work(run: Command, peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    peer.devices["edge-1"] = device("edge-1")

    options = ["--sink", "10.0.0.2:12000", "--device", "edge-1", "--tracker", "bytetrack", "--max-fps", "5"]
    result = run("init", "--model", "parts/1", "--video", "0", "--confidence", "0.5", *options)

    created = peer.asked[-1]
    assert isinstance(created, CreatePipeline)
    assert result.stdout == f"{created.pipeline_id} on edge-1\n"
    assert created.device == "edge-1"
    assert created.spec.sources == (SourceSpec(0),)
    assert created.spec.sinks == (UdpSink("10.0.0.2", 12000),)
    assert (created.spec.confidence, created.spec.max_fps) == (0.5, 5.0)
    assert created.spec.tracker == "bytetrack"


def test_init_says_the_originals_answer_to_programs(run: Command, peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)

    result = run("init", "--model", "parts/1", "--video", "rtsp://cam/1", "--json")

    assert json.loads(result.stdout)["context"]["pipeline_id"] in peer.pipelines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["init", "--model", "nobody/1", "--video", "x"], "streamfleet models add nobody/1 FILE"),
        (["status", "nobody"], "not_found"),
        (["pause", "nobody"], "not_found"),
        (["tail", "nobody"], "no such pipeline"),
        (["status", "a b"], "pipeline_id"),
        (["status", "../v2/devices"], "Not Found"),
        (["devices", "add", "a b"], "name"),
    ],
)
def test_what_the_fleet_refuses_is_an_error(run: Command, arguments: list[str], expected: str) -> None:
    result = run(*arguments, code=1)

    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["init"],
        ["init", "--model", "a", "--video", "b", "--sink", "x"],
        ["devices", "add", "x", "--ttl", "soon"],
    ],
)
def test_a_wrong_command_is_a_usage_error(run: Command, arguments: list[str]) -> None:
    assert "Usage:" in run(*arguments, code=2).stderr


def test_pipelines_are_a_table_for_people_and_a_list_for_programs(run: Command, peer: Peer) -> None:
    empty = run("pipelines")
    peer.pipelines["door"] = pipeline("door", status="failed", reason="no such [red]file\x1b[2J")

    table = run("pipelines")
    listed = json.loads(run("pipelines", "--json").stdout)

    assert "streamfleet init" in empty.stderr
    assert not empty.stdout
    assert "no such [red]file?[2J" in table.stdout
    assert "hunter2" not in table.stdout
    assert [entry["pipeline_id"] for entry in listed] == ["door"]


def test_a_pipeline_is_looked_at_paused_resumed_and_terminated(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    texts = [run(verb, "door").stdout for verb in ("status", "pause", "resume", "terminate")]

    assert texts[0].startswith("door: running on edge-1\n")
    assert texts[1:] == ["door paused\n", "door resumed\n", "door terminated\n"]
    assert not peer.pipelines


@pytest.mark.parametrize("as_json", [False, True])
def test_tail_prints_predictions_as_they_happen(api: Api, run: Command, peer: Peer, as_json: bool) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    found: list[subprocess.CompletedProcess[str]] = []
    arguments = ["tail", "tailed", "-n", "2", *(["--json"] if as_json else [])]
    tail = threading.Thread(target=lambda: found.append(run.process(*arguments)), name="tail")
    tail.start()

    peer.wait_for_subscriber(b"v1/pred/tailed/")
    for seq in (0, 5):
        peer.predict("tailed", seq)
    tail.join(20)

    lines = found[0].stdout.splitlines()
    assert found[0].returncode == 0, found[0].stderr
    assert found[0].stderr == "4 predictions are missing here\n"
    if as_json:
        assert [json.loads(line)["inference_metadata"]["frame_id"] for line in lines] == [1, 6]
    else:
        assert lines == ["tailed edge-1 #1 car 0.90 (1,2)", "tailed edge-1 #6 car 0.90 (1,2)"]


# devices and keys -----------------------------------------------------------------------------------------


def test_devices_are_a_table_for_people_and_a_list_for_programs(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1")

    table = run("devices").stdout.splitlines()

    assert table[0].split() == ["device", "state", "pipelines", "silent", "version"]
    assert table[1].split() == ["edge-1", "ready", "1", "of", "8", "0", "s", "0.1.0"]
    assert json.loads(run("devices", "--json").stdout)[0]["device"] == "edge-1"


def test_a_devices_token_is_all_of_stdout(run: Command) -> None:
    full = run("devices", "add", "cam-7", "--ttl", "2h")
    only = run("devices", "add", "cam-7", "--token-only")

    assert full.stdout == "sf1.cam-7.7200\n"
    assert "streamfleet-worker --join sf1.cam-7.7200" in full.stderr
    assert (only.stdout, only.stderr) == ("sf1.cam-7.900\n", "")


def test_the_subscribers_program_is_all_of_stdout(run: Command) -> None:
    done = run.process("keys", "subscriber", "wall")

    program = ast.parse(done.stdout)
    names = {alias.name for node in ast.walk(program) if isinstance(node, ast.Import) for alias in node.names}
    assert done.returncode == 0
    assert names == {"msgpack", "zmq"}
    assert "tcp://127.0.0.1:7774" in done.stdout
    assert KEY in done.stdout
    assert "private" in done.stderr


# reaching the fleet ---------------------------------------------------------------------------------------


def test_without_a_fleet_the_error_says_how_to_start_one() -> None:
    result = CliRunner().invoke(cli, ["--url", f"http://127.0.0.1:{free_port()}", "pipelines"])

    assert result.exit_code == 1
    assert "cannot reach http://127.0.0.1:" in result.stderr
    assert "streamfleet up" in result.stderr


def test_the_token_of_this_host_is_shown_to_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o600)

    assert token_for("http://127.0.0.1:8080", file) == "secret"
    assert token_for("http://localhost:8080", file) == "secret"
    assert token_for("http://203.0.113.9:8080", file) is None
    assert token_for("http://", file) is None
    assert token_for("http://127.0.0.1:8080", tmp_path / "gone") is None


def test_no_part_of_a_path_leaves_its_place() -> None:
    assert path_of("status", "../x?y#z") == "/status/..%2Fx%3Fy%23z"


def test_a_command_starts_fast() -> None:
    started = time.monotonic()
    program = (
        "import sys; from streamfleet_api.cli import cli; "
        "print(sorted({'zmq', 'httpx', 'rich.table', 'pydantic', 'starlette', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )

    assert done.stdout == "[]\n"
    assert time.monotonic() - started < 5
