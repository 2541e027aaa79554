"""Which variant may replace a model."""

from __future__ import annotations

import pytest

from streamfleet_core.models.agreement import Agreement
from streamfleet_core.models.optimisation import refusal_of
from streamfleet_core.protocol.tasks.optimisation import Outcome, Trial
from streamfleet_core.protocol.values import Weights


def agreement(
    *, same: int, first: int = 100, second: int = 100, blind: int = 0, shift: float = 0.0
) -> Agreement:
    return Agreement(
        frames=10,
        first_boxes=first,
        second_boxes=second,
        matched=same,
        same_class=same,
        blind_frames=blind,
        mean_shift=shift,
        mean_iou=0.9,
    )


@pytest.mark.parametrize(
    ("found", "speedup", "refusal"),
    [
        (agreement(same=99), 2.0, ""),
        (agreement(same=97), 2.0, "expected an agreement of 0.98, got 0.970"),
        (agreement(same=100, second=120), 2.0, "expected an agreement of 0.98, got 0.909"),
        (agreement(same=99, blind=1), 2.0, "blind on 1 of 10 frames"),
        (agreement(same=0, first=0, second=0), 2.0, "nothing to compare: the model finds nothing"),
        (
            agreement(same=99, shift=-0.08),
            2.0,
            "expected a mean shift of confidence of at most 0.05, got -0.080",
        ),
        (agreement(same=99), 1.01, "not faster"),
    ],
)
def test_a_variant_is_refused_for_the_worst_that_it_does(
    found: Agreement, speedup: float, refusal: str
) -> None:
    assert refusal_of(found, speedup=speedup, least_agreement=0.98) == refusal


def trial(precision: str, ms: float, refusal: str = "") -> Trial:
    return Trial(
        precision=precision,
        path="",
        weights=Weights("0" * 64, 1),
        ms=ms,
        speedup=2,
        agreement=1.0,
        class_agreement=1.0,
        shift=0.0,
        blind_frames=0,
        refusal=refusal,
    )


@pytest.mark.parametrize(
    ("trials", "winner"),
    [
        ((trial("a", 3), trial("b", 2)), "b"),
        ((trial("a", 3), trial("b", 2, "blind on 1 of 10 frames")), "a"),
        ((trial("a", 3, "not faster"),), None),
        ((), None),
    ],
)
def test_the_fastest_of_those_that_are_not_refused_wins(
    trials: tuple[Trial, ...], winner: str | None
) -> None:
    outcome = Outcome(
        board="b",
        provider="CPUExecutionProvider",
        calibrated=8,
        compared=8,
        boxes=1,
        ms=4,
        trials=trials,
    )

    assert (outcome.winner.precision if outcome.winner else None) == winner
