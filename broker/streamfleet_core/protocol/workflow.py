"""Translates a workflow to a pipeline: an object-detection model, optionally a tracker, and outputs. Pure.

    inputs ($inputs.image, $inputs.NAME)  →  model  →  tracker  →  pictures with boxes, counts
                                               └──────────┴→  outputs ($steps.NAME.PROPERTY)

The API runs it on a device of the fleet, the library in the user's program. An unsupported step is refused by
its name: nothing is ignored silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamfleet_core.protocol.limits import MAX_OBJECTS
from streamfleet_core.protocol.source_reference import brief
from streamfleet_core.protocol.values import Tracker

MAX_OUTPUTS = 64

# The content of an output for one frame.
Content = Literal["predictions", "inference_id", "model_id", "detection", "tracking", "picture", "count"]

_DETECTION = re.compile(
    r"roboflow_core/roboflow_object_detection_model@v[123]|RoboflowObjectDetectionModel|ObjectDetectionModel"
)
_TRACKING = re.compile(r"roboflow_core/byte_tracker@v[123]|ByteTracker")
_DRAWING = re.compile(r"roboflow_core/[a-z0-9_]+_visualization@v[0-9]+|[A-Za-z]+Visualization")
_COUNTING = re.compile(r"roboflow_core/property_definition@v1|PropertyDefinition")
_IMAGES = frozenset({"InferenceImage", "WorkflowImage"})
_SELECTOR = re.compile(r"\$(inputs|steps)\.([^.\s]+)(?:\.([^.\s]+))?")
_SERVED = "one object-detection model, a byte tracker after it, visualizations, and counts of what was found"

# The content of each property of a step, for one frame.
_OF_DETECTION: dict[str, Content] = {
    "predictions": "predictions",
    "inference_id": "inference_id",
    "model_id": "model_id",
    "*": "detection",
}
_OF_TRACKING: dict[str, Content] = {"tracked_detections": "predictions", "*": "tracking"}

Step = Mapping[str, Any]


class BadWorkflow(Exception):
    """A workflow that no pipeline can run. The text names the part, what was expected, and what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtering:
    """Filter of detections. None: the default of the device."""

    confidence: float | None = None
    iou_threshold: float | None = None
    class_agnostic_nms: bool | None = None
    max_candidates: int | None = None
    max_detections: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a workflow, with the name from its author."""

    name: str
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow, translated to the parts of a pipeline."""

    model_id: str
    filtering: Filtering = field(default_factory=Filtering)
    classes: tuple[str, ...] | None = None  # the only classes in results; None: all
    tracker: Tracker | None = None
    learns: bool | None = None  # whether frames are kept for labelling; None: the default of the API
    dataset: str | None = None  # for these frames; None: the project of the model
    outputs: tuple[Output, ...] = (Output("predictions", "predictions"),)


def read(
    specification: Mapping[str, Any], parameters: Mapping[str, Any] | None = None, *, image: str = "image"
) -> Workflow:
    """Read a specification. `image` names the input for the frame. Raises: BadWorkflow."""
    wrapped = specification.get("specification")
    if isinstance(wrapped, dict):  # as older Roboflow clients send it
        specification = wrapped
    inputs = _Inputs.of(specification, parameters or {}, image)
    steps = _named(specification, "steps")
    for name, step in steps.items():
        _check_step(name, step)
    detector, tracker = _one_model(steps), _at_most_one_tracker(steps)
    inputs.check_image(detector, "images", steps[detector])
    if tracker is not None:
        _check_tracker(tracker, steps[tracker], detector)
    found = {name for name, content in _properties(detector, tracker).items() if content == "predictions"}
    counts = _of_type(steps, _COUNTING)
    for name in counts:
        _check_count(name, steps[name], found)
    return Workflow(
        model_id=inputs.text(steps[detector], detector, "model_id"),
        filtering=_filtering(inputs, detector, steps[detector]),
        classes=inputs.texts(steps[detector], detector, "class_filter"),
        tracker=None if tracker is None else "bytetrack",
        learns=inputs.of_step(steps[detector], detector, "disable_active_learning") is False,
        dataset=inputs.text_or_none(steps[detector], detector, "active_learning_target_dataset"),
        outputs=_outputs(
            specification, _properties(detector, tracker, drawings=_of_type(steps, _DRAWING), counts=counts)
        ),
    )


def checked(filtering: Filtering, where: str) -> Filtering:
    """Validate the values, and return them. Raises: BadWorkflow."""
    for name in ("confidence", "iou_threshold"):
        value = getattr(filtering, name)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise _mismatch(f"{where}.{name}", "a number from 0 to 1", value)
    for name in ("max_candidates", "max_detections"):
        value = getattr(filtering, name)
        if value is not None and not (_is_whole(value) and 1 <= value <= MAX_OBJECTS):
            raise _mismatch(f"{where}.{name}", f"a whole number from 1 to {MAX_OBJECTS}", value)
    if not isinstance(filtering.class_agnostic_nms, bool | None):
        raise _mismatch(f"{where}.class_agnostic_nms", "true or false", filtering.class_agnostic_nms)
    return filtering


# steps ----------------------------------------------------------------------------------------------------


def _named(specification: Mapping[str, Any], part: str) -> dict[str, Step]:
    """The steps or inputs by name."""
    given = specification.get(part)
    if not isinstance(given, list):
        raise _mismatch(part, "a list", given)
    named: dict[str, Step] = {}
    for number, each in enumerate(given):
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not isinstance(each.get("type"), str):
            raise _mismatch(f"{part}.{number}", "an object with a name and a type", each)
        if name in named:
            raise BadWorkflow(f"expected {part} each under its own name, got {brief(name)} twice")
        named[name] = each
    return named


def _of_type(steps: Mapping[str, Step], kind: re.Pattern[str]) -> list[str]:
    return [name for name, step in steps.items() if kind.fullmatch(step["type"])]


def _check_step(name: str, step: Step) -> None:
    """Check that a pipeline supports this step, and that it runs for every frame."""
    which = f"step {brief(name)} of type {brief(step['type'])} cannot be served"
    if not any(kind.fullmatch(step["type"]) for kind in (_DETECTION, _TRACKING, _DRAWING, _COUNTING)):
        raise BadWorkflow(f"{which}; expected {_SERVED}")
    if step.get("next_steps"):
        raise BadWorkflow(f"{which}: expected no next_steps")


def _one_model(steps: Mapping[str, Step]) -> str:
    models = _of_type(steps, _DETECTION)
    if len(models) != 1:
        raise BadWorkflow(f"expected one step that is an object-detection model, got {len(models)}")
    return models[0]


def _at_most_one_tracker(steps: Mapping[str, Step]) -> str | None:
    trackers = _of_type(steps, _TRACKING)
    if len(trackers) > 1:
        raise BadWorkflow(f"expected at most one step that is a tracker, got {len(trackers)}")
    return trackers[0] if trackers else None


def _check_tracker(name: str, step: Step, detector: str) -> None:
    given = step.get("detections", step.get("predictions"))
    if given != f"$steps.{detector}.predictions":
        raise _mismatch(f"steps.{name}.detections", f"'$steps.{detector}.predictions'", given)


def _check_count(name: str, step: Step, found: set[str]) -> None:
    if step.get("data") not in found:
        raise _mismatch(f"steps.{name}.data", f"one of {', '.join(sorted(found))}", step.get("data"))
    if step.get("operations") != [{"type": "SequenceLength"}]:
        raise _mismatch(f"steps.{name}.operations", "[{'type': 'SequenceLength'}]", step.get("operations"))


def _filtering(inputs: _Inputs, name: str, step: Step) -> Filtering:
    def value(parameter: str) -> Any:
        return inputs.of_step(step, name, parameter)

    confidence = value("confidence")
    if step["type"].endswith("@v3"):  # v3 has two parameters, and defaults to "best"
        confidence = value("custom_confidence") if value("confidence_mode") == "custom" else None
    filtering = Filtering(
        confidence=confidence,
        iou_threshold=value("iou_threshold"),
        class_agnostic_nms=value("class_agnostic_nms"),
        max_candidates=value("max_candidates"),
        max_detections=value("max_detections"),
    )
    return checked(filtering, f"steps.{name}")


# inputs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The values of input selectors."""

    image: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, specification: Mapping[str, Any], parameters: Mapping[str, Any], image: str) -> _Inputs:
        """Read the declared inputs, with the given values or their defaults."""
        declared = _named(specification, "inputs")
        if image not in declared or declared[image]["type"] not in _IMAGES:
            raise BadWorkflow(f"expected an input {brief(image)} that is an image: it is image_input_name")
        values = {name: each["default_value"] for name, each in declared.items() if "default_value" in each}
        return cls(image, {**values, **parameters})

    def value(self, given: Any, where: str) -> Any:
        """Resolve a value, which may be a selector."""
        if not isinstance(given, str) or not given.startswith("$"):
            return given
        found = _SELECTOR.fullmatch(given)
        if found is None or found[1] != "inputs" or found[3] is not None:
            raise _mismatch(where, "a value, or '$inputs.NAME'", given)
        if found[2] not in self.values:
            raise BadWorkflow(
                f"{where}: expected a value of {brief(given)} in workflows_parameters, or its default_value"
            )
        return self.values[found[2]]

    def of_step(self, step: Step, name: str, parameter: str) -> Any:
        """A parameter of a step; None if it is missing."""
        return self.value(step.get(parameter), f"steps.{name}.{parameter}")

    def text(self, step: Step, name: str, parameter: str) -> str:
        """A required text parameter."""
        value = self.text_or_none(step, name, parameter)
        if value is None:
            raise _mismatch(f"steps.{name}.{parameter}", "a text", value)
        return value

    def text_or_none(self, step: Step, name: str, parameter: str) -> str | None:
        """An optional text parameter."""
        value = self.of_step(step, name, parameter)
        if value is not None and (not isinstance(value, str) or not value):
            raise _mismatch(f"steps.{name}.{parameter}", "a text", value)
        return value

    def texts(self, step: Step, name: str, parameter: str) -> tuple[str, ...] | None:
        """An optional parameter that is a list of texts."""
        value = self.of_step(step, name, parameter)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _mismatch(f"steps.{name}.{parameter}", "a list of texts", value)
        return tuple(value)

    def check_image(self, name: str, parameter: str, step: Step) -> None:
        """Check that the model gets whole frames."""
        given = step.get(parameter, step.get("image"))
        if given not in (f"$inputs.{self.image}", [f"$inputs.{self.image}"]):
            raise _mismatch(f"steps.{name}.{parameter}", f"'$inputs.{self.image}'", given)


# outputs --------------------------------------------------------------------------------------------------


def _outputs(specification: Mapping[str, Any], properties: Mapping[str, Content]) -> tuple[Output, ...]:
    given = specification.get("outputs")
    if not isinstance(given, list) or not given or len(given) > MAX_OUTPUTS:
        raise _mismatch("outputs", f"a list of 1 to {MAX_OUTPUTS}", given)
    names: set[str] = set()
    outputs = []
    for number, each in enumerate(given):
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise _mismatch(f"outputs.{number}", "an object with a name and a selector", each)
        name, selector = each["name"], each.get("selector")
        if name in names:
            raise BadWorkflow(f"expected outputs each under its own name, got {brief(name)} twice")
        if not isinstance(selector, str) or selector not in properties:
            raise _mismatch(f"outputs.{number}.selector", f"one of {', '.join(properties)}", selector)
        names.add(name)
        outputs.append(Output(name, properties[selector]))
    return tuple(outputs)


def _properties(
    detector: str, tracker: str | None, *, drawings: Sequence[str] = (), counts: Sequence[str] = ()
) -> dict[str, Content]:
    """The selectable properties and their content."""
    known = {f"$steps.{detector}.{name}": content for name, content in _OF_DETECTION.items()}
    if tracker is not None:
        known |= {f"$steps.{tracker}.{name}": content for name, content in _OF_TRACKING.items()}
    known |= {f"$steps.{name}.image": "picture" for name in drawings}
    return known | {f"$steps.{name}.output": "count" for name in counts}


# values ---------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _mismatch(where: str, expected: str, got: Any) -> BadWorkflow:
    return BadWorkflow(f"expected {_cut(where, 80)} as {_cut(expected, 400)}, got {brief(got)}")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
