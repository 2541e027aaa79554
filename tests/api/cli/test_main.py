"""The command line: tables for people, JSON for programs, errors on stderr with the next step."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import zmq
from click.testing import CliRunner

from streamfleet.connection import path_of, token_for
from streamfleet_api.cli.main import cli
from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Reply
from streamfleet_core.protocol.requests import Token
from streamfleet_core.protocol.values import Stage, to_plain
from tests.api.conftest import Api, Command, environment, terminal_text
from tests.core.models.test_model_validation import NAMES, save
from tests.fakes.broker import KEY, Peer, device, pipeline, sha256, spec
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, free_ports

DEMO = demo_model()


# models ---------------------------------------------------------------------------------------------------


def test_a_model_is_uploaded_and_registered(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)

    added = run("models", "add", "shapes/1", str(file))
    again = run("models", "add", "shapes/1", str(file), "--json")
    listed = run("models", "list")

    assert added.stdout == "shapes/1: ultralytics, detect, 320x320, 3 classes\n"
    assert json.loads(again.stdout)["weights"]["sha256"] == sha256(DEMO)
    assert listed.stdout.split()[6:14] == [
        "shapes/1",
        "ultralytics",
        "detect",
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
    assert added.stdout == "pets/1: yolox, detect, 96x64, 2 classes\n"


@pytest.mark.parametrize("content", [b"caf\xe9\n", b"\n\n"])
def test_labels_that_cannot_be_read_are_told(
    run: Command, peer: Peer, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "demo.onnx").write_bytes(DEMO)
    (tmp_path / "labels.txt").write_bytes(content)

    refused = run(
        *("models", "add", "pets/1", str(tmp_path / "demo.onnx")),
        *("--labels", str(tmp_path / "labels.txt")),
        code=1,
    )

    assert refused.stderr.startswith("error: expected class names")
    assert not peer.models


def test_a_model_takes_the_place_of_another_only_when_told(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    run("models", "add", "shapes/1", str(file))
    before = peer.models["shapes/1"]

    refused = run("models", "add", "shapes/1", str(file), "--labels", str(labels), code=1)
    kept = peer.models["shapes/1"]
    replaced = run("models", "add", "shapes/1", str(file), "--labels", str(labels), "--replace")

    assert "--replace" in refused.stderr
    assert before == kept
    assert replaced.stdout.splitlines()[1:] == [f"replaces {before.digest[:12]}; running pipelines keep it"]
    assert peer.models["shapes/1"] != before


def test_a_model_is_shown_and_removed(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)
    run("models", "add", "shapes/1", str(file))
    ours = replace(spec("0"), model=peer.models["shapes/1"])
    peer.pipelines["door"] = pipeline("door", spec=ours)

    shown = run("models", "show", "shapes/1").stdout.splitlines()
    removed = run("models", "remove", "shapes/1", "shapes/2", code=1)

    assert shown[0] == "shapes/1: ultralytics"
    assert "  classes      3: red, green, blue" in shown
    assert "  pipelines    door" in shown
    assert removed.stdout == "shapes/1 removed\n"
    assert removed.stderr.startswith("error: no model shapes/2\n")
    assert not peer.models


def test_a_card_has_what_the_file_says_in_one_line_each(run: Command, peer: Peer, tmp_path: Path) -> None:
    told = {"license": "AGPL-3.0", "author": "Ann\x1b[2J\u202e", "description": "finds\ncats", "date": ""}
    file = save(tmp_path / "cats.onnx", image=("batch", 3, 64, 96), metadata={**NAMES, **told})
    run("models", "add", "cats/1", str(file))

    shown = run("models", "show", "cats/1").stdout.splitlines()
    card = json.loads(run("models", "show", "cats/1", "--json").stdout)

    assert shown[:4] == [
        "cats/1: ultralytics",
        "  task         detection (boxes)",
        "  input        96x64, float32, exported for any batch",
        "  classes      2: cat, dog's",
    ]
    assert shown[7:] == [
        "  ONNX         opset 17, IR version 9",
        "  licence      AGPL-3.0",
        "  author       Ann[2J",
        "  description  finds cats",
        "  variants     none",
        "  cost         not measured yet",
        "  pipelines    none",
    ]
    assert card["card"]["dynamic_batch"]
    assert card["pipelines"] == []


def test_class_names_are_exported_as_they_are_given(run: Command, peer: Peer, tmp_path: Path) -> None:
    run("models", "add", "cats/1", str(save(tmp_path / "cats.onnx")))
    file = tmp_path / "labels.txt"

    printed = run("models", "export-labels", "cats/1")
    written = run("models", "export-labels", "cats/1", "-o", str(file))
    again = run("models", "add", "cats/2", str(save(tmp_path / "cats.onnx")), "--labels", str(file), "--json")
    unwritable = run("models", "export-labels", "cats/1", "-o", str(tmp_path / "no/labels.txt"), code=1)

    assert printed.stdout == file.read_text() == "cat\ndog's\n"
    assert written.stdout == f"{file}: 2 classes\n"
    assert json.loads(again.stdout)["labels"] == ["cat", "dog's"]
    assert "No such file" in unwritable.stderr


def test_a_model_in_use_is_removed_only_by_who_insists(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)
    run("models", "add", "shapes/1", str(file))
    ours = replace(spec("0"), model=peer.models["shapes/1"])
    peer.pipelines["door"] = pipeline("door", spec=ours)

    ours_end, its = pty.openpty()
    process = run.start("models", "remove", "shapes/1", stdin=its)
    os.write(ours_end, b"n\n")
    _, asked = process.communicate(timeout=PATIENCE)
    os.close(its)
    os.close(ours_end)
    kept = dict(peer.models)
    run("models", "remove", "shapes/1", "--yes")

    assert process.returncode == 1
    assert "Remove shapes/1, in use by door (shapes/1)? [y/N]" in asked
    assert "nothing was done" in asked
    assert "shapes/1" in kept
    assert not peer.models


def test_a_model_of_a_stage_is_in_use(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)
    run("models", "add", "shapes/1", str(file))
    old = replace(peer.models["shapes/1"], digest="0" * 64)
    stages = (Stage(name="text", model=peer.models["shapes/1"]), Stage(name="old", model=old))
    peer.pipelines["door"] = pipeline("door", spec=replace(spec("0"), stages=stages))

    card = run("models", "show", "shapes/1").stdout
    ours_end, its = pty.openpty()
    process = run.start("models", "remove", "shapes/1", stdin=its)
    os.write(ours_end, b"n\n")
    _, asked = process.communicate(timeout=PATIENCE)
    os.close(its)
    os.close(ours_end)

    assert card.endswith("  pipelines    door\n               an earlier content: door\n")
    assert "Remove shapes/1, in use by door (shapes/1)? [y/N]" in asked
    assert "shapes/1" in peer.models


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "best.pt",
            b"PK\x03\x04best/data.pkl",
            "a PyTorch file: export it: yolo export model=best.pt format=onnx",
        ),
        ("best.engine", b"\x40\0\0\0" + b'{"description": "x"}', "yolo export model=best.pt format=onnx"),
        ("model.onnx", b"<!DOCTYPE html><html>", "a web page (HTML): fetch the file itself"),
    ],
)
def test_what_is_no_onnx_file_is_told_before_it_is_sent(
    run: Command, api: Api, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)

    refused = run("models", "add", "shapes/1", str(tmp_path / name), code=1)

    assert refused.stderr.startswith(f"error: {tmp_path / name}: expected an ONNX file, got ")
    assert expected in refused.stderr
    assert api.http.head(f"/v2/blobs/{sha256(content)}").status_code == 404


def test_on_a_terminal_an_upload_shows_how_far_it_is(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(DEMO)
    ours, its = pty.openpty()
    process = run.start("models", "add", "shapes/2", str(file), "--json", stderr=its)
    os.close(its)
    stdout, _ = process.communicate(timeout=PATIENCE)
    shown = terminal_text(ours)

    assert process.returncode == 0, shown
    assert json.loads(stdout)["id"] == "shapes/2"
    assert "reading" in shown


def test_a_file_that_is_no_model_is_named(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no model\n" * 20)

    assert f"error: {file}: expected an ONNX file" in run("models", "add", "a/1", str(file), code=1).stderr


def test_a_missing_file_is_a_usage_error(run: Command) -> None:
    assert "gone.onnx" in run("models", "add", "a/1", "gone.onnx", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["init"], "--model"),
        (["run", "--id", "no/slash", "--model", "a", "--video", "b"], "up to 64 letters"),
        (["devices", "add", "a b"], "up to 64 letters"),
        (["init", "--model", "a", "--video", "b", "--sink", "x"], "HOST:PORT"),
        (["devices", "add", "x", "--ttl", "soon"], "15m, 90s, 2h"),
        (["devices", "add", "x", "--ttl", "5"], "15m, 90s, 2h"),
        (["models", "add", "../x/1", __file__], "shapes/1"),
        (["up", "--trust", "10.0.0.0/8", "--trust", "foo"], "a network such as 10.0.0.0/8: 'foo' does not"),
        (["up", "--trust", "10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
    ],
)
def test_a_wrong_command_is_a_usage_error_that_says_what_was_expected(
    run: Command, arguments: list[str], expected: str
) -> None:
    stderr = run(*arguments, code=2).stderr

    assert "Usage:" in stderr
    assert expected in stderr


# devices and keys -----------------------------------------------------------------------------------------


def test_devices_are_a_table_for_people_and_a_list_for_programs(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1")

    table = run("devices").stdout.splitlines()

    assert table[0].split() == ["device", "state", "pipelines", "silent", "version", "labels"]
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
    assert names == {"msgpack", "socket", "sys", "time", "zmq"}
    assert "ADDRESSES = [('127.0.0.1', 7774)]" in done.stdout
    assert KEY in done.stdout
    assert "private" in done.stderr


def test_the_subscribers_program_takes_the_first_address_that_answers(
    run: Command, peer: Peer, tmp_path: Path
) -> None:
    nobody, port = free_ports(2)
    file = tmp_path / "wall.py"
    with zmq.Context() as context, context.socket(zmq.XPUB) as relay:
        relay.bind(f"tcp://127.0.0.1:{port}")  # no port that a connection to it could have of its own
        peer.endpoints = (f"tcp://127.0.0.1:{nobody}", f"tcp://*:{port}", f"tcp://[::1]:{nobody}")
        file.write_text(run("keys", "subscriber", "wall").stdout)
        # Only who it connects to matters here, so it speaks without keys.
        file.write_text(re.sub(r"subscriber.curve.*\n", "", file.read_text()))
        process = subprocess.Popen([sys.executable, str(file)], stderr=subprocess.PIPE, text=True)
        subscribed = relay.poll(PATIENCE * 1000) and relay.recv()
        process.kill()
        process.communicate(timeout=PATIENCE)

    alone = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )

    assert subscribed == b"\x01v1/pred/"
    assert alone.returncode == 1
    each = f"127.0.0.1 port {nobody}, 127.0.0.1 port {port}, ::1 port {nobody}"
    assert alone.stderr.startswith(f"no answer from {each}: does the fleet run")


def test_whoever_adds_a_device_to_a_fleet_on_loopback_is_told(run: Command, peer: Peer) -> None:
    def answer(host: str) -> Reply:
        line = JoinToken(
            device="cam-7",
            endpoints=("tcp://127.0.0.1:7771", f"tcp://{host}:7771"),
            broker_key=KEY,
            secret_key=KEY,
        ).encode()
        return Reply(to_plain(Token("cam-7", line)))

    peer.answer = lambda _asked: answer("[::1]")
    alone = run("devices", "add", "cam-7", "--token-only")
    peer.answer = lambda _asked: answer("10.0.0.2")
    reachable = run("devices", "add", "cam-7", "--token-only")

    assert alone.stderr == "the fleet listens on this machine only: start it with --host\n"
    assert not reachable.stderr


def test_whoever_subscribes_to_a_fleet_on_loopback_is_told(run: Command) -> None:
    assert "this machine only" in run("keys", "subscriber", "wall").stderr


def test_whoever_subscribes_where_nobody_answers_is_told(run: Command, peer: Peer) -> None:
    nobody = f"tcp://127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as relay:
        peer.endpoints = (nobody, f"tcp://*:{relay.getsockname()[1]}")
        answered = run("keys", "subscriber", "wall").stderr
    peer.endpoints = (nobody,)
    silent = run("keys", "subscriber", "wall").stderr

    assert "nobody answers" not in answered
    assert f"no answer from {nobody} on this machine" in silent


# reaching the fleet ---------------------------------------------------------------------------------------


def test_without_a_fleet_the_error_says_how_to_start_one() -> None:
    result = CliRunner().invoke(cli, ["--url", f"http://127.0.0.1:{free_port()}", "pipelines"])

    assert result.exit_code == 1
    assert "cannot reach http://127.0.0.1:" in result.stderr
    assert "streamfleet up" in result.stderr


class Stranger(BaseHTTPRequestHandler):
    """Another web server."""

    def do_GET(self) -> None:
        """An answer that is none of the api's."""
        self.send_response(200 if self.path == "/v2/models" else 404)
        self.end_headers()
        self.wfile.write(b"{}" if self.path == "/v2/models" else b"<html>")

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("arguments", [["pipelines"], ["models", "list"], ["tail"]])
def test_another_web_server_is_no_api(arguments: list[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="stranger"
        )
        thread.start()
        result = CliRunner().invoke(cli, ["--url", f"http://127.0.0.1:{server.server_port}", *arguments])
        server.shutdown()
        thread.join(PATIENCE)

    assert result.exit_code == 1
    assert "expected a Streamfleet API, got " in result.stderr


def test_help_tells_of_the_environment_and_of_every_option() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    options = cli.commands["init"].params

    assert "STREAMFLEET_URL" in text
    assert "STREAMFLEET_TOKEN" in text
    assert all(option.help for option in options if isinstance(option, click.Option))
    assert CliRunner().invoke(cli, ["--version"]).stdout.startswith("streamfleet ")


def test_a_mistyped_command_is_guessed_and_an_option_put_in_its_place(run: Command) -> None:
    assert "did you mean pipelines?" in run("pipeline", code=2).stderr
    assert "did you mean show?" in run("devices", "shw", code=2).stderr
    assert "--url comes before the command" in run("pipelines", "--url", "x", code=2).stderr


def test_every_command_has_a_help_with_an_example_and_a_line_that_fits(run: Command) -> None:
    shown = {name: run(name, "--help").stdout for name, each in cli.commands.items() if not each.hidden}
    list_of_all = run("--help").stdout

    assert list(shown)[:4] == ["up", "run", "set", "pipelines"]
    assert [name for name, text in shown.items() if f"streamfleet {name}" not in text] == []
    assert "..." not in list_of_all.partition("Commands:")[2]
    assert "_STREAMFLEET_COMPLETE" in list_of_all


def test_a_shell_completes_what_the_fleet_has(api: Api, peer: Peer) -> None:
    peer.pipelines |= {each: pipeline(each) for each in ("door", "gate")}
    completion = {
        "_STREAMFLEET_COMPLETE": "bash_complete",
        "COMP_WORDS": f"streamfleet --url {api.url} pause d",
        "COMP_CWORD": "4",
    }

    done = subprocess.run(
        [Path(sys.executable).with_name("streamfleet")],
        env={**environment(), **completion},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.stdout == "plain,door\n"


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


def test_a_command_starts_without_what_it_does_not_need() -> None:
    """To import all of that takes most of a second."""
    program = (
        "import sys; from streamfleet_api.cli.main import cli; "
        "print(sorted({'zmq', 'httpx', 'rich.table', 'pydantic', 'starlette', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://admin:CANARY@127.0.0.1:1", "error: cannot reach http://127.0.0.1:1: "),
        ("http://127.0.0.1:1/x?token=CANARY", "error: cannot reach http://127.0.0.1:1/x: "),
        ("http://admin:CAN/ARY@h", "%2F for /"),
        ("http://[::1", "a host and a port"),
        ("admin:CANARY@h", "expected an address such as http://127.0.0.1:8080"),
        ("ftp://admin:CANARY@h", "expected an address such as http://127.0.0.1:8080"),
    ],
)
def test_an_address_of_an_api_shows_no_password_whatever_is_wrong_with_it(url: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["--url", url, "pipelines"])

    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "CAN" not in result.output
    assert "ARY" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--model", "\udcff", "--video", "rtsp://h/a"],
        ["run", "--model", "a", "--video", "/tmp/\udcff.mp4"],
        ["--token", "\udcff", "pipelines"],
        ["samples", "export", "\udcff", "/tmp/\udcff"],
    ],
    ids=ascii,
)
def test_an_argument_in_another_encoding_is_an_error_in_one_line(api: Api, arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, [*Command(api).options, *arguments])

    assert isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code in (1, 2, 3)
    assert done.stderr.startswith("error: ")
