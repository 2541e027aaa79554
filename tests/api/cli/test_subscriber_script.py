"""The programs that print predictions without anything of ours: what is no prediction ends none of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import msgpack
import pytest
import zmq
from websockets.sync.server import ServerConnection, serve

from streamfleet.results import SubscriberKeys
from streamfleet_api.cli.subscriber_script import subscriber_script
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from tests.fakes.ports_and_folders import ROOT, free_ports, short_folder

PREDICTION = {
    "image": {"width": 640, "height": 480},
    "predictions": [{"class": "car"}],
    "inference_metadata": {"pipeline_id": "door", "frame_id": 1},
}
NO_PREDICTIONS = {
    "no MessagePack": b"\xc1",
    "cut short": msgpack.packb(PREDICTION)[:-3],
    "more than one": msgpack.packb(PREDICTION) * 2,
    "a key that is a list": b"\x81\x91\x01\x01",
    "a text of no letters": b"\xa1\xff",
    "nested without end": b"\x91" * 100_000 + b"\x01",
}
WAIT = 60_000  # milliseconds


@contextmanager
def running(file: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program of a user."""
    process = subprocess.Popen(
        [sys.executable, str(file), *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.fixture
def relay() -> Iterator[zmq.Socket[bytes]]:
    """A publisher that lets everybody in, and says who subscribes."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.linger = 0
    try:
        yield socket
    finally:
        context.destroy(linger=0)


def publish(relay: zmq.Socket[bytes]) -> None:
    """All that is no prediction, and one that is."""
    assert relay.poll(WAIT), "nobody subscribes"
    assert relay.recv() == b"\x01v1/pred/"
    for body in (*NO_PREDICTIONS.values(), msgpack.packb(PREDICTION)):
        relay.send_multipart([b"v1/pred/door/", b"header", body])


def told(program: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """The first line that it prints, and what it has complained of before."""
    assert program.stdout is not None
    assert program.stderr is not None
    complaints = [program.stderr.readline() for _ in NO_PREDICTIONS]
    return program.stdout.readline(), complaints


def test_the_program_of_a_subscriber_skips_what_is_no_prediction(
    relay: zmq.Socket[bytes], tmp_path: Path
) -> None:
    server_key, server_secret = zmq.curve_keypair()
    public_key, secret_key = zmq.curve_keypair()
    relay.curve_server = True
    relay.curve_secretkey = server_secret
    port = relay.bind_to_random_port("tcp://127.0.0.1")
    keys = SubscriberKeys(
        name="wall",
        endpoint="",
        endpoints=(f"tcp://127.0.0.1:{port}",),
        server_key=server_key.decode(),
        public_key=public_key.decode(),
        secret_key=secret_key.decode(),
    )
    file = tmp_path / "subscriber.py"
    file.write_text(subscriber_script(keys))

    with running(file) as program:
        publish(relay)
        line, complaints = told(program)

    assert line == f"v1/pred/door/ {PREDICTION}\n"
    assert all(each.startswith("b'v1/pred/door/': not a prediction, skipped: ") for each in complaints)


def test_the_example_skips_what_is_no_prediction(relay: zmq.Socket[bytes]) -> None:
    with short_folder() as folder:
        endpoint = f"ipc://{folder}/relay.ipc"
        relay.bind(endpoint)
        with running(ROOT / "examples/subscribe.py", endpoint) as program:
            publish(relay)
            line, complaints = told(program)

    assert line == "door 1 ['car']\n"
    assert all(each.startswith("b'v1/pred/door/': not a prediction, skipped: ") for each in complaints)


def test_the_example_of_detections_skips_what_has_no_boxes(relay: zmq.Socket[bytes]) -> None:
    header = DataHeader(kind=Kind.PRED, gen=1, inc=1, seq=0, captured_wall_ns=1).pack()
    box = {"x": 20.0, "y": 30.0, "width": 10.0, "height": 20.0, "confidence": 0.9, "class_id": 2}
    whole = {**PREDICTION, "predictions": [{"class": "car"}, {"class": "nut", **box}]}
    with short_folder() as folder:
        (folder / "broker").mkdir()
        relay.bind(f"ipc://{folder}/broker/predictions.ipc")
        with running(ROOT / "examples/detections.py", STREAMFLEET_DATA_DIR=str(folder)) as program:
            assert relay.poll(WAIT), "nobody subscribes"
            for name, document in (("gate", PREDICTION), ("door", whole)):
                relay.send_multipart([f"v1/pred/{name}/".encode(), header, msgpack.packb(document)])
            assert program.stdout is not None
            lines = [program.stdout.readline(), program.stdout.readline()]

    assert lines == [
        "gate: 0 of 0 above 0.5, at []\n",
        "door: 1 of 1 above 0.5, at [[15.0, 20.0, 25.0, 40.0]]\n",
    ]


def test_the_example_of_a_websocket_skips_what_has_no_place() -> None:
    about = PREDICTION["inference_metadata"]
    whole = {"class": "nut", "x": 1.2, "y": 3.4}
    data = {"inference_metadata": about, "predictions": [{"class": "car"}, whole]}

    def talk(client: ServerConnection) -> None:
        client.send(json.dumps({"type": "prediction", "data": data}))
        client.recv()  # until it is gone

    with serve(talk, "127.0.0.1", 0) as server:
        thread = Thread(target=server.serve_forever, name="server")
        thread.start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        with running(ROOT / "examples/websocket.py", STREAMFLEET_URL=url) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            complaint, line = program.stderr.readline(), program.stdout.readline()
        server.shutdown()
        thread.join(60)

    assert complaint == "not a prediction, skipped: KeyError('x')\n"
    assert line == "door nut 1 3\n"


def test_the_example_of_udp_skips_what_is_no_prediction() -> None:
    (port,) = free_ports(1)
    whole = json.dumps({**PREDICTION, "predictions": []}).encode()
    with (
        running(ROOT / "examples/udp_tracker.py", str(port)) as program,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        said = program.stdout
        assert said is not None
        complaints = program.stderr
        assert complaints is not None
        is_read = Event()
        lines: list[str] = []

        def read() -> None:
            lines.extend((said.readline(), complaints.readline()))
            is_read.set()

        reader = Thread(target=read)
        reader.start()
        while not is_read.wait(0.2):  # a datagram before the port is bound is lost, which may be all but one
            for datagram in (b"no JSON", json.dumps(PREDICTION).encode(), b"[" * 60_000, whole):
                sender.sendto(datagram, ("127.0.0.1", port))
            assert program.poll() is None, lines
        reader.join(60)

    line, complaint = lines
    assert complaint.startswith("127.0.0.1: not a prediction, skipped: ")
    assert line == "1 {}\n"
