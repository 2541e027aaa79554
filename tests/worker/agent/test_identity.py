"""A device joins with a token, against a real broker."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Enrol
from streamfleet_core.protocol.requests import ListDevices
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.curve import CurveKeys, public_of
from streamfleet_core.runtime.private_file import KeyExposed
from streamfleet_worker.agent import identity as module
from streamfleet_worker.agent.identity import Identity, IdentityError, join, load
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker
from tests.fakes.ports_and_folders import free_ports, short_folder


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with short_folder() as folder:
        broker = Broker(folder)
        broker.start()
        broker.ask(ListDevices())
        yield broker
        broker.close()


@pytest.fixture
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which nobody answers, however long they wait."""
    monkeypatch.setattr(module, "ATTEMPT_TIMEOUT", 0.2)


def token_of(broker: Broker, device: str) -> JoinToken:
    return JoinToken.decode(broker.token(device))


async def test_a_new_device_joins_and_is_known_from_then_on(broker: Broker, tmp_path: Path) -> None:
    token = token_of(broker, "cam-1")

    identity = await join(tmp_path / "identity.json", token)

    assert load(tmp_path / "identity.json") == identity
    assert (identity.device, identity.broker_key) == ("cam-1", token.broker_key)
    assert identity.secret_key not in (token.secret_key, token.broker_key)
    assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600
    assert not (tmp_path / "enrol.json").exists()
    assert broker.device("cam-1").state == "lost" or broker.device("cam-1").state == "new"


async def test_the_same_token_again_is_harmless(broker: Broker, tmp_path: Path) -> None:
    token = token_of(broker, "cam-2")
    first = await join(tmp_path / "identity.json", token)

    assert await join(tmp_path / "identity.json", token) == first


async def test_another_token_of_the_same_device_makes_a_new_key(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    first = await join(path, token_of(broker, "cam-11"))
    token = token_of(broker, "cam-11")

    second = await join(path, token)

    assert second.public_key != first.public_key
    assert await join(path, token) == load(path) == second


async def test_another_token_that_is_of_no_use_leaves_the_key(broker: Broker, tmp_path: Path) -> None:
    path, token = tmp_path / "identity.json", token_of(broker, "cam-12")
    await join(tmp_path / "elsewhere.json", token)
    first = await join(path, token_of(broker, "cam-12"))

    assert await join(path, token) == first == load(path)


async def test_a_key_of_an_earlier_version_stays_with_its_token(broker: Broker, tmp_path: Path) -> None:
    path, token = tmp_path / "identity.json", token_of(broker, "cam-13")
    first = await join(path, token)
    document = json.loads(path.read_text())
    del document["joined_with"]
    path.write_text(json.dumps(document))

    assert await join(path, token) == first
    assert (await join(path, token_of(broker, "cam-13"))).public_key != first.public_key


async def test_a_used_token_makes_no_second_device(broker: Broker, tmp_path: Path) -> None:
    token = token_of(broker, "cam-3")
    await join(tmp_path / "one" / "identity.json", token)

    with pytest.raises(IdentityError, match=r"refuses the join token of 'cam-3': it has been used"):
        await join(tmp_path / "two" / "identity.json", token)


async def test_a_lost_answer_costs_nothing(broker: Broker, tmp_path: Path) -> None:
    token = token_of(broker, "cam-4")
    pair = module._own_pair(tmp_path / "enrol.json")
    one_time = CurveKeys(token.broker_key, KeyPair(public_of(token.secret_key), token.secret_key))
    context = zmq.asyncio.Context()
    await module._attempt(context, token.endpoints[0], one_time, Enrol(pair.public_key))
    context.destroy(linger=0)

    identity = await join(tmp_path / "identity.json", token)

    assert identity.public_key == pair.public_key


async def test_an_address_where_nobody_is_is_followed_by_the_next(broker: Broker, tmp_path: Path) -> None:
    token = token_of(broker, "cam-5")
    (unused,) = free_ports(1)
    # One that works: where this machine stands still, it is asked again, and not another one.
    detour = replace(token, endpoints=(f"tcp://127.0.0.1:{unused}", token.endpoints[0]))

    identity = await join(tmp_path / "identity.json", detour)

    assert identity.endpoints == detour.endpoints[::-1]


@pytest.mark.usefixtures("_impatience")
async def test_nobody_at_all_is_an_error_with_the_addresses(broker: Broker, tmp_path: Path) -> None:
    (unused,) = free_ports(1)
    lost = replace(token_of(broker, "cam-6"), endpoints=(f"tcp://127.0.0.1:{unused}",))

    with pytest.raises(IdentityError, match=rf"no broker answers at tcp://127\.0\.0\.1:{unused}"):
        await join(tmp_path / "identity.json", lost, timeout=0.0)


@pytest.mark.usefixtures("_impatience")
async def test_a_broker_with_another_key_is_told_nothing(broker: Broker, tmp_path: Path) -> None:
    public, _ = zmq.curve_keypair()
    forged = replace(token_of(broker, "cam-7"), broker_key=public.decode())

    with pytest.raises(IdentityError, match="no broker answers"):
        await join(tmp_path / "identity.json", forged, timeout=0.0)


async def test_one_directory_is_one_device(broker: Broker, tmp_path: Path) -> None:
    await join(tmp_path / "identity.json", token_of(broker, "cam-8"))

    with pytest.raises(IdentityError, match="expected device 'cam-9' of the token, got 'cam-8'"):
        await join(tmp_path / "identity.json", token_of(broker, "cam-9"))


async def test_a_token_of_another_fleet_is_joined_anew(broker: Broker, tmp_path: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    old = Identity("cam-10", ("tcp://10.0.0.1:7771",), public, public, secret)
    path = tmp_path / "identity.json"
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(old))

    identity = await asyncio.wait_for(join(path, token_of(broker, "cam-10")), PATIENCE)

    assert identity.broker_key != public


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text("{}")
    path.chmod(0o644)

    with pytest.raises(KeyExposed, match="chmod 600"):
        load(path)


def test_a_damaged_identity_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"device": "cam"}))

    with pytest.raises(IdentityError, match="remove it and join again"):
        load(path)


def test_keys_that_are_no_pair_say_what_to_do(tmp_path: Path) -> None:
    path, keys = tmp_path / "identity.json", [zmq.curve_keypair() for _ in range(3)]
    path.touch(mode=0o600)
    found = {
        "device": "cam",
        "endpoints": ["tcp://127.0.0.1:1"],
        "broker_key": keys[0][0].decode(),
        "public_key": keys[1][0].decode(),
        "secret_key": keys[1][1].decode(),
    }
    path.write_text(json.dumps(found))
    good = load(path)
    path.write_text(json.dumps({**found, "secret_key": keys[2][1].decode()}))

    assert good is not None
    with pytest.raises(IdentityError, match="its keys are not a pair"):
        load(path)
