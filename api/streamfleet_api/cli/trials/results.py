"""The results of trying a model on one frame, in lines for people and as a document for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamfleet_api.cli.tables import counted

MAX_SHOWN = 20  # objects of one frame
_STEPS = ("decode", "scale", "inference", "read", "wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One frame of one file, or why there is none."""

    file: str
    frame: int = 1
    is_film: bool = False
    width: int = 0  # pixels
    height: int = 0
    predictions: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step
    picture: Path | None = None  # with what was found
    error: str = ""

    @property
    def shown_error(self) -> str:
        """The error with the name of the file."""
        return self.error if Path(self.file).name in self.error else f"{self.file}: {self.error}"

    def document(self) -> dict[str, Any]:
        """For programs."""
        if self.error:
            return {"file": self.file, "error": self.error}
        return {
            "file": self.file,
            "frame": self.frame,
            "image": {"width": self.width, "height": self.height},
            "predictions": list(self.predictions),
            "seconds": {name: round(value, 6) for name, value in self.seconds.items()},
            "picture": None if self.picture is None else str(self.picture),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        frame = f" frame {self.frame}" if self.is_film else ""
        is_whole = any("x" not in prediction for prediction in self.predictions)
        kind = ("class", "classes") if is_whole else ("object", "objects")
        found = counted(len(self.predictions), *kind)
        yield f"{self.file}{frame}, {self.width}x{self.height}: {found}"
        for prediction in self.predictions[:MAX_SHOWN]:
            yield f"  {prediction_text(prediction)}"
        if len(self.predictions) > MAX_SHOWN:
            yield f"  … and {len(self.predictions) - MAX_SHOWN} more"
        if self.seconds:
            yield f"  {steps_text(self.seconds)}"
        if self.picture is not None:
            yield f"  {self.picture}"


def steps_text(seconds: Mapping[str, float]) -> str:
    """The time of each step."""
    parts = [f"{name} {seconds[name] * 1000:.1f} ms" for name in _STEPS if name in seconds]
    return ", ".join(parts)


def prediction_text(prediction: Mapping[str, Any]) -> str:
    """One object: its class, how sure the model is, and where it is."""
    text = f"{prediction.get('class', '?')} {_number(prediction, 'confidence'):.2f}"
    if "x" not in prediction:  # the class of a whole picture has no place
        return text
    x, y, width, height = (_number(prediction, name) for name in ("x", "y", "width", "height"))
    turned = f", turned by {_number(prediction, 'rotation'):.0f}°" if "rotation" in prediction else ""
    return f"{text} at {x:.0f},{y:.0f}, {width:.0f}x{height:.0f}{turned}"


def _number(prediction: Mapping[str, Any], name: str) -> float:
    value = prediction.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
