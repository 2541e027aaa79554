"""Pictures worth labelling: which frames a device picks.

The fields of strategies, limits and batches are the original's, so that a configuration can be carried over.
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
# `<captured unix ms>-<pipeline id>-<source>-<frame id>`: the only texts that become names of files.
SampleName = Annotated[str, Meta(pattern=whole(SAMPLE_NAME_PATTERN))]
# What people read and type: tags, strategies, prefixes of batches.
Text = Annotated[str, Meta(pattern=whole(SHORT_TEXT_PATTERN))]
ClassName = Annotated[str, Meta(min_length=1, max_length=MAX_CLASS_NAME)]
Share = Annotated[float, Meta(ge=0, le=1)]
Pixels = Annotated[int, Meta(ge=MIN_PIXELS, le=MAX_PIXELS)]
Count = Annotated[int, Meta(ge=0, le=MAX_OBJECTS)]

Tags = Annotated[tuple[Text, ...], Meta(max_length=MAX_TAGS)]
ClassNames = Annotated[tuple[ClassName, ...], Meta(min_length=1, max_length=MAX_SELECTED_CLASSES)]
Window = Literal["minutely", "hourly", "daily"]
Interval = Literal["never", "daily", "weekly", "monthly"]


# which frames ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many samples in each minute, hour or day of UTC."""

    type: Window
    value: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)]


Limits = Annotated[tuple[Limit, ...], Meta(max_length=MAX_SAMPLE_LIMITS)]


# A union whose members are told apart by a field is what msgspec has Structs for; dataclasses cannot be that.
class _Strategy(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all strategies have in common."""

    name: Text
    limits: Limits = ()
    tags: Tags = ()

    def __post_init__(self) -> None:
        if problem := double("limit", [limit.type for limit in self.limits]):
            raise ValueError(problem)


class Random(_Strategy, frozen=True, kw_only=True, tag="random"):
    """Any frame, with this probability."""

    traffic_percentage: Share  # 0…1, in the original's word


class CloseToThreshold(_Strategy, frozen=True, kw_only=True, tag="close_to_threshold"):
    """Frames of which the model is not sure: |confidence - threshold| < epsilon for enough objects."""

    threshold: Share
    epsilon: Share
    probability: Share = 1.0
    selected_class_names: ClassNames | None = None  # None: all
    only_top_classes: bool = True  # of a classification; every object of a detection has one class only
    minimum_objects_close_to_threshold: Annotated[int, Meta(ge=1, le=MAX_OBJECTS)] = 1


class ClassesBased(_Strategy, frozen=True, kw_only=True, tag="classes_based"):
    """Frames on which there is an object of one of these classes. (The original: of classifications only.)"""

    selected_class_names: ClassNames
    probability: Share = 1.0


class DetectionsNumberBased(_Strategy, frozen=True, kw_only=True, tag="detections_number_based"):
    """Frames with more objects than one figure, and fewer than the other."""

    more_than: Count | None = None
    less_than: Count | None = None
    selected_class_names: ClassNames | None = None  # None: all
    probability: Share = 1.0

    def __post_init__(self) -> None:
        _Strategy.__post_init__(self)
        if problem := empty_range(self.more_than, self.less_than):
            raise ValueError(problem)


Strategy = Random | CloseToThreshold | ClassesBased | DetectionsNumberBased


@dataclass(frozen=True, slots=True)
class Batching:
    """How samples are put together for those who label them."""

    batches_name_prefix: Text = "samples"
    recreation_interval: Interval = "never"  # in UTC; weeks begin on Monday
    max_batch_images: Annotated[int, Meta(ge=1, le=MAX_BATCH)] | None = None  # None: any number


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames of a pipeline are kept for labelling, and as what. A pipeline without one keeps none.

    The first strategy that matches a frame, and is under all of its limits, takes it.
    """

    dataset: Dataset
    strategies: Annotated[tuple[Strategy, ...], Meta(min_length=1, max_length=MAX_STRATEGIES)]
    batching: Batching = field(default_factory=Batching)
    max_image_size: tuple[Pixels, Pixels] | None = None  # height and width; None: as it came
    jpeg_compression_level: Annotated[int, Meta(ge=1, le=MAX_QUALITY)] = (
        95  # the quality, in the original's word
    )
    tags: Tags = ()  # of every sample, before those of its strategy
    persist_predictions: bool = True

    def __post_init__(self) -> None:
        if problem := double("strategy", [strategy.name for strategy in self.strategies]):
            raise ValueError(problem)


def double(what: str, names: list[Any]) -> str:
    """What is wrong with names of which each should be there once; "" when nothing is."""
    again = next((name for number, name in enumerate(names) if name in names[:number]), None)
    return "" if again is None else f"expected each {what} once, got {again!r} twice"


def empty_range(more_than: int | None, less_than: int | None) -> str:
    """What is wrong with these borders of a whole number; "" when nothing is."""
    if more_than is None and less_than is None:
        return "expected more_than, less_than or both, got neither"
    if less_than is not None and less_than - (-1 if more_than is None else more_than) < 2:
        return f"expected a number above more_than and below less_than, got {more_than} and {less_than}"
    return ""
