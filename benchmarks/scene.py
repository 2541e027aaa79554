"""Live cameras that a benchmark measures together."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"([1-9][0-9]{0,2})x([0-9]{1,3}(?:\.[0-9]{1,3})?)")


@dataclass(frozen=True, slots=True)
class Scene:
    """Cameras of one rate."""

    cameras: int
    fps: float

    def __str__(self) -> str:
        return f"{self.cameras} x {self.fps:g}/s"

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Parse `4x10`. Raises: ValueError."""
        found = _TEXT.fullmatch(text)
        if found is None or float(found[2]) == 0:
            raise ValueError(f"expected cameras x frames/s, as 4x10 or 64x0.5, got {text!r}")
        return cls(int(found[1]), float(found[2]))
