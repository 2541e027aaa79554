"""The way to the publisher: messages for the data plane, over ipc, never waited for."""

from __future__ import annotations

import zmq

from streamfleet_broker.protocol.data import DataHeader

FENCED = b"\x01"  # flags: the publisher tests the fence before it sends this on
FREE = b"\x00"

WAITING = 64  # messages that a publisher which is being restarted still gets
NAME = "publisher"


class PushDoor:
    """One PUSH socket. One thread uses it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, *, waiting: int = WAITING
    ) -> None:
        self.dropped = 0  # messages, since the process began
        self._socket = context.socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.sndhwm = waiting
        self._socket.connect(endpoint)

    def send(self, topic: bytes, header: DataHeader, body: bytes, *, fenced: bool) -> bool:
        """Whether the publisher will get it."""
        frames = [FENCED if fenced else FREE, topic, header.pack(), body]
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Close the socket; what it still holds is dropped."""
        self._socket.close()
