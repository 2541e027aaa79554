"""Detects children of `up` that hang. Pure: `health_probe` observes the fleet, and `up` kills what hangs.

    silent once ──▶ suspected ──silent in every observation until its timeout──▶ hung

A silent api hides the broker, and a silent broker hides the workers: only the first in that row is suspected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from typing_extensions import assert_never

LOADING = 20.0  # seconds that a child may take before it is heard for the first time
ANSWER_TIMEOUT = 8.0  # seconds that the api and the broker may be silent
REPORT_TIMEOUT = 10.0  # seconds that the broker may hear nothing of a worker
JOINING = 20.0  # seconds in which a worker finds a restarted broker
MINIMUM = 3  # observations in a row: after a suspend everything is silent for a moment
GAP = 8.0  # seconds between two observations that mean that this process was suspended


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of a fleet on this machine. We choose its role; the user chooses the name of a device."""

    role: Literal["api", "broker", "worker"]
    device: str = ""  # of a worker

    def __str__(self) -> str:
        return self.device or self.role


API, BROKER = ProcessId("api"), ProcessId("broker")


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of the fleet at one moment."""

    at: float  # monotonic seconds, when the observation began
    api: bool  # it answers
    broker: bool  # it answers the api
    silent: Mapping[str, float | None]  # device → seconds since the broker heard it, None for never


@dataclass(frozen=True, slots=True)
class _Suspicion:
    since: float  # when it was first observed to be silent
    count: int  # of observations in a row


class HangDetector:
    """Tracks how long each child has been silent."""

    def __init__(self) -> None:
        self._suspicions: dict[ProcessId, _Suspicion] = {}
        self._heard: dict[ProcessId, float] = {}  # child → the start since which it has been heard
        self._observed_at = float("-inf")

    def observe(self, observation: Observation, started: Mapping[ProcessId, float]) -> list[ProcessId]:
        """Return the children that hang. `started` holds the start time of each living child."""
        if observation.at - self._observed_at > GAP:
            self._suspicions.clear()
        self._observed_at = observation.at
        self._heard.update({child: started[child] for child in _heard(observation, started)})
        timeouts = {
            child: seconds
            for child, seconds in _silent(observation).items()
            if child in started and not self._is_loading(child, observation.at, started[child])
        }
        self._suspicions = {child: self._suspect(child, observation.at) for child in timeouts}
        return [
            child
            for child, suspicion in self._suspicions.items()
            if suspicion.count >= MINIMUM and observation.at - suspicion.since >= timeouts[child]
        ]

    def _is_loading(self, child: ProcessId, now: float, started: float) -> bool:
        return self._heard.get(child) != started and now - started <= LOADING

    def _suspect(self, child: ProcessId, now: float) -> _Suspicion:
        before = self._suspicions.get(child)
        return _Suspicion(now, 1) if before is None else _Suspicion(before.since, before.count + 1)


def _heard(observation: Observation, started: Mapping[ProcessId, float]) -> Iterator[ProcessId]:
    """The children that were heard since their own start."""
    for child, start in started.items():
        silent = _silence(observation, child)
        if silent is not None and silent <= REPORT_TIMEOUT and observation.at - silent > start:
            yield child


def _silence(observation: Observation, child: ProcessId) -> float | None:
    """Seconds since a child was heard; None when unknown."""
    match child.role:
        case "api":
            return 0.0 if observation.api else None
        case "broker":
            return 0.0 if observation.broker else None
        case "worker":
            return observation.silent.get(child.device)
        case _:
            assert_never(child.role)


def _silent(observation: Observation) -> dict[ProcessId, float]:
    """The silent children, and for how many more seconds each may stay silent."""
    if not observation.api:
        return {API: ANSWER_TIMEOUT}
    if not observation.broker:
        return {BROKER: ANSWER_TIMEOUT}
    return {
        ProcessId("worker", device): JOINING if seconds is None else 0.0
        for device, seconds in observation.silent.items()
        if seconds is None or seconds > REPORT_TIMEOUT
    }
