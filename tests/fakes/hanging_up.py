"""A peer that sends much to a process that stands still, and is gone before that process goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket as sockets
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.fakes.patience import PATIENCE
from tests.fakes.peers import wait_for

_MESSAGES = 300  # fewer bytes than libzmq takes in at once, and more than any queue of those that are tested
_MEANWHILE = 0.3  # seconds in which several heartbeats are due


class _HastySocket(zmq.Socket):
    def bind(self, addr: str) -> Any:
        self._hasten()
        return super().bind(addr)

    def connect(self, addr: str) -> Any:
        self._hasten()
        return super().connect(addr)

    def _hasten(self) -> None:
        if self.getsockopt(zmq.HEARTBEAT_IVL):
            self.setsockopt(zmq.HEARTBEAT_IVL, 5)  # milliseconds
            self.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60_000)


class HastyContext(zmq.Context):
    """Its sockets send a heartbeat each 5 ms, if they send any."""

    _socket_class = _HastySocket


def stand_still(reading: Callable[[], object]) -> None:
    """Stop this process; when it goes on, read what lies there, some time later."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(_MEANWHILE)
    reading()


@contextlib.contextmanager
def process(entry: Callable[..., None], *arguments: object) -> Iterator[tuple[Any, Connection]]:
    """A process of its own, as libzmq may end it, and the pipe that is its last argument."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=entry, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join(PATIENCE)
        ours.close()


def send_much_and_hang_up(child: Any, peer: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> int | None:
    """To a process that stands still, or soon will. The exit code that the process has in the end.

    `monitor`: of that peer, for the connections that it made or accepted.
    """
    wait_for(lambda: _state(child.pid) == "T", "it stands still")
    for number in range(_MESSAGES):
        peer.send(b"\1%d" % number)
        time.sleep(0.001)  # a heartbeat comes among them
    descriptor = recv_monitor_message(monitor)["value"]
    with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as own:
        own.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))  # it ends by RST
    peer.disable_monitor()
    monitor.close()
    peer.close(linger=0)
    peer.context.term()
    os.kill(child.pid, signal.SIGCONT)
    child.join(PATIENCE)
    return child.exitcode


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
