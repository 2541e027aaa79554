"""A test in the place of the publisher: it receives what cameras hand over."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

from streamfleet_worker.ipc.handover.packet import Message
from streamfleet_worker.ipc.handover.receiver import Receiver
from tests.fakes.patience import PATIENCE


class FakePublisher:
    """One receiver, from which messages are taken one by one."""

    def __init__(self, path: str) -> None:
        self._receiver = Receiver(path)
        self._poll = select.poll()
        self._poll.register(self._receiver, select.POLLIN)
        self._message: Message | None = None  # taken, and not yet asked for

    def poll(self, milliseconds: int) -> bool:
        """Whether there is a message, after so long at most."""
        while self._message is None and self._poll.poll(milliseconds):
            # What wakes may also be a sender that comes or goes.
            self._message = next(iter(self._receiver.take(1)), None)
        return self._message is not None

    def receive(self, milliseconds: int = round(1000 * PATIENCE)) -> Message:
        """The next message."""
        assert self.poll(milliseconds), "nothing came"
        message, self._message = self._message, None
        assert message is not None
        return message

    def forget(self, milliseconds: int = 0) -> None:
        """Take all that is there, until nothing comes for so long."""
        while self.poll(milliseconds):
            self._message = None

    def close(self) -> None:
        self._receiver.close()


@contextlib.contextmanager
def fake_publisher(path: str) -> Iterator[FakePublisher]:
    """One that is closed at the end."""
    with contextlib.closing(FakePublisher(path)) as publisher:
        yield publisher
