"""A TCP proxy that delays, throttles, stops one or both ways, resets, and cuts in the middle of a frame."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

_READ = 4096
_TURN = 0.02  # seconds
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@dataclass(slots=True)
class Weather:
    """What happens to the bytes of all connections at present."""

    delay: float = 0.0  # seconds, of each piece
    rate: float = float("inf")  # bytes a second, of each way
    up: bool = True  # from the client to the server; False: they are kept and never arrive
    down: bool = True


@dataclass(slots=True)
class _Way:
    source: socket.socket
    target: socket.socket
    is_up: bool


class ChaosProxy:
    """Forwards connections to an address, as its `weather` lets it. Use it in a `with` block."""

    def __init__(
        self, target: tuple[str, int], seed: int = 0, *, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.weather = Weather()
        self._target = target
        self._rng = random.Random(seed)
        self._listener = socket.create_server(listen)
        self._listener.settimeout(0.2)
        self._closing = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, name="chaos proxy", daemon=True)]
        self._cut_next = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def reset(self) -> None:
        """Reset all connections."""
        for pair in self._pairs[:]:
            self._end(pair, hard=True)

    def cut_inside_a_frame(self) -> None:
        """Forward a part of the next piece of each way, and then close its connection."""
        self._cut_next.set()

    def heal(self) -> None:
        """Good weather. What was kept back is gone with its connections: a stream has no holes."""
        self.weather = Weather()
        self._cut_next.clear()
        self.reset()

    def __enter__(self) -> ChaosProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and listen no longer."""
        self._closing.set()
        self.reset()
        for thread in self._threads:
            thread.join(2.0)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target, timeout=2.0)
                except OSError:
                    client.close()
                    continue
                pair = (client, server)
                self._pairs.append(pair)
                for way in (_Way(client, server, is_up=True), _Way(server, client, is_up=False)):
                    thread = threading.Thread(target=self._forward, args=(way, pair), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, way: _Way, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while not self._closing.is_set() and pair in self._pairs:
                arrived = bool(select.select([way.source], [], [], _TURN)[0])
                weather = self.weather
                if not (weather.up if way.is_up else weather.down):
                    time.sleep(_TURN)
                    continue
                if not arrived:
                    continue
                piece = way.source.recv(_READ)
                if not piece:
                    break
                time.sleep(weather.delay + len(piece) / weather.rate)
                if self._cut_next.is_set():
                    self._cut_next.clear()
                    piece = piece[: self._rng.randrange(1, len(piece) + 1)]
                    way.target.sendall(piece)
                    break
                way.target.sendall(piece)
        except (OSError, ValueError):  # closed meanwhile
            pass
        self._end(pair, hard=False)

    def _end(self, pair: tuple[socket.socket, socket.socket], *, hard: bool) -> None:
        with contextlib.suppress(ValueError):
            self._pairs.remove(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                if hard:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.close()
