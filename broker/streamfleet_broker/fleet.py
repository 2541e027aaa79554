"""The fleet: who is here, what is wished for, where it runs. Pure: messages and `now` in, effects out.

    Operators ──▶ Wishes ──▶ Movement ──▶ State ──▶ effects
    Sessions ──▶ Releases ──▶ Movement, Waiting          Lookout ◀── Facts ◀── State

A pipeline is one record, whose `gen` rises with every change of device, spec or want. Everything with an
effect on a device is the whole set of its wishes, sent until it says that it applied them.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamfleet_broker.effects import Allow, Answer, Effect, Save, Send
from streamfleet_broker.facts import Facts
from streamfleet_broker.lookout import Lookout
from streamfleet_broker.movement import Movement
from streamfleet_broker.operators import Operators
from streamfleet_broker.protocol.control import Envelope
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Error
from streamfleet_broker.records import Record
from streamfleet_broker.releases import Releases
from streamfleet_broker.roster import DevicePeer, OperatorPeer
from streamfleet_broker.sessions import Sessions
from streamfleet_broker.state import FleetConfig, State
from streamfleet_broker.supply import Supply
from streamfleet_broker.waiting import Waiting
from streamfleet_broker.wishes import Wishes


class Fleet:
    """All decisions of the broker.

    Each entry point returns the effects that the server must perform, in their order.

    Args:
        epoch: larger than that of every broker before this one, as far as the store knows.
        records: all rows of the store.
        now: any clock in seconds that only rises; the same one everywhere.
        unix_time: the wall clock at `now`. It is read once, so that a jump ends no token.
    """

    def __init__(
        self,
        config: FleetConfig,
        epoch: int,
        records: Iterable[Record],
        supply: Supply,
        *,
        now: float,
        unix_time: float,
    ) -> None:
        self._now = now  # of the last step that had one
        self._state = State(config, epoch, records, supply, now=now, unix_time=unix_time)
        self._movement = Movement(self._state)
        facts = Facts(self._state, self._movement)
        self._waiting = Waiting(self._state, facts)
        self._lookout = Lookout(self._state, facts)
        self._releases = Releases(self._state, self._movement, self._waiting)
        self._sessions = Sessions(self._state, self._movement, self._releases, now)
        self._wishes = Wishes(self._state, self._movement, facts, self._waiting, self._releases)
        self._operators = Operators(self._state, self._movement, facts, self._wishes, self._lookout)

    @property
    def epoch(self) -> int:
        """Under which this broker commands."""
        return self._state.epoch

    def start(self) -> list[Effect]:
        """Before anything else."""
        self._state.then += [
            Allow("operators", frozenset({self._state.config.operator_key})),
            *(self._state.allow(domain) for domain in ("devices", "relay-in", "relay-out")),
        ]
        return self._finish(self._now)

    def receive(self, peer: DevicePeer | OperatorPeer, envelope: Envelope, now: float) -> list[Effect]:
        """A message came."""
        if isinstance(peer, OperatorPeer):
            self._operators.receive(peer, envelope, now)
        else:
            self._sessions.receive(peer, envelope, now)
        return self._finish(now)

    def garbled(self, peer: DevicePeer | OperatorPeer, request_id: bytes, error: BadMessage) -> list[Effect]:
        """Bytes came that are no message."""
        if isinstance(peer, OperatorPeer):
            answer = Answer(peer.routing_id, request_id, Error("bad_message", str(error)))
            self._state.then.append(answer)
        else:
            self._sessions.garbled(peer, error)
        return self._finish(self._now)

    def tick(self, now: float) -> list[Effect]:
        """Time passed. Call it twice a second."""
        self._sessions.tick(now)
        self._releases.release_gone(now)
        self._movement.place(now)
        self._waiting.give_up(now)
        self._lookout.give_up(now)
        self._lookout.look_at_all()
        return self._finish(now)

    def envelope(self, send: Send) -> Envelope:
        """What fences a message to a device."""
        return self._sessions.envelope(send)

    def sent(self, send: Send) -> None:
        """The message was given to the network."""
        self._sessions.sent(send)

    def unsent(self, send: Send, *, gone: bool) -> None:
        """The message was not sent: the peer is gone, or its queue is full."""
        self._sessions.unsent(send, gone=gone)

    def unsaved(self, save: Save, dropped: Iterable[Effect]) -> list[Effect]:
        """The store failed: what `save` would have written is undone, and `dropped` will not be performed."""
        self._state.undo(save)
        asked = [(e.routing_id, e.request_id) for e in dropped if isinstance(e, Answer)]
        asked += [(asker.routing_id, asker.request_id) for asker in self._waiting.undo()]
        return [Answer(routing_id, request_id, _STORE_DOWN) for routing_id, request_id in asked]

    def raised(self, epoch: int) -> None:
        """This epoch is durable. Sessions of the last one are refused at their next beat, and begin anew."""
        assert epoch > self._state.epoch
        self._state.epoch = epoch

    def check(self) -> None:
        """Assert what always holds between two steps."""
        self._state.check()
        self._wishes.check()
        self._waiting.check()
        self._lookout.check()

    def _finish(self, now: float) -> list[Effect]:
        self._now = now
        self._lookout.notice(now)
        return self._state.finish()


_STORE_DOWN = Error("store_down", "the broker's store does not take writes; nothing was changed")
