"""Parses the arguments of Roboflow's classes: post-processing, sources, the model, the tracker, sinks."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from streamfleet_core.protocol.limits import MAX_CORNERS, MIN_CORNERS
from streamfleet_core.protocol.source_reference import expected_instead, reference_of, sanitised
from streamfleet_core.protocol.values import (
    TRACKERS,
    ClassNames,
    Consumption,
    DecoderChoice,
    Filling,
    Motion,
    Region,
    SourceSpec,
)
from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.errors import StreamOperationNotAllowedError
from streamfleet_worker.library.execution.frame_batches import SourcePlan
from streamfleet_worker.library.inference import Function, Inference, ModelFile, ModelObject
from streamfleet_worker.library.settings import Settings
from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.video.detection.package_tracker import package_problem
from streamfleet_worker.video.detection.selection import selection_of, selection_problem
from streamfleet_worker.video.detection.trackers import rules_with_weak

Reference = str | int | Path
Classes = Sequence[str]
Corners = Sequence[Sequence[float]]  # x, y: parts of the width and the height of the picture
MotionRule = bool | Mapping[str, float]  # `sensitivity` and `max_still`; True: their defaults
Properties = Mapping[str, float]
Sink = Callable[[Any, Any], Any]

_CLASSES = "names of classes"
_CORNERS = f"a polygon of {MIN_CORNERS} to {MAX_CORNERS} corners from (0, 0) to (1, 1)"
_MOTION = "True, or sensitivity and max_still"
_MODES = ("auto", "every_frame", "freshest", "legacy")


def rules_of(defaults: PostProcessing, **given: Any) -> PostProcessing:
    """Combine the given values with the defaults for those that are None. Raises: ValueError."""
    rules = PostProcessing(
        **{name: getattr(defaults, name) if value is None else value for name, value in given.items()}
    )
    for name in ("confidence", "iou_threshold"):
        if not 0 <= getattr(rules, name) <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(rules, name)!r}")
    for name in ("max_candidates", "max_detections"):
        if getattr(rules, name) < 1:
            raise ValueError(f"{name}: expected a number above 0, got {getattr(rules, name)!r}")
    return rules


def plans_of(
    references: Reference | Sequence[Reference],
    *,
    settings: Settings,
    max_fps: float | None = None,
    filling: str | enum.Enum | None = None,
    consumption: str | enum.Enum | None = None,
    properties: Properties | Sequence[Properties | None] | None = None,
    buffer_size: int | None = None,
    mode: str | enum.Enum = "auto",
    decoder: str | None = None,
    classes: Classes | Sequence[Classes | None] | None = None,
    region: Corners | Sequence[Corners | None] | None = None,
    motion: MotionRule | Sequence[MotionRule | None] | None = None,
) -> list[SourcePlan]:
    """Build the plan of each source from the arguments. Raises: ValueError, TypeError."""
    several = list(references) if isinstance(references, (list, tuple)) else [references]
    if not several:
        raise ValueError("video_reference: expected at least one source, got none")
    parsed = [_parse_reference(reference) for reference in several]
    if max_fps is not None and max_fps <= 0:
        raise ValueError(f"max_fps: expected a number above 0, got {max_fps!r}")
    processing = _parse_choice("video_processing_mode", mode, _MODES, str.lower) or "auto"
    fill = _parse_choice("source_buffer_filling_strategy", filling, get_args(Filling), str.upper)
    consume = _parse_choice(
        "source_buffer_consumption_strategy", consumption, get_args(Consumption), str.upper
    )
    decodes = _parse_choice("decoder", decoder, get_args(DecoderChoice), str.lower)
    if processing == "every_frame":
        fill, consume = fill or "WAIT", consume or "LAZY"
    count = len(several)
    filters = zip(
        [_checked("classes", each, ClassNames, _CLASSES) for each in _by_source("classes", classes, count)],
        [_checked("region", each, Region, _CORNERS) for each in _by_source("region", region, count)],
        [_motion(each) for each in _by_source("motion", motion, count)],
        strict=True,
    )
    return [
        SourcePlan(
            SourceSpec(
                reference,
                properties=dict(own_properties or {}),
                max_fps=max_fps,
                filling=fill,  # type: ignore[arg-type]
                consumption=consume,  # type: ignore[arg-type]
                decoder=decodes,  # type: ignore[arg-type]
                classes=kept,
                region=place,
                motion=rule,
            ),
            buffer_size=buffer_size or settings.buffer_size,
            native=processing == "freshest",
            strides=settings.strides,
        )
        for reference, own_properties, (kept, place, rule) in zip(
            parsed, _properties(properties, count), filters, strict=True
        )
    ]


def _by_source(name: str, given: Any, count: int) -> list[Any]:
    """What is given for each source: one value for all, or a list of values. Raises: ValueError."""
    if not _is_by_source(given):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name}: expected a list for {count} sources, got one for {len(given)}")
    return list(given)


def _is_by_source(given: Any) -> bool:
    """Whether it is a list of values, each of which is None, a list, a table or a bool."""
    if not isinstance(given, (list, tuple)) or not given:
        return False
    if all(each is None or isinstance(each, (bool, Mapping)) for each in given):
        return True
    lists = [each for each in given if each is not None]
    # A corner is a list of two numbers, and a region one of corners.
    return all(isinstance(each, (list, tuple)) and not _is_corner(each) for each in lists)


def _is_corner(given: Sequence[Any]) -> bool:
    return all(isinstance(each, (int, float)) for each in given)


def _motion(given: Any) -> Motion | None:
    """Raises: ValueError."""
    if given is None or given is False:
        return None
    plain = {} if given is True else given
    unknown = set(plain) - {"sensitivity", "max_still"} if isinstance(plain, Mapping) else set()
    if unknown:
        raise ValueError(f"motion: expected {_MOTION}, got {sorted(map(str, unknown))[0]!r}")
    return cast("Motion | None", _checked("motion", plain, Motion, _MOTION))


def _checked(name: str, given: Any, of: Any, expected: str) -> Any:
    """The value as a source has it; None stays None. Raises: ValueError."""
    if given is None:
        return None
    try:
        return msgspec.convert(given, of)
    except msgspec.ValidationError as exc:
        raise ValueError(f"{name}: expected {expected}: {exc}") from exc


def _parse_reference(reference: object) -> str | int:
    if not isinstance(reference, (str, int, Path)):
        raise TypeError(
            "video_reference: expected a path, a URL, the index of a camera, or a list of them;"
            f" got {type(reference).__name__}"
        )
    if isinstance(reference, Path):
        return str(reference.absolute())  # always a path, even if it looks like a URL
    expected = expected_instead(reference)
    if expected:
        raise ValueError(f"video_reference: expected {expected}, got {sanitised(reference)}")
    return reference_of(reference)


def inference_of(
    model: Any,
    rules: PostProcessing,
    *,
    settings: Settings,
    sources: Sequence[SourceSpec] = (),
    tracking: Tracking | None = None,
    api_key: str | None = None,
) -> Inference:
    """Load the model, or wrap a model object.

    `sources`: what they keep of what it finds. `tracking`: may need more than the rules keep.

    Raises: ValueError, TypeError, and the errors of `load`.
    """
    filtered = any(each.classes or each.region for each in sources)
    if not isinstance(model, (str, Path)):
        if filtered:
            raise ValueError("classes and region: expected a model by its id or path, got an object")
        return Function(ModelObject(model, rules))
    # Imported here: a program with its own model does not need these dependencies.
    from streamfleet_worker.library.models import load

    path, manifest = load(model, cache_dir=settings.cache_dir, api_key=api_key or settings.api_key)
    for each in sources:
        if problem := selection_problem(each, manifest.labels):
            raise ValueError(problem)
    selections = [selection_of(each, manifest.labels) for each in sources] if filtered else ()
    needed = rules_with_weak(rules, None if tracking is None else tracking.name, manifest.task)
    return ModelFile(path, manifest, needed, selections)


def tracking_of(tracker: str | None, model: Any, rules: PostProcessing) -> Tracking | None:
    """Create the tracker, if one is named. Raises: ValueError."""
    name = _parse_choice("tracker", tracker, TRACKERS, str.lower)
    if name is None:
        return None
    if problem := package_problem(cast(TrackerName, name)):
        raise ValueError(problem)
    # Predictions of the user's own model may have a lower confidence, and all of them get ids.
    return Tracking(
        cast(TrackerName, name), confidence=rules.confidence if isinstance(model, (str, Path)) else 0.0
    )


def _parse_choice(
    name: str, given: str | enum.Enum | None, known: Sequence[str], case: Callable[[str], str]
) -> str | None:
    if given is None:
        return None
    word = case(str(given.value if isinstance(given, enum.Enum) else given))
    if word not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {given!r}")
    return word


def _properties(
    given: Properties | Sequence[Properties | None] | None, count: int
) -> Sequence[Properties | None]:
    if given is None or isinstance(given, Mapping):
        return [given] * count
    if len(given) != count:
        raise ValueError(
            f"video_source_properties: expected a list for {count} sources, got one for {len(given)}"
        )
    return given


def sinks_of(given: Sink | Sequence[Sink] | None) -> Sequence[Sink]:
    """The sinks as a sequence."""
    if given is None:
        return ()
    return [given] if callable(given) else list(given)


def source_numbers(source_id: int | str | None, *, count: int) -> range | list[int]:
    """The index of the given source, or of all. An index may be a string, as read from a prompt.

    Raises: StreamOperationNotAllowedError.
    """
    if source_id is None:
        return range(count)
    numbers = {name: number for number in range(count) for name in (number, str(number))}
    if source_id not in numbers:
        raise StreamOperationNotAllowedError(
            f"expected the number of a source from 0 to {count - 1}, got {source_id!r}"
        )
    return [numbers[source_id]]
