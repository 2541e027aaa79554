"""How fast replays are: what the device has left, and no more."""

from __future__ import annotations

import pytest

from streamfleet_worker.publisher.replay.pacing import (
    BEHIND,
    BUSY_SHARE,
    DELAY,
    FREE_SHARE,
    LATE,
    LEAST,
    MOST,
    PART,
    PART_TIME,
    TRICKLE,
    Network,
    Pacing,
)

FREE, BEHIND_NOW = Network(), Network(unsent=BEHIND + 1)
COST = 50e-6  # CPU seconds of a prediction


def paced(*, cores: int = 2, live: float = 0.0, cost: float = COST) -> Pacing:
    """A pacing that knows what a prediction costs, with so many live ones a second."""
    found = Pacing(cores, now=0.0)
    for second in range(1, 11):
        found.count_live(round(live), now=second)
    for _ in range(1000):
        found.spend(64 * cost, 64)
    return found


def after(pacing: Pacing, *, late: float = 0.0, network: Network = FREE, is_taken: bool = True) -> float:
    """The rate after a long time in which this was so."""
    for _ in range(1000):
        pacing.adapt(late, network, is_taken=is_taken)
    return pacing.rate


def test_a_free_processor_is_used_in_part() -> None:
    assert after(paced(cost=200e-6)) == pytest.approx(FREE_SHARE / 200e-6)


def test_with_the_live_ones_no_more_are_sent_than_the_relay_takes() -> None:
    assert after(paced(cost=10e-6, live=1000)) == pytest.approx(MOST - 1000)


@pytest.mark.parametrize("busy", [{"late": 2 * LATE}, {"is_taken": False}])
@pytest.mark.parametrize(
    ("live", "cores", "expected"),
    [(0, 2, BUSY_SHARE * 2 / COST), (0, 4, BUSY_SHARE * 4 / COST), (1500, 2, 3000)],
)
def test_without_a_free_processor_it_is_a_small_share_of_all_or_twice_the_live_ones(
    busy: dict[str, float], live: float, cores: int, expected: float
) -> None:
    pacing = paced(cores=cores, live=live)

    assert after(pacing, **busy) == pytest.approx(expected)  # type: ignore[arg-type]

    after(pacing)
    assert after(pacing, **busy) == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_slow_processor_replays_slowly_and_at_least_a_few() -> None:
    assert after(paced(cost=0.01), late=1.0) == LEAST
    assert after(paced(cost=0.01)) == LEAST


@pytest.mark.parametrize("network", [BEHIND_NOW, Network(delay=2 * DELAY)])
def test_a_network_that_is_behind_gets_a_trickle_until_it_is_not(network: Network) -> None:
    pacing = paced(live=400)

    assert after(pacing, network=network) == TRICKLE
    assert after(pacing) > 1000


def test_an_answer_takes_no_longer_where_the_rate_is_low() -> None:
    pacing = paced()

    after(pacing, network=BEHIND_NOW)
    assert pacing.part == round(TRICKLE * PART_TIME)
    after(pacing)
    assert pacing.part == PART


def test_a_thread_that_is_late_now_and_then_has_a_processor() -> None:
    pacing = paced()
    for number in range(4000):
        pacing.adapt(2 * LATE if number % 5 == 0 else 0.0, FREE, is_taken=True)

    assert pacing.rate > 0.8 * MOST


def test_no_more_is_handed_over_at_once_than_the_relay_lets_wait() -> None:
    pacing = paced(cost=1e-6)
    after(pacing)

    burst = sum(pacing.take(1000.0) for _ in range(1000))

    assert 1 <= burst <= 64
    assert 31 <= sum(pacing.take(1000.0 + pacing.interval) for _ in range(1000)) <= 33


def test_the_rate_of_live_ones_follows_within_seconds() -> None:
    pacing = paced(live=500)

    assert pacing.live == 500
    pacing.count_live(0, now=60)
    assert pacing.live == 0
