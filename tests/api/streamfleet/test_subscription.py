"""`subscribe` in front of real publishers, on this host and with keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import supervision as sv
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

import streamfleet
from streamfleet.results import SubscriberKeys
from streamfleet.subscription import read_keys, write_keys
from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, short_folder


class Publisher:
    """An XPUB that says who subscribes to what."""

    def __init__(self, endpoint: str, secret_key: bytes = b"") -> None:
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self.socket = self._context.socket(zmq.XPUB)
        self.socket.linger = 0
        if secret_key:
            self._authenticator.start()
            self.socket.curve_server = True
            self.socket.curve_secretkey = secret_key
        self.socket.bind(endpoint)

    def allow(self, folder: Path) -> None:
        """Accept the keys whose certificates lie there."""
        self._authenticator.configure_curve(domain="*", location=str(folder))

    def subscribed(self) -> bytes:
        """The next change of subscriptions."""
        assert self.socket.poll(PATIENCE * 1000), "no subscription came"
        return self.socket.recv()

    def predict(self, pipeline_id: str, sequence: int, *, generation: int = 1, incarnation: int = 0) -> None:
        """Send one prediction."""
        header = DataHeader(
            kind=Kind.PRED, gen=generation, inc=incarnation, seq=sequence, captured_wall_ns=1_500_000_000
        )
        body = {
            "image": {"width": 640, "height": 480},
            "predictions": [
                {
                    "x": 20,
                    "y": 30,
                    "width": 10,
                    "height": 20,
                    "confidence": 0.9,
                    "class": "car",
                    "class_id": 2,
                }
            ],
            "inference_metadata": {"source_id": 1, "frame_id": sequence + 1, "device": "edge-1"},
        }
        self.send(pipeline_topic(Kind.PRED, pipeline_id), header.pack(), msgpack.packb(body))

    def send(self, *frames: bytes) -> None:
        """Send any message."""
        self.socket.send_multipart(frames)

    def close(self) -> None:
        """Close it."""
        if self._authenticator.is_alive():
            self._authenticator.stop()
        self._context.destroy(linger=0)


@contextmanager
def publisher(endpoint: str, secret_key: bytes = b"") -> Iterator[Publisher]:
    made = Publisher(endpoint, secret_key)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with short_folder() as folder:
        (folder / "broker").mkdir()
        yield folder


@pytest.fixture
def local(data_dir: Path) -> Iterator[Publisher]:
    """The relay of a fleet on this machine."""
    with publisher(f"ipc://{data_dir}/broker/predictions.ipc") as made:
        yield made


def test_predictions_of_a_fleet_on_this_machine(local: Publisher, data_dir: Path) -> None:
    with streamfleet.subscribe("door", data_dir=data_dir, timeout=PATIENCE) as predictions:
        assert local.subscribed() == b"\x01v1/pred/door/"
        local.predict("door", 0)
        found = next(predictions)

    assert (found.pipeline_id, found.source_id, found.frame_id, found.device) == ("door", 1, 1, "edge-1")
    assert (found.generation, found.incarnation, found.sequence, found.missing) == (1, 0, 0, 0)
    assert (found.width, found.height, found.captured_at) == (640, 480, 1.5)
    assert isinstance(found.detections, sv.Detections)
    assert found.detections.xyxy.tolist() == [[15, 20, 25, 40]]
    assert list(found.detections.data["class_name"]) == ["car"]


def test_what_is_lost_is_counted_by_pipeline(local: Publisher, data_dir: Path) -> None:
    sent = [("a", 1, 0, 5), ("a", 1, 0, 6), ("b", 1, 0, 9), ("a", 1, 0, 9), ("a", 1, 0, 8), ("a", 1, 1, 2)]
    with streamfleet.subscribe(data_dir=data_dir, timeout=PATIENCE) as predictions:
        assert local.subscribed() == b"\x01v1/pred/"
        for pipeline_id, generation, incarnation, sequence in [*sent, ("a", 2, 0, 0)]:
            local.predict(pipeline_id, sequence, generation=generation, incarnation=incarnation)
        found = [next(predictions) for _ in range(6)]

    assert [(each.pipeline_id, each.sequence, each.missing) for each in found] == [
        ("a", 5, 0),
        ("a", 6, 0),
        ("b", 9, 0),
        ("a", 9, 2),  # 8 came after it, and is left out
        ("a", 2, 2),  # of a new incarnation, the first two
        ("a", 0, 0),
    ]


def test_what_is_no_prediction_is_left_out_and_counted(local: Publisher, data_dir: Path) -> None:
    with streamfleet.subscribe(data_dir=data_dir, timeout=PATIENCE) as predictions:
        local.subscribed()
        header = DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack()
        local.send(b"v1/pred/door/", header, b"\xc1")
        local.send(b"v1/pred/door/", b"header", b"")
        local.send(b"v1/pred/door/")
        local.predict("door", 1)

        assert next(predictions).sequence == 1
        assert predictions.unreadable == 3


def test_silence_ends_in_time(local: Publisher, data_dir: Path) -> None:
    with (
        streamfleet.subscribe(data_dir=data_dir, timeout=0.2) as predictions,
        pytest.raises(streamfleet.NothingReceived, match=r"no predictions within 0\.2 s"),
    ):
        next(predictions)


def test_another_thread_may_close_it(local: Publisher, data_dir: Path) -> None:
    predictions = streamfleet.subscribe(data_dir=data_dir)
    local.subscribed()
    found: list[streamfleet.Prediction] = []
    reader = threading.Thread(target=lambda: found.extend(predictions), name="reader")
    reader.start()
    local.predict("door", 0)

    predictions.close()
    predictions.close()
    reader.join(PATIENCE)

    assert not reader.is_alive()
    assert local.subscribed() == b"\x00v1/pred/"
    assert list(predictions) == []


def test_no_fleet_on_this_machine_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(streamfleet.Unreachable, match="no fleet runs on this machine: expected"):
        streamfleet.subscribe(data_dir=tmp_path)


def test_a_relay_that_has_ended_is_told_in_time(data_dir: Path) -> None:
    (data_dir / "broker/predictions.ipc").touch()

    with pytest.raises(streamfleet.Unreachable, match=r"within 0\.3 s"):
        streamfleet.subscribe(data_dir=data_dir, connect_timeout=0.3)


# keys -----------------------------------------------------------------------------------------------------


@pytest.fixture
def keys() -> SubscriberKeys:
    return SubscriberKeys(
        name="wall",
        endpoint="",
        endpoints=(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"),
        server_key="",
        public_key="",
        secret_key="",
    )


@pytest.fixture
def guarded(keys: SubscriberKeys, tmp_path: Path) -> Iterator[tuple[Publisher, SubscriberKeys]]:
    """A publisher at the second endpoint that knows one subscriber."""
    server_key, server_secret = zmq.curve_keypair()
    public_key, secret_key = zmq.curve_keypair()
    zmq.auth.create_certificates(tmp_path, "wall")
    (tmp_path / "wall.key").write_text(f'curve\n    public-key = "{public_key.decode()}"\n')
    with publisher(keys.endpoints[1], server_secret) as made:
        made.allow(tmp_path)
        yield (
            made,
            replace(
                keys,
                server_key=server_key.decode(),
                public_key=public_key.decode(),
                secret_key=secret_key.decode(),
            ),
        )


def test_a_fleet_elsewhere_with_a_key_file(guarded: tuple[Publisher, SubscriberKeys], tmp_path: Path) -> None:
    relay, keys = guarded
    file = tmp_path / "wall.json"
    write_keys(file, keys)

    with streamfleet.subscribe("door", keys=file, timeout=PATIENCE) as predictions:
        assert relay.subscribed() == b"\x01v1/pred/door/"
        relay.predict("door", 4)

        assert next(predictions).sequence == 4
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_keys(file) == keys


def test_keys_that_are_not_accepted_are_told(guarded: tuple[Publisher, SubscriberKeys]) -> None:
    _, keys = guarded
    public_key, secret_key = zmq.curve_keypair()
    others = replace(keys, public_key=public_key.decode(), secret_key=secret_key.decode())

    began = time.monotonic()
    with pytest.raises(streamfleet.Unreachable, match="does not accept the keys of wall"):
        streamfleet.subscribe(keys=others, connect_timeout=2 * PATIENCE)

    assert time.monotonic() - began < PATIENCE  # it does not try for as long as it may


def test_nobody_at_any_endpoint_is_told_with_all_of_them(keys: SubscriberKeys) -> None:
    with pytest.raises(streamfleet.Unreachable, match=", ".join(keys.endpoints)):
        streamfleet.subscribe(keys=keys, connect_timeout=0.1)


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("{}", 0o600, "expected a file of 'streamfleet keys subscriber'"),
        ("import zmq", 0o600, "expected a file of 'streamfleet keys subscriber'"),
        ("{}", 0o644, "chmod 600"),
        (None, 0o600, "No such file"),
    ],
)
def test_a_key_file_that_cannot_be_used(tmp_path: Path, content: str | None, mode: int, problem: str) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)

    with pytest.raises(streamfleet.BadSetting, match=problem):
        streamfleet.subscribe(keys=file)


@pytest.mark.parametrize("change", [{"server_key": "short"}, {"endpoints": ("ipc:///x",)}])
def test_keys_of_another_kind_are_refused(
    guarded: tuple[Publisher, SubscriberKeys], change: dict[str, object]
) -> None:
    with pytest.raises(streamfleet.BadSetting, match="keys: expected"):
        streamfleet.subscribe(keys=replace(guarded[1], **change))  # type: ignore[arg-type]


# asyncio --------------------------------------------------------------------------------------------------


async def test_the_asynchronous_subscription(local: Publisher, data_dir: Path) -> None:
    async with await streamfleet.subscribe_async("door", data_dir=data_dir, timeout=PATIENCE) as predictions:
        local.subscribed()
        for sequence in range(200):
            local.predict("door", sequence)
        found = [await anext(predictions) for _ in range(200)]

    assert [each.sequence for each in found] == list(range(200))
    assert [each async for each in predictions] == []


async def test_asynchronous_silence_ends_in_time(local: Publisher, data_dir: Path) -> None:
    predictions = await streamfleet.subscribe_async(data_dir=data_dir, timeout=0.3)

    with pytest.raises(streamfleet.NothingReceived):
        await anext(predictions)
    await predictions.close()
    await predictions.close()
