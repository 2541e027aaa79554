"""Two models on the same pictures: where they disagree, the worst pictures first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfleet_api.cli.tables import counted
from streamfleet_api.cli.trials.known_models import TriableModel, Tried
from streamfleet_core.models.agreement import Agreement, Box, FrameAgreement, compare

NOTED_SHIFT = 0.1  # of a confidence: smaller ones are in the mean only
_LINES = 8  # of one picture
_CLASSIFIES = "classification"  # the task of the library that finds no objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What two models found in one picture."""

    file: Path
    name: str  # for people and programs; the file of a sample is gone when the command ends
    found: FrameAgreement
    error: str = ""  # why the picture cannot be read

    def document(self) -> dict[str, Any]:
        """For programs."""
        if self.error:
            return {"file": self.name, "error": self.error}
        found = self.found
        return {
            "file": self.name,
            "disagreement": round(found.disagreement, 4),
            "only_first": [_box(box) for box in found.only_first],
            "only_second": [_box(box) for box in found.only_second],
            "other_class": [
                {"first": _box(pair.first), "second": _box(pair.second)} for pair in found.other_class
            ],
            "shifts": [
                {**_box(pair.first), "shift": round(pair.shift, 4)} for pair in found.pairs if pair.same_class
            ],
        }

    def lines(self) -> Iterator[str]:
        """For people. The models are A and B."""
        yield f"{self.name}: {self.found.disagreement:.2f}"
        lines = list(self._differences())
        yield from (f"  {line}" for line in lines[:_LINES])
        if len(lines) > _LINES:
            yield f"  … and {len(lines) - _LINES} more"

    def _differences(self) -> Iterator[str]:
        for box in self.found.only_first:
            yield f"only A: {_text(box)}"
        for box in self.found.only_second:
            yield f"only B: {_text(box)}"
        for pair in self.found.other_class:
            yield f"other class: A {_text(pair.first)}, B {pair.second.label} {pair.second.confidence:.2f}"
        for pair in self.found.pairs:
            if pair.same_class and abs(pair.shift) >= NOTED_SHIFT:
                yield f"confidence: A {_text(pair.first)}, B {pair.second.confidence:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on this machine. `rules`: thresholds of both; `min_iou`: of boxes that are one object.

    Pictures in the folder `samples` are named as there, all others by their path.
    """

    first: TriableModel
    second: TriableModel
    min_iou: float
    rules: Mapping[str, Any]
    samples: Path

    def check(self) -> None:
        """Raises: ValueError if one model finds objects, and the other classifies pictures."""
        first, second = self.first.task_type, self.second.task_type
        if (first == _CLASSIFIES) is not (second == _CLASSIFIES):
            raise ValueError(
                f"expected two models that find objects, or two that classify pictures, got "
                f"{first} and {second}"
            )

    def on(self, files: Sequence[Path]) -> Iterator[Compared]:
        """Yield how the models agree on each picture."""
        for file in files:
            name = file.name if file.parent == self.samples else str(file)
            try:
                first, second = self._try(file)
            except (ValueError, RuntimeError) as exc:
                yield Compared(file=file, name=name, found=FrameAgreement(), error=str(exc))
                continue
            found = compare(boxes_of(first.document), boxes_of(second.document), min_iou=self.min_iou)
            yield Compared(file=file, name=name, found=found)

    def side_by_side(self, file: Path) -> bytes:
        """A JPEG with what each model finds in a picture. Raises: ValueError, RuntimeError."""
        first, second = self._try(file)
        return first.jpeg(beside=second)

    def _try(self, file: Path) -> tuple[Tried, Tried]:
        first, second = (next(model.try_file(file, **self.rules)) for model in (self.first, self.second))
        return first, second


def boxes_of(document: Mapping[str, Any]) -> list[Box]:
    """The boxes of Roboflow's dict. A classification is one box over the whole picture, of its top class."""
    predictions = document["predictions"]
    if predictions and "x" not in predictions[0]:
        top = max(predictions, key=lambda prediction: _finite(prediction["confidence"]))
        place = {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0}
        return [Box(**place, label=str(top["class"]), confidence=_finite(top["confidence"]))]
    boxes = []
    for prediction in predictions:
        x, y, width, height, confidence = (
            float(prediction[name]) for name in ("x", "y", "width", "height", "confidence")
        )
        if all(map(math.isfinite, (x, y, width, height, confidence))):
            boxes.append(
                Box(
                    left=x - width / 2,
                    top=y - height / 2,
                    right=x + width / 2,
                    bottom=y + height / 2,
                    label=str(prediction["class"]),
                    confidence=confidence,
                )
            )
    return boxes


def summary_lines(total: Agreement, first: str, second: str) -> Iterator[str]:
    """How far both models, A and B, agree on all pictures."""
    shift = "unknown" if total.mean_shift is None else f"{total.mean_shift:+.3f} in B, on average"
    yield counted(total.frames, "picture", "pictures")
    yield f"  A           {first}: {counted(total.first_boxes, 'object', 'objects')}"
    yield f"  B           {second}: {counted(total.second_boxes, 'object', 'objects')}"
    yield f"  B finds     {_percent(total.matched_share)} of the objects of A"
    yield f"  A finds     {_percent(total.confirmed_share)} of the objects of B"
    yield f"  same class  {_percent(total.class_agreement)} of those that both find"
    yield f"  confidence  {shift}"
    blind = counted(total.blind_frames, "picture", "pictures")
    yield f"  blind       {blind} in which only A finds something"


def summary_document(total: Agreement) -> dict[str, Any]:
    """The same for programs."""
    return {
        "frames": total.frames,
        "first_boxes": total.first_boxes,
        "second_boxes": total.second_boxes,
        "matched": total.matched,
        "same_class": total.same_class,
        "blind_frames": total.blind_frames,
        "matched_share": total.matched_share,
        "confirmed_share": total.confirmed_share,
        "class_agreement": total.class_agreement,
        "f1": total.f1,
        "mean_shift": total.mean_shift,
        "mean_iou": total.mean_iou,
    }


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{share:.1%}".replace("%", " %")


def _text(box: Box) -> str:
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return f"{box.label} {box.confidence:.2f} at {x:.0f},{y:.0f}"


def _box(box: Box) -> dict[str, Any]:
    return {
        "class": box.label,
        "confidence": round(box.confidence, 4),
        "x": round((box.left + box.right) / 2, 1),
        "y": round((box.top + box.bottom) / 2, 1),
        "width": round(box.right - box.left, 1),
        "height": round(box.bottom - box.top, 1),
    }


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0
