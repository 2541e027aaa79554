"""A broker process alone, with one device that has joined and one subscriber, to measure its relay with.

In a whole fleet the api subscribes to predictions, too, and would be measured along with the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq.asyncio

from benchmarks.relay_peers import Keys, Side
from streamfleet_api.link import Link
from streamfleet_broker.protocol.requests import AddDevice, AddSubscriber, Subscription, Token
from streamfleet_broker.protocol.tokens import JoinToken
from streamfleet_worker.identity import Identity, join
from tests.fleet.harness import wait_for
from tests.places import free_ports

_PORTS = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that runs, and the ways in and out of its relay."""

    pid: int
    into: Side  # as the device
    local: Side  # on its host
    out: Side  # as the subscriber


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """A broker that ends with the block."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    command = [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(folder)]
    for name, port in ports.items():
        command += [f"--{name}-port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: (folder / "operators.ipc").exists(), "the broker's socket")
        identity, subscription = asyncio.run(_introduce(folder))
        into = Keys(identity.broker_key, identity.public_key, identity.secret_key)
        out = Keys(subscription.server_key, subscription.public_key, subscription.secret_key)
        yield Broker(
            pid=process.pid,
            into=Side(f"tcp://127.0.0.1:{ports['relay-in']}", into),
            local=Side(f"ipc://{folder}/predictions.ipc", None),
            out=Side(subscription.endpoint, out),
        )
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


async def _introduce(folder: Path) -> tuple[Identity, Subscription]:
    """Let a device join, and a subscriber be known."""
    context = zmq.asyncio.Context()
    link = Link(context, f"ipc://{folder}/operators.ipc")
    await link.start()
    try:
        token = await link.ask(AddDevice("bench"), Token)
        identity = await join(folder / "identity.json", JoinToken.decode(token.token))
        return identity, await link.ask(AddSubscriber("bench"), Subscription)
    finally:
        await link.close()
        context.destroy(linger=0)
