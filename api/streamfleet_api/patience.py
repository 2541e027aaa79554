"""Which child of `up` hangs. Pure: looks at the fleet come in, names go out; `probe` looks, `up` kills.

    silent in one look ──▶ suspected ──silent in each look for as long as its patience──▶ hung

A silent api hides the broker, and a silent broker hides the workers: only the first in that row is suspected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LOADING = 20.0  # seconds that a child may take to be heard for the first time
PATIENCE = 8.0  # seconds that the api and the broker may be silent
SILENCE = 10.0  # seconds that the broker may hear nothing of a worker
JOINING = 20.0  # seconds in which a worker finds a broker that was started anew
LOOKS = 3  # in a row: after a suspend everything is silent for a moment
GAP = 8.0  # seconds between two looks, after which it was we who slept


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the fleet showed."""

    at: float  # monotonic seconds, when it began
    api: bool  # it answers
    broker: bool  # it answers the api
    silent: Mapping[str, float | None]  # device → seconds since the broker heard it, None for never


@dataclass(frozen=True, slots=True)
class _Suspicion:
    since: float  # the first look at which it was silent
    looks: int


class Patience:
    """Remembers for how long each child has been silent."""

    def __init__(self) -> None:
        self._suspicions: dict[str, _Suspicion] = {}
        self._heard: dict[str, float] = {}  # child → the start since which it has been heard
        self._looked = float("-inf")

    def see(self, look: Look, started: Mapping[str, float]) -> list[str]:
        """The names of the children that hang; `started` is when each living one was (monotonic seconds)."""
        if look.at - self._looked > GAP:
            self._suspicions.clear()
        self._looked = look.at
        self._heard.update({name: started[name] for name in _heard(look, started)})
        patience = {
            name: seconds
            for name, seconds in _silent(look).items()
            if name in started and not self._is_loading(name, look.at, started[name])
        }
        self._suspicions = {name: self._suspect(name, look.at) for name in patience}
        return [
            name
            for name, suspicion in self._suspicions.items()
            if suspicion.looks >= LOOKS and look.at - suspicion.since >= patience[name]
        ]

    def _is_loading(self, name: str, now: float, started: float) -> bool:
        return self._heard.get(name) != started and now - started <= LOADING

    def _suspect(self, name: str, now: float) -> _Suspicion:
        before = self._suspicions.get(name)
        return _Suspicion(now, 1) if before is None else _Suspicion(before.since, before.looks + 1)


def _heard(look: Look, started: Mapping[str, float]) -> Iterator[str]:
    """Whoever was heard in this look, and not its predecessor."""
    answers = {"api": look.api, "broker": look.broker}
    for name, start in started.items():
        silent = 0.0 if answers.get(name) else look.silent.get(name)
        if silent is not None and silent <= SILENCE and look.at - silent > start:
            yield name


def _silent(look: Look) -> dict[str, float]:
    """Whoever is silent in this look, and for how many seconds more it may be."""
    if not look.api:
        return {"api": PATIENCE}
    if not look.broker:
        return {"broker": PATIENCE}
    return {
        device: JOINING if seconds is None else 0.0
        for device, seconds in look.silent.items()
        if seconds is None or seconds > SILENCE
    }
