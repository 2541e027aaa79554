"""Every example, and the README's subscriber, run as they stand."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import pytest

from tests.fleet.harness import Fleet
from tests.places import free_ports

ROOT = Path(__file__).parents[2]


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
    assert process.stdout is not None
    lines: SimpleQueue[str] = SimpleQueue()
    reader = Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], name="reader")
    reader.start()
    try:
        yield lines
    finally:
        process.kill()
        process.wait(5)
        reader.join(5)
        process.stdout.close()


def first(lines: SimpleQueue[str], count: int) -> list[str]:
    """The first lines."""
    found: list[str] = []
    try:
        while len(found) < count:
            found.append(lines.get(timeout=20))
    except Empty:
        pytest.fail(f"only these lines came: {found}")
    return found


@pytest.fixture
def pattern(clean: Fleet) -> str:
    """A pipeline that predicts."""
    return clean.initialise("TestPatternStreamProducer", "shapes/1")


def test_the_ten_line_subscriber(clean: Fleet, pattern: str) -> None:
    with program(clean, ROOT / "examples/subscribe.py") as lines:
        for line in first(lines, 3):
            assert re.fullmatch(rf"{pattern} \d+ \['\w+', '\w+', '\w+'\]\n", line)


def test_the_readmes_subscriber(clean: Fleet, pattern: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (subscriber,) = [block for block in blocks if "zmq.SUB" in block]
    file = tmp_path / "subscriber.py"
    file.write_text(subscriber)

    with program(clean, file) as lines:
        assert all(pattern in line for line in first(lines, 3))


def test_predictions_as_detections(clean: Fleet, pattern: str) -> None:
    with program(clean, ROOT / "examples/detections.py") as lines:
        assert all(line.startswith(f"{pattern}: 3 of 3 above 0.5") for line in first(lines, 3))


def test_what_is_seen_over_a_websocket(clean: Fleet, pattern: str) -> None:
    address = clean.url.replace("http", "ws")
    with program(clean, ROOT / "examples/websocket.py", "red", address) as lines:
        assert all(re.fullmatch(rf"{pattern} red \d+ \d+\n", line) for line in first(lines, 3))


def test_the_udp_receiver_that_tracks(clean: Fleet) -> None:
    (port,) = free_ports(1)

    with program(clean, ROOT / "examples/udp_tracker.py", str(port)) as lines:
        clean.initialise("TestPatternStreamProducer", "shapes/1", port)
        last = first(lines, 8)[-1]

    assert {"'red'", "'green'", "'blue'"} == set(re.findall(r"'\w+'", last))


def test_the_program_that_steers_two_devices(clean: Fleet) -> None:
    file = ROOT / "examples/two_devices.py"

    with program(clean, file, "TestPatternStreamProducer", "shapes/1", "local-1", "local-2") as lines:
        found = first(lines, 11)

    assert {line.split(":")[0] for line in found[:10]} == {"local-1", "local-2"}
    assert "RUNNING" in found[9]
    assert found[10] == "left: []\n"


def test_the_program_that_steers_two_devices_says_what_it_takes() -> None:
    command = [sys.executable, str(ROOT / "examples/two_devices.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 1
    assert "two_devices.py VIDEO MODEL_ID DEVICE DEVICE" in done.stderr
    assert "Traceback" not in done.stderr


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
    _, stderr = process.communicate(timeout=20)

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
