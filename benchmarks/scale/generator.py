"""A process of many simulated devices. Their work is spread over each second."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import uvloop
import zmq
import zmq.asyncio

from benchmarks.processes import start_session
from benchmarks.scale.device import Device
from streamfleet_worker.agent.identity import Identity

_STEP = 0.01  # seconds
_TICKS = 25  # steps between two ticks of a device
_WORK = 100  # steps between two seconds of its cameras
_SOCKETS = 8  # of one device, those within libzmq included
_FLAP = 15.0  # seconds between two failures of a device that flaps
_AWAY = 5.0  # seconds that one takes


def simulate(connection: Connection, identities: Sequence[Identity]) -> None:
    """Simulate devices. A message is the share of them that flaps; the answer is how many are in contact."""
    start_session()
    connection.send(os.getpid())
    uvloop.run(_run(connection, identities))


async def _run(connection: Connection, identities: Sequence[Identity]) -> None:
    control, data = zmq.asyncio.Context(), zmq.Context[zmq.Socket[bytes]]()
    for context in (control, data):
        context.set(zmq.MAX_SOCKETS, _SOCKETS * len(identities) + 64)
    devices = [Device(identity, control, data) for identity in identities]
    flapping: list[Device] = []
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(
        connection.fileno(), lambda: _answer(connection, devices, flapping, ended)
    )
    due = time.monotonic()
    for step in itertools.count():
        if ended.is_set():
            return
        for device in devices[step % _TICKS :: _TICKS]:
            device.tick()
        for device in devices[step % _WORK :: _WORK]:
            device.work()
        every = round(_FLAP / _STEP / max(1, len(flapping)))
        if flapping and step % every == 0:
            flapping[step // every % len(flapping)].lose_power(_AWAY)
        # Without a core for a while, devices do less: to catch up would take the cores from what is measured.
        due = max(due + _STEP, time.monotonic() - _STEP)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def _answer(
    connection: Connection, devices: list[Device], flapping: list[Device], ended: asyncio.Event
) -> None:
    try:
        share: float = connection.recv()
    except EOFError:  # the benchmark was killed
        asyncio.get_running_loop().remove_reader(connection.fileno())
        ended.set()
        return
    flapping[:] = devices[: round(share * len(devices))]
    connection.send(sum(device.is_ready for device in devices))
