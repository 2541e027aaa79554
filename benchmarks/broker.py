"""A broker process without a fleet, with one joined device and one subscriber, to measure its relay.

In a whole fleet the API subscribes to predictions too, which would change the measurement. The device has a
budget that it cannot exceed (`--device-messages`, `--device-bytes`), as it publishes as fast as it can.
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
from streamfleet_api.broker_client import BrokerClient
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.requests import (
    AddDevice,
    AddSubscriber,
    CreatePipeline,
    PipelineView,
    Subscription,
    Token,
)
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from streamfleet_worker.agent.identity import Identity, join
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports
from tests.fleet.harness import wait_for

_UNLIMITED = 10**12  # messages or bytes a second
_PORTS = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker, and the inputs and outputs of its relay."""

    pid: int
    into: Side  # of the device
    local: Side  # of subscribers on its host
    out: Side  # of the subscriber


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """Run a broker until the block ends."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    command = [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(folder)]
    for name, port in ports.items():
        command += [f"--{name}-port", str(port)]
    for name in ("messages", "bytes"):
        command += [f"--device-{name}", str(_UNLIMITED)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: (folder / "operators.ipc").exists(), "the broker's socket")
        identity, subscription = asyncio.run(_register(folder))
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
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)


async def _register(folder: Path) -> tuple[Identity, Subscription]:
    """Let a device join, and add a subscriber."""
    context = zmq.asyncio.Context()
    broker = BrokerClient(context, f"ipc://{folder}/operators.ipc")
    await broker.start()
    try:
        token = await broker.ask(AddDevice("bench"), Token)
        identity = await join(folder / "identity.json", JoinToken.decode(token.token))
        # The relay forwards only messages of pipelines that are assigned to the device.
        spec = PipelineSpec(
            model=ModelRef("bench/1", "ab" * 32), sources=(SourceSpec("rtsp://127.0.0.1/bench"),)
        )
        await broker.ask(CreatePipeline(pipeline_id="bench", spec=spec, device="bench"), PipelineView)
        return identity, await broker.ask(AddSubscriber("bench"), Subscription)
    finally:
        await broker.close()
        context.destroy(linger=0)
