"""The complete order against a model: every prediction is delivered once, in order, or accounted for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamfleet.complete.order import PipelineOrder
from streamfleet.complete.values import Gap, Position
from streamfleet_core.peers.replay import Holder, Key, ReplayAnswer, ReplayRequest
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind
from streamfleet_worker.publisher.replay.keeper import part_of
from streamfleet_worker.publisher.replay.pacing import PART
from streamfleet_worker.publisher.replay.store import Entry, MemoryStore

PATIENCE = 5.0
ROOM = 20 * 460  # bytes of a device: about twenty predictions


@dataclass
class World:
    """Devices, a relay and one subscriber. Every message may get lost."""

    chance: random.Random
    loss: float
    room: int = ROOM
    now: float = 100.0
    truth: list[Key] = field(default_factory=list)
    where: dict[Key, str] = field(default_factory=dict)
    outputs: list[Key | Gap] = field(default_factory=list)
    died: set[Key] = field(default_factory=set)  # made just before a device lost its power

    def __post_init__(self) -> None:
        self.stores = {name: self.store() for name in "abc"}
        self.away: set[str] = set()
        self.heard: dict[str, float] = {}
        self.holders = [Holder("a", 0, 1)]
        self.key: Key = (1, 0, -1)
        self.tokens = itertools.count()
        self.answered: str | None = None
        self.order = self.subscriber(Position(1, 0, -1, None))

    def store(self) -> MemoryStore:
        return MemoryStore(self.room, 1e9)

    def subscriber(self, position: Position | None) -> PipelineOrder[Key]:
        return PipelineOrder(
            "door",
            position,
            patience=PATIENCE,
            heard=lambda device: self.heard.get(device, 0.0),
            token=lambda: f"{next(self.tokens):08x}",
            now=self.now,
        )

    @property
    def holder(self) -> str:
        return self.holders[-1].device

    def arrives(self) -> bool:
        return self.chance.random() >= self.loss

    def predict(self, *, stored: bool = True) -> None:
        """The holder makes a prediction. Without `stored`, the publisher never gets it."""
        key = self.key = (self.key[0], self.key[1], self.key[2] + 1)
        self.truth.append(key)
        self.where[key] = self.holder
        if stored:
            header = DataHeader(kind=Kind.PRED, gen=key[0], inc=key[1], seq=key[2]).pack()
            self.stores[self.holder].append([Entry("door", key, header, b"", self.now)], self.now)
            if self.holder not in self.away and self.arrives():
                self.heard[self.holder] = self.now
                self.order.receive(key, key, self.holder, self.now, live=True)

    def restart_camera(self) -> None:
        self.key = (self.key[0], self.key[1] + 1, -1)

    def restart_publisher(self) -> None:
        self.stores[self.holder] = self.store()

    def die(self) -> None:
        """The device loses its power: what it made a moment ago is not on its disk, and it starts again."""
        self.predict(stored=False)
        self.died.add(self.key)
        history = self.stores[self.holder].history("door")
        if history is not None:
            history.cut()
        self.restart_camera()

    def move(self, device: str) -> None:
        """Another generation, on any device."""
        generation = self.key[0] + 1
        self.holders[-1] = Holder(self.holder, self.holders[-1].first, self.key[0])
        self.holders.append(Holder(device, generation, generation))
        self.key = (generation, self.key[1], -1)

    def restart_subscriber(self) -> None:
        self.order = self.subscriber(self.order.position)

    def turn(self) -> None:
        """A moment in which devices answer and the subscriber takes what is ready."""
        self.now += 0.2
        self.take()
        request = self.order.request
        if request is not None and request.token != self.answered:
            self.answered = request.token
            if self.arrives():
                self.order.hold(request.token, tuple(self.holders), self.now)
            for device in sorted(self.stores.keys() - self.away):
                self.answer(device, request)
        self.take()

    def answer(self, device: str, request: ReplayRequest) -> None:
        for _, packed, body in part_of(self.stores[device], device, request):
            header = DataHeader.unpack(packed)
            if header.flags & Flag.HOLDERS or not self.arrives():
                continue
            self.heard[device] = self.now
            if header.flags & Flag.ANSWER:
                self.order.answer(request.token, ReplayAnswer.decode(body), header.gen, self.now)
            else:
                self.order.receive(header.key, header.key, device, self.now, live=False)

    def take(self) -> None:
        while (found := self.order.take(self.now)) is not None:
            self.outputs.append(found)

    def act(self, action: str) -> None:
        name, _, device = action.partition(" ")
        match name:
            case "drop":
                self.predict(stored=False)
            case "camera":
                self.restart_camera()
            case "publisher":
                self.restart_publisher()
            case "move":
                self.move(device)
            case "subscriber":
                self.restart_subscriber()
            case "predict" | "turn" | "die":
                getattr(self, name)()

    def settle(self) -> None:
        """Faults end, and time passes."""
        self.loss = 0.0
        for _ in range(600):
            self.turn()


def counted(outputs: list[Key | Gap]) -> Iterator[Key]:
    """Every key that was delivered or counted as gone, in the order of the outputs."""
    for each in outputs:
        if isinstance(each, tuple):
            yield each
        elif each.count is not None:
            assert each.first is not None
            for seq in range(each.first, each.first + each.count):
                yield (each.generation, each.incarnation, seq)


RARE = ["drop", "camera", "die", "publisher", "move a", "move b", "move c", "turn", "turn", "subscriber"]
ACTIONS = st.lists(st.sampled_from(["predict"] * 12 + RARE), max_size=80)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ACTIONS,
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sets(st.sampled_from("abc"), max_size=1),
)
def test_each_prediction_is_delivered_once_or_accounted_for(
    actions: list[str], seed: int, loss: float, away: set[str]
) -> None:
    world = World(random.Random(seed), loss)
    for at, action in enumerate(actions):
        if at == len(actions) * 2 // 3:
            world.away |= away
        world.act(action)
    if world.holder in world.away:
        world.move(min(set("abc") - world.away))
    world.predict()
    world.settle()

    told = list(counted(world.outputs))
    assert told == sorted(set(told)), "once and in order"
    assert set(told) <= set(world.truth)
    silent = set(world.truth) - set(told)
    unknown = {each.cause for each in world.outputs if isinstance(each, Gap) and each.count is None}
    # What the camera itself lost at the end of a run left no trace anywhere.
    traced = {key for key in silent if any(key < other and key[:2] == other[:2] for other in told)}
    assert not traced, world.outputs
    for key in silent & world.died:
        runs = {(each.generation, each.incarnation) for each in world.outputs if isinstance(each, Gap)}
        assert key[:2] in runs or key[2] == 0, world.outputs
    for key in silent - traced:
        store = world.stores[world.where[key]]
        kept = [each.key for each in store.read("door", (0, 0, 0), 10**6, 10**9)]
        assert key not in kept or "away" in unknown, world.outputs


def test_without_faults_nothing_is_asked_for() -> None:
    world = World(random.Random(0), 0.0)
    world.order = world.subscriber(None)
    for _ in range(50):
        world.predict()
        world.take()
        assert world.order.request is None

    assert world.outputs == world.truth


def test_a_loss_is_fetched_from_the_device() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.loss = 1.0
    for _ in range(5):
        world.predict()
    world.loss = 0.0
    world.predict()
    world.turn()

    assert world.outputs == world.truth


def test_a_lost_answer_costs_no_time_if_what_it_is_about_is_there() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    world.predict()
    world.loss = 0.0
    world.predict()
    world.take()
    request = world.order.request
    assert request is not None
    assert request.count == 1
    world.order.receive((1, 0, 1), (1, 0, 1), "a", world.now, live=False)
    world.take()

    assert world.outputs == world.truth
    assert world.order.request is None


def test_what_no_longer_fits_is_a_gap_with_its_cause() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    for _ in range(100):
        world.predict()
    world.loss = 0.0
    world.predict()
    for _ in range(10):
        world.turn()

    first, gap, *rest = world.outputs
    assert isinstance(gap, Gap)
    assert (first, gap.cause, gap.device, gap.first) == ((1, 0, 0), "size", "a", 1)
    assert str(gap) == f"door: {gap.count} predictions on a are gone: the device had no room for more"
    assert [first, *rest] == [world.truth[0], *world.truth[1 + (gap.count or 0) :]]


def test_the_tail_of_a_silent_pipeline_is_fetched() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    world.predict()
    world.loss = 0.0
    for _ in range(60):
        world.turn()

    assert world.outputs == world.truth


def test_an_outage_of_any_length_costs_nothing_that_is_kept() -> None:
    world = World(random.Random(7), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    for _ in range(3000):
        world.turn()
    for _ in range(15):
        world.predict()
    world.loss = 0.3
    for _ in range(3):
        world.predict()
    world.settle()

    assert world.outputs == world.truth


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_long_outage_is_fetched_part_by_part(loss: float) -> None:
    world = World(random.Random(3), 0.0, room=10**7)
    world.predict()
    world.turn()
    world.loss = 1.0
    for _ in range(20 * PART):
        world.predict()
    world.loss = loss
    for _ in range(200):
        world.predict()
        world.turn()
    world.settle()

    assert world.outputs == world.truth


def test_who_is_answered_quickly_soon_asks_again_for_what_was_lost() -> None:
    world = World(random.Random(0), 1.0, room=10**7)
    for _ in range(3 * PART):
        world.predict()
    world.loss = 0.0
    world.order = world.subscriber(Position(1, 0, 0, "a"))
    first = asked_at(world, world.now)
    world.order.hold(first.token, tuple(world.holders), world.now + 0.01)
    world.now += 0.02
    world.answer("a", first)

    second = asked_at(world, world.now)

    assert second != first
    assert asked_at(world, world.now + 0.09) == second
    third = asked_at(world, world.now + 0.11)
    assert (third.start, third.token == second.token) == (second.start, False)
    assert asked_at(world, world.now + 0.11 + 0.19) == third, "and waits longer each time"
    assert asked_at(world, world.now + 0.11 + 0.21) != third


def asked_at(world: World, now: float) -> ReplayRequest:
    """What a subscriber asks for then."""
    while world.order.take(now) is not None:
        pass
    assert world.order.request is not None
    return world.order.request


def test_what_a_device_has_that_is_away_is_gone_after_a_while_and_not_delivered_later() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    world.predict()
    world.away.add("a")
    world.loss = 0.0
    world.move("b")
    world.predict()
    for _ in range(round(PATIENCE / 0.2) - 2):
        world.turn()
    assert world.outputs == [(1, 0, 0)]
    for _ in range(5):
        world.turn()

    _, gap, last = world.outputs
    assert isinstance(gap, Gap)
    assert (gap.count, gap.cause, gap.device, last) == (None, "away", "a", (2, 0, 0))
    world.away.clear()
    world.predict()
    world.settle()
    assert world.outputs[3:] == [(2, 0, 1)]


def test_a_device_that_died_may_have_had_more_than_it_knows() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.predict(stored=False)
    history = world.stores["a"].history("door")
    assert history is not None
    history.cut()
    world.move("b")
    world.predict()
    world.settle()

    first, gap, last = world.outputs
    assert isinstance(gap, Gap)
    assert (first, gap.count, gap.cause, gap.device, last) == ((1, 0, 0), None, "unwritten", "a", (2, 0, 0))


def test_a_device_that_had_the_pipeline_in_between_is_waited_for() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.loss = 1.0
    world.move("b")
    world.predict()
    world.loss = 0.0
    world.move("c")
    world.predict()
    world.away.add("b")
    for _ in range(10):
        world.turn()
    assert world.outputs == [(1, 0, 0)]
    world.away.clear()
    world.settle()

    assert world.outputs == world.truth


def test_a_device_speaks_only_for_what_it_had() -> None:
    world = World(random.Random(0), 0.0)
    world.predict()
    world.turn()
    world.move("b")
    world.loss = 1.0
    world.predict()
    world.loss = 0.0
    world.predict()
    world.now += 0.2
    world.take()
    request = world.order.request
    assert request is not None
    world.order.hold(request.token, tuple(world.holders), world.now)
    for device, generation in (("b", 1), ("c", 2), ("a", 2)):
        lie = ReplayAnswer(device=device, known_from=(0, 0, 0), until=(2, 0, 9), done=True)
        world.order.answer(request.token, lie, generation, world.now)
    world.take()
    assert world.outputs == [(1, 0, 0)]
    world.settle()

    assert world.outputs == world.truth


def test_a_fleet_that_begins_to_count_again_is_followed_after_a_while() -> None:
    world = World(random.Random(0), 0.0)
    world.order = world.subscriber(Position(7, 0, 40, "a"))
    world.now += 20.0
    world.predict()
    world.take()

    gap, key = world.outputs
    assert isinstance(gap, Gap)
    assert (gap.cause, key) == ("reset", (1, 0, 0))
