"""Sampling: which frames a device keeps for labelling.

The fields of strategies, limits and batches are Roboflow's, so that a configuration can be reused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamfleet_core.protocol.limits import (
    ID_PATTERN,
    MAX_BATCH,
    MAX_CLASS_NAME,
    MAX_OBJECTS,
    MAX_PIXELS,
    MAX_QUALITY,
    MAX_SAMPLE_LIMITS,
    MAX_SAMPLES,
    MAX_SELECTED_CLASSES,
    MAX_STRATEGIES,
    MAX_TAGS,
    MIN_PIXELS,
    SAMPLE_NAME_PATTERN,
    SHORT_TEXT_PATTERN,
    whole,
)

Dataset = Annotated[str, Meta(pattern=whole(ID_PATTERN))]
# `<captured unix ms>-<pipeline id>-<source>-<frame id>`: the only texts that are used as file names.
SampleName = Annotated[str, Meta(pattern=whole(SAMPLE_NAME_PATTERN))]
# Texts for users: tags, names of strategies, prefixes of batches.
Text = Annotated[str, Meta(pattern=whole(SHORT_TEXT_PATTERN))]
ClassName = Annotated[str, Meta(min_length=1, max_length=MAX_CLASS_NAME)]
Share = Annotated[float, Meta(ge=0, le=1)]
Pixels = Annotated[int, Meta(ge=MIN_PIXELS, le=MAX_PIXELS)]
Count = Annotated[int, Meta(ge=0, le=MAX_OBJECTS)]

Tags = Annotated[tuple[Text, ...], Meta(max_length=MAX_TAGS)]
ClassNames = Annotated[tuple[ClassName, ...], Meta(min_length=1, max_length=MAX_SELECTED_CLASSES)]
Window = Literal["minutely", "hourly", "daily"]
Interval = Literal["never", "daily", "weekly", "monthly"]


# strategies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit for the samples in each minute, hour or day of UTC."""

    type: Window
    value: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)]


Limits = Annotated[tuple[Limit, ...], Meta(max_length=MAX_SAMPLE_LIMITS)]


# A tagged union needs msgspec's Structs: dataclasses do not support it.
class _Strategy(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The common fields of all strategies."""

    name: Text
    limits: Limits = ()
    tags: Tags = ()

    def __post_init__(self) -> None:
        if problem := duplicate_problem("limit", [limit.type for limit in self.limits]):
            raise ValueError(problem)


class Random(_Strategy, frozen=True, kw_only=True, tag="random"):
    """Any frame, with a fixed probability."""

    traffic_percentage: Share  # 0…1; Roboflow's name


class CloseToThreshold(_Strategy, frozen=True, kw_only=True, tag="close_to_threshold"):
    """Frames with uncertain objects: |confidence - threshold| < epsilon for enough of them."""

    threshold: Share
    epsilon: Share
    probability: Share = 1.0
    selected_class_names: ClassNames | None = None  # None: all
    only_top_classes: bool = True  # for classifications; objects of a detection have only one class
    minimum_objects_close_to_threshold: Annotated[int, Meta(ge=1, le=MAX_OBJECTS)] = 1


class ClassesBased(_Strategy, frozen=True, kw_only=True, tag="classes_based"):
    """Frames with an object of one of these classes. (Roboflow: only for classifications.)"""

    selected_class_names: ClassNames
    probability: Share = 1.0


class DetectionsNumberBased(_Strategy, frozen=True, kw_only=True, tag="detections_number_based"):
    """Frames with more than `more_than` and fewer than `less_than` objects."""

    more_than: Count | None = None
    less_than: Count | None = None
    selected_class_names: ClassNames | None = None  # None: all
    probability: Share = 1.0

    def __post_init__(self) -> None:
        _Strategy.__post_init__(self)
        if problem := range_problem(self.more_than, self.less_than):
            raise ValueError(problem)


Strategy = Random | CloseToThreshold | ClassesBased | DetectionsNumberBased


@dataclass(frozen=True, slots=True)
class Batching:
    """Rule that groups samples into batches for labelling."""

    batches_name_prefix: Text = "samples"
    recreation_interval: Interval = "never"  # in UTC; weeks start on Monday
    max_batch_images: Annotated[int, Meta(ge=1, le=MAX_BATCH)] | None = None  # None: unlimited


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Choice of the frames that are kept for labelling. A pipeline without it keeps none.

    The first strategy that matches a frame and is under all of its limits takes it.
    """

    dataset: Dataset
    strategies: Annotated[tuple[Strategy, ...], Meta(min_length=1, max_length=MAX_STRATEGIES)]
    batching: Batching = field(default_factory=Batching)
    max_image_size: tuple[Pixels, Pixels] | None = None  # height and width; None: unchanged
    jpeg_compression_level: Annotated[int, Meta(ge=1, le=MAX_QUALITY)] = 95  # the quality; Roboflow's name
    tags: Tags = ()  # of every sample, before the tags of its strategy
    persist_predictions: bool = True

    def __post_init__(self) -> None:
        if problem := duplicate_problem("strategy", [strategy.name for strategy in self.strategies]):
            raise ValueError(problem)


def duplicate_problem(what: str, names: list[Any]) -> str:
    """Describe the problem with names that must be unique; "" if there is none."""
    again = next((name for number, name in enumerate(names) if name in names[:number]), None)
    return "" if again is None else f"expected each {what} once, got {again!r} twice"


def range_problem(more_than: int | None, less_than: int | None) -> str:
    """Describe the problem with these bounds of a whole number; "" if there is none."""
    if more_than is None and less_than is None:
        return "expected more_than, less_than or both, got neither"
    if less_than is not None and less_than - (-1 if more_than is None else more_than) < 2:
        return f"expected a number above more_than and below less_than, got {more_than} and {less_than}"
    return ""
