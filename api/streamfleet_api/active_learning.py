"""The original's `active_learning_enabled`: what is kept for labelling when nobody says which frames. Pure.

Unlike the original's it is off where nobody says anything: no picture is kept that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from streamfleet_broker.protocol.samples import Batching, CloseToThreshold, Limit, Random, Sampling, Tags

# At most 144 pictures a day of one pipeline, most of them of what its model is not sure of.
_STRATEGIES = (
    CloseToThreshold(
        name="unsure",
        threshold=0.5,
        epsilon=0.1,
        limits=(Limit("minutely", 1), Limit("hourly", 10), Limit("daily", 96)),
    ),
    Random(
        name="random",
        traffic_percentage=0.01,
        limits=(Limit("minutely", 1), Limit("hourly", 4), Limit("daily", 48)),
    ),
)
_BATCHING = Batching("samples", "daily")


@dataclass(frozen=True, slots=True)
class ActiveLearning:
    """What holds for pipelines whose request does not say."""

    enabled: bool = False
    tags: Tags = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ActiveLearning:
        """By the original's variables. Raises: ValueError with the name of the variable."""
        enabled = environment.get("ACTIVE_LEARNING_ENABLED") or "False"
        if enabled.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"expected ACTIVE_LEARNING_ENABLED as True or False, came {enabled!r}")
        tags = [tag.strip() for tag in environment.get("ACTIVE_LEARNING_TAGS", "").split(",")]
        try:
            known: tuple[str, ...] = msgspec.convert([tag for tag in tags if tag], Tags)
        except msgspec.ValidationError as exc:
            raise ValueError(f"expected ACTIVE_LEARNING_TAGS as texts between commas: {exc}") from exc
        return cls(enabled.lower() in ("true", "1"), known)

    def sampling(self, wanted: bool | None, dataset: str) -> Sampling | None:
        """For a pipeline that wants it, does not, or says nothing (None). None: no frame is kept."""
        enabled = self.enabled if wanted is None else wanted
        return Sampling(dataset, _STRATEGIES, _BATCHING, tags=self.tags) if enabled else None
