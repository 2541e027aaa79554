"""Large messages that wait: how many bytes, whose, and until when."""

from __future__ import annotations

import time

import zmq

from streamfleet_broker.relay.unsent_messages import UnsentMessages
from streamfleet_core.protocol.limits import MAX_DATA_BODY, MAX_DATA_FRAME
from tests.fakes.patience import PATIENCE


def test_what_waits_is_counted_by_key_and_all_together_until_it_is_gone() -> None:
    unsent = UnsentMessages(3 * MAX_DATA_FRAME, 2 * MAX_DATA_FRAME)
    body = zmq.Frame(bytes(MAX_DATA_BODY))

    of_a = [unsent.hold("a", body) for _ in range(3)]
    was_full = unsent.is_full
    of_b = [unsent.hold("b", body) for _ in range(2)]

    assert [each is not None for each in of_a] == [True, True, False]
    assert [each is not None for each in of_b] == [True, False]
    assert (was_full, unsent.is_full) == (False, True)

    of_a.clear()
    deadline = time.monotonic() + PATIENCE
    while (again := unsent.hold("a", body)) is None:  # libzmq frees it in a thread of its own
        assert time.monotonic() < deadline
    assert again.bytes == body.bytes
