"""Variants of a model for people: those that it has, and those that were just measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streamfleet_api.cli.tables import Table, size
from streamfleet_core.protocol.tasks.optimisation import Outcome, Trial
from streamfleet_core.protocol.values import Variant, Weights

_HEADER = ("variant", "ms", "speed-up", "agreement", "classes", "shift", "blind", "size", "verdict")


def variant_lines(variants: Sequence[Variant]) -> Iterator[str]:
    """Each variant in a line."""
    for each in variants:
        figures = f"{each.speedup:.2f} times as fast, agreement {each.agreement:.3f}"
        yield f"{each.precision} for {each.board}: {figures}, {size(each.weights.size)}"


def outcome_table(outcome: Outcome, weights: Weights) -> Table:
    """The model itself, and what was built of it."""
    winner = outcome.winner
    own = f"{outcome.ms:.2f}" if outcome.trials else ""
    rows: list[Sequence[str]] = [("the model", own, "1.00", "", "", "", "", size(weights.size), "")]
    rows += [_row(trial, "the best" if trial is winner else trial.refusal) for trial in outcome.trials]
    rows += [(each.precision, *[""] * 7, f"not built: {each.reason}") for each in outcome.failed]
    return Table(_HEADER, rows, "verdict")


def outcome_document(outcome: Outcome, *, registered: bool, updated: Sequence[str]) -> dict[str, Any]:
    """The same for programs."""
    plain: dict[str, Any] = msgspec.to_builtins(outcome)
    for trial in plain["trials"]:
        del trial["path"]
    winner = outcome.winner
    return {
        **plain,
        "winner": winner.precision if winner else None,
        "registered": registered,
        "updated": list(updated),
    }


def _row(trial: Trial, verdict: str) -> tuple[str, ...]:
    return (
        trial.precision,
        f"{trial.ms:.2f}",
        f"{trial.speedup:.2f}",
        _share(trial.agreement),
        _share(trial.class_agreement),
        "" if trial.shift is None else f"{trial.shift:+.3f}",
        str(trial.blind_frames),
        size(trial.weights.size),
        verdict or "good, but not the fastest",
    )


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"
