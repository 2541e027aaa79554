"""Every example, and the subscribers of the documents, run as they stand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pytest

from streamfleet import Client, Connection, subscribe
from streamfleet.results import PipelineStat
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, free_ports
from tests.fleet.harness import Fleet, wait_for


@contextmanager
def program(fleet: Fleet, file: Path, *arguments: str) -> Iterator[SimpleQueue[str]]:
    """A program of a user, under the fleet's home: the lines that it prints."""
    process = subprocess.Popen(
        [sys.executable, str(file), *arguments],
        env=fleet.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.stdout
    assert said is not None
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in said:
            lines.put(line)

    reader = Thread(target=read, name="reader")
    reader.start()
    try:
        yield lines
    finally:
        process.kill()
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        said.close()


def first(lines: SimpleQueue[str], count: int) -> list[str]:
    """The first lines."""
    found: list[str] = []
    try:
        while len(found) < count:
            found.append(lines.get(timeout=PATIENCE))
    except Empty:
        pytest.fail(f"only these lines came: {found}")
    return found


def first_with(lines: SimpleQueue[str], words: set[str]) -> str:
    """The first line that has exactly these quoted words."""
    deadline = time.monotonic() + PATIENCE
    while set(re.findall(r"'\w+'", line := first(lines, 1)[0])) != words:
        assert time.monotonic() < deadline, f"the last line was {line}"
    return line


@pytest.fixture
def pattern(clean: Fleet) -> str:
    """A pipeline that predicts."""
    return clean.initialise("TestPatternStreamProducer", "shapes/1")


def test_the_ten_line_subscriber(clean: Fleet, pattern: str) -> None:
    with program(clean, ROOT / "examples/subscribe.py") as lines:
        for line in first(lines, 3):
            assert re.fullmatch(rf"{pattern} \d+ \['\w+', '\w+', '\w+'\]\n", line)


@pytest.mark.parametrize(
    ("document", "word"), [("README.md", "streamfleet.subscribe"), ("docs/how-to/receive.md", "zmq.SUB")]
)
def test_the_subscriber_of_a_document(
    clean: Fleet, pattern: str, tmp_path: Path, document: str, word: str
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (subscriber,) = [block for block in blocks if word in block]
    file = tmp_path / "subscriber.py"
    file.write_text(subscriber)

    with program(clean, file) as lines:
        assert all(pattern in line for line in first(lines, 3))


def test_predictions_as_detections(clean: Fleet, pattern: str) -> None:
    with program(clean, ROOT / "examples/detections.py") as lines:
        assert all(line.startswith(f"{pattern}: 3 of 3 above 0.5") for line in first(lines, 3))


def test_predictions_as_detections_with_a_key_file(clean: Fleet, pattern: str, tmp_path: Path) -> None:
    file = tmp_path / "wall.json"
    clean.cli("keys", "subscriber", "wall", "--pipeline", pattern, "--to", str(file))

    with program(clean, ROOT / "examples/detections.py", str(file)) as lines:
        assert all(line.startswith(f"{pattern}: 3 of 3 above 0.5") for line in first(lines, 3))


def test_a_key_that_was_taken_back_is_told(clean: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "gone.json"
    clean.cli("keys", "subscriber", "gone", "--to", str(file))
    clean.cli("subscribers", "remove", "gone", "--yes")

    with program(clean, ROOT / "examples/detections.py", str(file)) as lines:
        assert "does not accept the keys of gone" in first(lines, 1)[0]


def test_the_client_of_the_package_in_front_of_a_fleet(clean: Fleet) -> None:
    connection = Connection(url=clean.url, data_dir=clean.data)
    with Client(connection) as client:
        made = client.create_pipeline(
            "seen", model="shapes/1", sources=["TestPatternStreamProducer"], labels={"line": "3"}
        )
        over_http = next(client.predictions("seen", timeout=PATIENCE))
        with subscribe("seen", data_dir=clean.data, timeout=PATIENCE) as predictions:
            over_zmq = [next(predictions) for _ in range(3)]
        status = next(client.statuses("seen", timeout=PATIENCE))
        paused = client.pause_pipeline("seen")
        (result,) = client.command_pipelines("terminate", selector="line=3")

    assert made.status in ("pending", "starting", "running")
    assert len(over_http.detections) == 3
    assert [each.missing for each in over_zmq] == [0, 0, 0]
    assert over_zmq[0].captured_at is not None
    assert abs(over_zmq[0].captured_at - time.time()) < 60
    assert isinstance(status, PipelineStat)
    assert (paused.status, result.status) == ("paused", 200)


def test_what_is_seen_over_a_websocket(clean: Fleet, pattern: str) -> None:
    with program(clean, ROOT / "examples/websocket.py", "red") as lines:
        assert all(re.fullmatch(rf"{pattern} red \d+ \d+\n", line) for line in first(lines, 3))


def test_a_drawn_film_is_played_and_waited_for(clean: Fleet, tmp_path: Path) -> None:
    film = tmp_path / "belt.mp4"
    drawn = subprocess.run(
        [sys.executable, str(ROOT / "demo/film.py"), str(film), "4"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    clean.cli("models", "add", "belt/1", str(ROOT / "api/streamfleet_api/local/conveyor.onnx"))

    run = ("run", "--id", "film", "--model", "belt/1", "--video", str(film), "--wait")
    played = json.loads(clean.cli(*run, "--json").stdout)
    last = wait_for(lambda: last_of(clean, "film"), "its last prediction, which is told each second")

    assert drawn.stdout == f"{film}: 60 frames, 4 s\n"
    assert played["status"] in ("running", "ended")
    assert {each["class"] for each in last} <= {"bolt", "nut", "washer"}


def last_of(fleet: Fleet, pipeline_id: str) -> list[dict[str, Any]]:
    """What the api knows of the last frame; nothing while it knows none."""
    answer = fleet.http.get(f"/v2/pipelines/{pipeline_id}/predictions/last")
    return list(answer.json()["predictions"]) if answer.is_success else []


def test_the_udp_receiver_that_tracks(clean: Fleet) -> None:
    (port,) = free_ports(1)

    with program(clean, ROOT / "examples/udp_tracker.py", str(port)) as lines:
        clean.initialise("TestPatternStreamProducer", "shapes/1", port)
        first_with(lines, {"'red'", "'green'", "'blue'"})  # a frame that was left out costs a track


def test_the_program_that_steers_two_devices(clean: Fleet) -> None:
    file = ROOT / "examples/two_devices.py"

    with program(clean, file, "TestPatternStreamProducer", "shapes/1", "local-1", "local-2") as lines:
        found = first(lines, 11)

    assert {line.split(":")[0] for line in found[:10]} == {"local-1", "local-2"}
    assert "RUNNING" in found[9]
    assert found[10] == "left: []\n"


def test_the_program_that_steers_two_devices_says_what_it_takes() -> None:
    command = [sys.executable, str(ROOT / "examples/two_devices.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 1
    assert "two_devices.py VIDEO MODEL_ID DEVICE DEVICE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["subscribe.py", "detections.py", "websocket.py", "two_devices.py"])
def test_an_example_without_a_fleet_says_so(tmp_path: Path, name: str) -> None:
    arguments = ["film.mp4", "shapes/1", "local-1", "local-2"] if name == "two_devices.py" else []
    nowhere = {"HOME": str(tmp_path), "STREAMFLEET_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}

    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(r"no fleet runs on this machine|cannot reach http", done.stderr.replace("ws:", "http:"))


@pytest.mark.parametrize("name", ["subscribe.py", "detections.py"])
def test_ctrl_c_ends_an_example_quietly(clean: Fleet, pattern: str, name: str) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name)],
        env=clean.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert pattern in process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)

    assert (process.returncode, stderr) == (-signal.SIGINT, "")


def test_the_script_for_a_subscriber_elsewhere(clean: Fleet, pattern: str, tmp_path: Path) -> None:
    file = tmp_path / "sub.py"
    file.write_text(clean.cli("keys", "subscriber", "wall-display").stdout)

    with program(clean, file) as lines:
        assert all(pattern in line for line in first(lines, 3))


def test_tail_prints_predictions(clean: Fleet, pattern: str) -> None:
    done = clean.cli("tail", "--json", "-n", "3")

    assert len(done.stdout.splitlines()) == 3
    assert all(pattern in line for line in done.stdout.splitlines())
