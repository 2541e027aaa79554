"""Whether the pipelines of any one device would fit on the others, if it were lost. Pure.

For each device there is a proof: places on other devices for all of its pipelines. A proof holds until the
device itself, or one of the others that it names, changes so that it no longer fits. So a change costs the
few proofs that it touches, however many devices there are. The proof of a device that was lost is kept: its
pipelines go there if they do not fit otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.capacity.device_pool import DevicePool
from streamfleet_broker.fleet.capacity.placement import Candidate

_NEAR = 8  # devices that are tried first, others for each lost device


@dataclass(frozen=True, slots=True)
class Movable:
    """A pipeline that would move to another device."""

    pipeline_id: str
    need: Callable[[Candidate], Demand]  # on a device
    allows: Callable[[Candidate], bool]  # whether a device may run it
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a pipeline of a lost device would run."""

    pipeline: Movable
    device: str


class SpareRoom:
    """The devices that take pipelines, and the proofs. Values in the tables are never changed in place."""

    def __init__(self) -> None:
        self._pool = DevicePool()
        self._movable: dict[str, tuple[Movable, ...]] = {}  # by device
        self._proofs: dict[str, tuple[_Place, ...]] = {}  # by lost device
        self._named_in: dict[str, frozenset[str]] = {}  # device → lost devices whose proof names it
        self._unproved: set[str] = set()
        self._reserved: dict[str, tuple[_Place, ...]] = {}  # the last proofs of devices that are gone

    @property
    def devices(self) -> set[str]:
        """The devices that take pipelines."""
        return {*self._movable}

    def copy(self) -> SpareRoom:
        """The same, whose changes do not change this one."""
        other = SpareRoom()
        other._pool, other._movable = self._pool.copy(), dict(self._movable)
        other._proofs, other._named_in = dict(self._proofs), dict(self._named_in)
        other._unproved, other._reserved = set(self._unproved), dict(self._reserved)
        return other

    def put(self, candidate: Candidate, movable: Iterable[Movable]) -> None:
        """Add a device, or replace what is known of it. `movable`: the pipelines that would move from it."""
        name = candidate.device
        self._pool.put(candidate)
        self._movable[name] = tuple(movable)
        self._reserved.pop(name, None)
        self._doubt(name)
        for lost in self._named_in.get(name, ()):
            if not self._still_fits(self._proofs[lost], candidate):
                self._doubt(lost)

    def add(self, candidate: Candidate, pipeline: Movable | None) -> None:
        """Replace what is known of a device that has one more pipeline. None: one that never moves."""
        more = () if pipeline is None else (pipeline,)
        self.put(candidate, (*self._movable.get(candidate.device, ()), *more))

    def remove(self, name: str) -> None:
        """Remove a device that takes no pipelines any more."""
        if self._movable.pop(name, None) is None:
            return
        self._pool.remove(name)
        self._reserved[name] = self._proofs.get(name, ())
        self._doubt(name)
        self._unproved.discard(name)
        for lost in self._named_in.get(name, ()):
            self._doubt(lost)

    def lacking(self) -> str | None:
        """A device whose loss the others could not take in; None if there is none."""
        for name in sorted(self._unproved, key=self._pool.position):
            proof = self._prove(name)
            if proof is None:
                return name
            self._proofs[name] = proof
            self._unproved.discard(name)
            for device in {place.device for place in proof}:
                self._named_in[device] = self._named_in.get(device, frozenset()) | {name}
        return None

    def lacking_with(self, candidate: Candidate, pipeline: Movable | None) -> str | None:
        """The same, if a device were this one, with one more pipeline."""
        if (lacking := self.lacking()) is not None:
            return lacking
        trial = self.copy()
        trial.add(candidate, pipeline)
        return trial.lacking()

    def reserved(self, lost: str, pipeline_id: str) -> str | None:
        """The device on which room was kept for a pipeline of a device that is gone."""
        places = self._reserved.get(lost, ())
        return next((each.device for each in places if each.pipeline.pipeline_id == pipeline_id), None)

    def check(self) -> None:
        """Assert that each proof holds, and is found where it is looked for."""
        names = {each.device for each in self._pool}
        assert self.devices == names
        assert self._proofs.keys() | self._unproved == names
        assert not self._proofs.keys() & self._unproved
        for lost, proof in self._proofs.items():
            assert [place.pipeline for place in proof] == [*self._movable[lost]]
            for name in {place.device for place in proof}:
                assert name != lost
                assert lost in self._named_in[name]
                assert self._still_fits(proof, self._pool[name])

    def _doubt(self, lost: str) -> None:
        """Forget the proof of a device."""
        self._unproved.add(lost)
        for device in {place.device for place in self._proofs.pop(lost, ())}:
            self._named_in[device] = self._named_in[device] - {lost}

    def _still_fits(self, proof: Sequence[_Place], candidate: Candidate) -> bool:
        """Whether a device has room for all that a proof puts there."""
        for place in proof:
            if place.device != candidate.device:
                continue
            need = place.pipeline.need(candidate)
            if not (place.pipeline.allows(candidate) and need.amounts.fits_into(candidate.free)):
                return False
            candidate = candidate.with_pipeline(need, place.pipeline.models)
        return True

    def _prove(self, lost: str) -> tuple[_Place, ...] | None:
        """Places for all pipelines of a device: near ones, so that proofs name different devices, or any."""
        movable = self._movable[lost]
        return () if not movable else self._places(lost, movable, near=True) or self._places(lost, movable)

    def _places(
        self, lost: str, movable: Iterable[Movable], *, near: bool = False
    ) -> tuple[_Place, ...] | None:
        pool, found = self._pool.copy(), list[_Place]()
        offset = pool.position(lost) if near else 0
        pool.remove(lost)
        for pipeline in movable:
            candidates = islice(pool.from_position(offset), _NEAR) if near else iter(pool)
            chosen = _first_fitting(candidates, pipeline)
            if chosen is None:
                return None
            pool.put(chosen.with_pipeline(pipeline.need(chosen), pipeline.models))
            found.append(_Place(pipeline, chosen.device))
        return tuple(found)


class FleetPool(DevicePool):
    """Devices by room, and the room that is kept for the loss of one of them; None: none is kept."""

    def __init__(self, spare: SpareRoom | None = None) -> None:
        super().__init__()
        self.spare = spare

    def copy(self) -> FleetPool:
        """A pool whose changes do not change this one."""
        pool = FleetPool(None if self.spare is None else self.spare.copy())
        pool.fill_from(self)
        return pool


def _first_fitting(candidates: Iterator[Candidate], pipeline: Movable) -> Candidate | None:
    for each in candidates:
        if pipeline.allows(each) and pipeline.need(each).amounts.fits_into(each.free):
            return each
    return None
