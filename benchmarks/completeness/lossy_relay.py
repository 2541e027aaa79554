"""Forwards the relay's messages to subscribers and loses some, whatever they are. Subscriptions are kept."""

from __future__ import annotations

import random
from collections import Counter
from multiprocessing.connection import Connection

import zmq

_AT_ONCE = 256
_MANY = 1_000_000  # messages in its queues, so that it loses none but those that it is to lose


def forward(connection: Connection, source: str, target: str, loss: float, seed: int) -> None:
    """Say that it is ready, and forward. For each message it answers with what it lost, by kind."""
    lost: Counter[str] = Counter()
    chance = random.Random(seed)
    with zmq.Context() as context, context.socket(zmq.XSUB) as inner, context.socket(zmq.XPUB) as outer:
        for socket in (inner, outer):
            socket.linger, socket.sndhwm, socket.rcvhwm = 0, _MANY, _MANY
        inner.reconnect_ivl = 50
        inner.connect(source)
        outer.bind(target)
        connection.send("ready")
        poller = zmq.Poller()
        for each in (inner, outer, connection):
            poller.register(each, zmq.POLLIN)
        while True:
            for each, _ in poller.poll():
                if each is outer:
                    inner.send(outer.recv())
                elif each is inner:
                    _forward(inner, outer, loss, chance, lost)
                else:
                    connection.recv()
                    connection.send(dict(lost))


def _forward(
    inner: zmq.Socket[bytes], outer: zmq.Socket[bytes], loss: float, chance: random.Random, lost: Counter[str]
) -> None:
    for _ in range(_AT_ONCE):
        try:
            frames = inner.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        if chance.random() < loss:
            lost[frames[0].split(b"/")[1].decode()] += 1
        else:
            outer.send_multipart(frames, zmq.NOBLOCK)
