"""Roboflow's active learning: its settings, and the default sampling. Pure.

Unlike Roboflow's it is off by default: no frame is kept without an explicit setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from streamfleet_core.protocol.sampling import Batching, CloseToThreshold, Limit, Random, Sampling, Tags

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


# What Roboflow's configuration of a project calls what a pipeline's sampling has by other names.
_NAMES = {"sampling_strategies": "strategies", "batching_strategy": "batching", "target_project": "dataset"}
_UNUSED = ("enabled", "target_workspace")


def in_our_words(given: Any) -> Any:
    """A sampling as `/v2` has it, of one in the words of Roboflow's active learning. None: it is not enabled.

    What is said in both words stays, so that it is refused.
    """
    if not isinstance(given, dict) or not any(name in given for name in (*_NAMES, *_UNUSED)):
        return given
    if given.get("enabled", True) is False:
        return None
    return {
        name if (ours := _NAMES.get(name, name)) != name and ours in given else ours: value
        for name, value in given.items()
        if name not in _UNUSED or (name == "enabled" and value is not True)
    }


@dataclass(frozen=True, slots=True)
class ActiveLearning:
    """The default sampling of pipelines whose request leaves it open."""

    enabled: bool = False
    tags: Tags = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ActiveLearning:
        """Read Roboflow's variables. Raises: ValueError with the name of the variable."""
        enabled = environment.get("ACTIVE_LEARNING_ENABLED") or "False"
        if enabled.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"expected ACTIVE_LEARNING_ENABLED as True or False, got {enabled!r}")
        tags = [tag.strip() for tag in environment.get("ACTIVE_LEARNING_TAGS", "").split(",")]
        try:
            known: tuple[str, ...] = msgspec.convert([tag for tag in tags if tag], Tags)
        except msgspec.ValidationError as exc:
            raise ValueError(f"expected ACTIVE_LEARNING_TAGS as texts between commas: {exc}") from exc
        return cls(enabled.lower() in ("true", "1"), known)

    def sampling(self, wanted: bool | None, dataset: str) -> Sampling | None:
        """The sampling of a pipeline that enables it, disables it or leaves it open (None)."""
        enabled = self.enabled if wanted is None else wanted
        return (
            Sampling(dataset=dataset, strategies=_STRATEGIES, batching=_BATCHING, tags=self.tags)
            if enabled
            else None
        )
