"""Selects frames as samples: strategies, their limits, and the size of a batch.

Pure. `now` is in Unix seconds, so that limits refer to the same minute, hour and day after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from typing_extensions import assert_never

from streamfleet_core.protocol.sampling import (
    Batching,
    ClassesBased,
    CloseToThreshold,
    DetectionsNumberBased,
    Limit,
    Random,
    Sampling,
    Strategy,
    Window,
)

_SECONDS: dict[Window, int] = {"minutely": 60, "hourly": 3600, "daily": 86_400}


DIFFERS = "differs"  # the strategy and the tag of frames in which another model finds something else
_DIFFERING_LIMITS = (Limit("minutely", 10), Limit("hourly", 60), Limit("daily", 200))


def differing_sampling(dataset: str) -> Sampling:
    """How many frames are kept in which another model differs, and where."""
    strategy = Random(name=DIFFERS, traffic_percentage=1.0, limits=_DIFFERING_LIMITS, tags=(DIFFERS,))
    return Sampling(
        dataset=dataset, strategies=(strategy,), batching=Batching(batches_name_prefix="differing")
    )


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects that a model detected in a frame, or the classes that the whole frame may have."""

    classes: Sequence[str]
    confidences: Sequence[float]  # of the same objects
    classify: bool = False  # whether they are classes of the frame, the most confident first

    @property
    def top(self) -> Objects:
        """Of the classes of a frame the most confident; of objects all."""
        return Objects(self.classes[:1], self.confidences[:1]) if self.classify else self

    def count(self, names: Collection[str] | None) -> int:
        """Count objects of these classes; None: of all."""
        return len(self.classes) if names is None else sum(name in names for name in self.classes)

    def count_near(self, threshold: float, epsilon: float, names: Collection[str] | None) -> int:
        """Count objects of these classes whose confidence is within epsilon of the threshold."""
        return sum(
            abs(confidence - threshold) < epsilon and (names is None or name in names)
            for name, confidence in zip(self.classes, self.confidences, strict=True)
        )


@dataclass(slots=True)
class Used:
    """The samples of one strategy in the minute, hour and day of its last sample."""

    minutely: tuple[int, int] = (0, 0)  # number of the minute since 1970, and the samples in it
    hourly: tuple[int, int] = (0, 0)
    daily: tuple[int, int] = (0, 0)

    def within(self, window: Window, now: float) -> int:
        """The number of samples in the current window."""
        which, samples = getattr(self, window)
        return samples if which == int(now) // _SECONDS[window] else 0

    def take(self, now: float) -> None:
        """Count a sample."""
        for window, seconds in _SECONDS.items():
            setattr(self, window, (int(now) // seconds, self.within(window, now) + 1))

    def give_back(self, at: float) -> None:
        """Undo a sample taken at that time. Windows that have ended do not matter."""
        for window in _SECONDS:
            samples = self.within(window, at)
            if samples:
                setattr(self, window, (int(at) // _SECONDS[window], samples - 1))


@dataclass(slots=True)
class Tally:
    """The samples that a pipeline has taken. The limits hold across restarts if this is stored."""

    used: dict[str, Used] = field(default_factory=dict)  # by strategy
    batch: str = ""  # the last one with a sample
    in_batch: int = 0  # samples


@dataclass(frozen=True, slots=True)
class Credit:
    """The permission for one sample."""

    strategy: Strategy
    batch: str
    at: float  # Unix seconds


class Picker:
    """Picks frames by a sampling, and counts them.

    Args:
        rng: returns a random number in [0, 1).
        tally: the earlier samples; it is updated.
    """

    def __init__(self, sampling: Sampling, rng: Callable[[], float], tally: Tally) -> None:
        self._strategies = sampling.strategies
        self._most = sampling.batching.max_batch_images
        self._rng = rng
        self.tally = tally

    def may_pick(self, *, now: float, batch: str) -> bool:
        """Whether some frame could be picked."""
        return not self._is_full(batch) and any(
            self._is_under_limits(strategy, now) for strategy in self._strategies
        )

    def pick(self, objects: Objects, *, now: float, batch: str) -> Credit | None:
        """Pick for the first strategy that matches and is under its limits, unless the batch is full."""
        if self._is_full(batch):
            return None
        for strategy in self._strategies:
            if self._is_under_limits(strategy, now) and _matches(strategy, objects, self._rng):
                return self._take(Credit(strategy, batch, now))
        return None

    def give_back(self, credit: Credit) -> None:
        """Return the credit of a sample that was not stored."""
        used = self.tally.used.get(credit.strategy.name)
        if used is not None:
            used.give_back(credit.at)
        if self.tally.batch == credit.batch:
            self.tally.in_batch = max(0, self.tally.in_batch - 1)

    def _take(self, credit: Credit) -> Credit:
        tally, now = self.tally, credit.at
        # Keep the counts of removed strategies until the end of the day: they may be added again.
        tally.used = {name: used for name, used in tally.used.items() if used.within("daily", now)}
        tally.used.setdefault(credit.strategy.name, Used()).take(now)
        tally.in_batch = tally.in_batch + 1 if tally.batch == credit.batch else 1
        tally.batch = credit.batch
        return credit

    def _is_full(self, batch: str) -> bool:
        return self._most is not None and self.tally.batch == batch and self.tally.in_batch >= self._most

    def _is_under_limits(self, strategy: Strategy, now: float) -> bool:
        used = self.tally.used.get(strategy.name)
        return used is None or all(used.within(limit.type, now) < limit.value for limit in strategy.limits)


def _matches(strategy: Strategy, objects: Objects, rng: Callable[[], float]) -> bool:
    match strategy:
        case Random():
            return rng() < strategy.traffic_percentage
        case CloseToThreshold():
            names = strategy.selected_class_names
            seen = objects.top if strategy.only_top_classes else objects
            near = seen.count_near(strategy.threshold, strategy.epsilon, names)
            suits = near >= strategy.minimum_objects_close_to_threshold
        case ClassesBased():
            suits = objects.top.count(strategy.selected_class_names) > 0
        case DetectionsNumberBased():
            count = objects.count(strategy.selected_class_names)
            more, less = strategy.more_than, strategy.less_than
            fits = (more is None or count > more) and (less is None or count < less)
            suits = fits and not objects.classify  # a frame has no number of classes
        case _:
            assert_never(strategy)
    return suits and rng() < strategy.probability
