"""What a step of the check has found. Only Python is needed: it runs before anything is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "FAILED", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one step."""

    verdict: Verdict
    found: str  # one line
    figures: dict[str, float | str | None] = field(default_factory=dict)

    def line(self, name: str) -> str:
        """For people: its figures are below it."""
        return "\n".join([f"{self.verdict:8} {name:12} {self.found}", *self._figures()])

    def _figures(self) -> list[str]:
        return [f"{'':21} {name}: {_shown(value)}" for name, value in self.figures.items()]


def ok(found: str, figures: Mapping[str, float | str | None] | None = None) -> Outcome:
    """It is as expected."""
    return Outcome("ok", _one_line(found), dict(figures or {}))


def failed(found: str, figures: Mapping[str, float | str | None] | None = None) -> Outcome:
    """It is not."""
    return Outcome("FAILED", _one_line(found), dict(figures or {}))


def skipped(why: str) -> Outcome:
    """It could not be looked at."""
    return Outcome("skipped", _one_line(why))


def write(path: Path, outcome: Outcome) -> None:
    """Write it, complete or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(outcome)))
    draft.replace(path)


def read(path: Path) -> Outcome | None:
    """Read it; None if the step has written none."""
    return Outcome(**json.loads(path.read_text())) if path.exists() else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: float | str | None) -> str:
    return "unknown" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
