"""Which frames are kept, over days of virtual time: no limit is ever passed, whatever is restarted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone

import msgspec
import pytest

from streamfleet_core.protocol.sampling import (
    Batching,
    ClassesBased,
    CloseToThreshold,
    DetectionsNumberBased,
    Interval,
    Limit,
    Random,
    Sampling,
    Strategy,
)
from streamfleet_worker.sampling import quota_file as tallies
from streamfleet_worker.sampling.batches import batch_name
from streamfleet_worker.sampling.selection import Objects, Picker, Tally

MIDNIGHT = datetime(2026, 3, 2, tzinfo=timezone.utc).timestamp()  # a Monday
DAY = 86_400
NOTHING = Objects((), ())
EVERY = Random(name="every", traffic_percentage=1)


def picker(*strategies: Strategy, tally: Tally | None = None, seed: int = 1, **batching: object) -> Picker:
    """One whose chances are the same in every run."""
    sampling = Sampling(dataset="parts", strategies=strategies, batching=Batching(**batching))  # type: ignore[arg-type]
    return Picker(sampling, random.Random(seed).random, tally or Tally())


def taken(pick: Picker, objects: Objects, *, now: float = MIDNIGHT, batch: str = "b") -> str | None:
    """The strategy that took this frame."""
    credit = pick.pick(objects, now=now, batch=batch)
    return credit.strategy.name if credit else None


# strategies -----------------------------------------------------------------------------------------------


def test_random_takes_its_share_of_all_frames() -> None:
    pick = picker(Random(name="some", traffic_percentage=0.25))

    count = sum(taken(pick, NOTHING) is not None for _ in range(20_000))

    assert 4700 < count < 5300


@pytest.mark.parametrize(
    ("confidences", "changes", "expected"),
    [
        ((0.55,), {}, True),
        ((0.41,), {}, True),
        ((0.75,), {}, False),  # exactly epsilon away: not less
        ((0.9, 0.1), {}, False),
        ((), {}, False),
        ((0.55, 0.9), {"minimum_objects_close_to_threshold": 2}, False),
        ((0.55, 0.45), {"minimum_objects_close_to_threshold": 2}, True),
        ((0.55,), {"selected_class_names": ("bolt",)}, False),
        ((0.55,), {"selected_class_names": ("nut",)}, True),
    ],
)
def test_close_to_threshold_takes_what_the_model_is_not_sure_of(
    confidences: tuple[float, ...], changes: dict[str, object], expected: bool
) -> None:
    strategy = CloseToThreshold(name="unsure", threshold=0.5, epsilon=0.25, **changes)  # type: ignore[arg-type]
    objects = Objects(("nut",) * len(confidences), confidences)

    assert (taken(picker(strategy), objects) is not None) == expected


@pytest.mark.parametrize(("classes", "expected"), [(("nut",), True), (("bolt",), False), ((), False)])
def test_classes_based_takes_frames_on_which_a_class_is_seen(
    classes: tuple[str, ...], expected: bool
) -> None:
    strategy = ClassesBased(name="nuts", selected_class_names=("nut", "washer"))

    assert (taken(picker(strategy), Objects(classes, (0.9,) * len(classes))) is not None) == expected


@pytest.mark.parametrize(
    ("borders", "counts"),
    [
        ({"more_than": 2}, [3, 4, 5]),
        ({"less_than": 2}, [0, 1]),
        ({"more_than": 1, "less_than": 4}, [2, 3]),
        ({"more_than": 0, "selected_class_names": ("bolt",)}, []),
    ],
)
def test_detections_number_based_takes_counts_between_its_borders(
    borders: dict[str, object], counts: list[int]
) -> None:
    strategy = DetectionsNumberBased(name="count", **borders)  # type: ignore[arg-type]

    assert [
        count
        for count in range(6)
        if taken(picker(strategy), Objects(("nut",) * count, (0.9,) * count)) is not None
    ] == counts


@pytest.mark.parametrize("borders", [{"more_than": 0}, {"less_than": 9}, {"more_than": 0, "less_than": 9}])
def test_detections_number_based_takes_no_classified_pictures(borders: dict[str, int]) -> None:
    strategy = DetectionsNumberBased(name="number", **borders)  # type: ignore[arg-type]
    classified = Objects(("nut",), (0.9,), classify=True)

    assert taken(picker(strategy), classified) is None


@pytest.mark.parametrize(("only_top", "expected"), [(True, False), (False, True)])
def test_close_to_threshold_looks_at_the_top_class_of_a_picture_or_at_all(
    only_top: bool, expected: bool
) -> None:
    strategy = CloseToThreshold(name="unsure", threshold=0.3, epsilon=0.1, only_top_classes=only_top)
    classified = Objects(("nut", "bolt"), (0.7, 0.3), classify=True)

    assert (taken(picker(strategy), classified) is not None) == expected


@pytest.mark.parametrize(("name", "expected"), [("nut", True), ("bolt", False)])
def test_classes_based_looks_at_the_top_class_of_a_picture(name: str, expected: bool) -> None:
    strategy = ClassesBased(name="some", selected_class_names=(name,))
    classified = Objects(("nut", "bolt"), (0.7, 0.3), classify=True)

    assert (taken(picker(strategy), classified) is not None) == expected


def test_a_probability_is_the_share_of_what_matches() -> None:
    pick = picker(ClassesBased(name="nuts", selected_class_names=("nut",), probability=0.5))

    count = sum(taken(pick, Objects(("nut",), (0.9,))) is not None for _ in range(10_000))

    assert 4700 < count < 5300


def test_the_first_that_matches_and_is_under_its_limits_takes_the_frame() -> None:
    first = ClassesBased(name="nuts", selected_class_names=("nut",), limits=(Limit("daily", 2),))
    pick = picker(first, Random(name="every", traffic_percentage=1, limits=(Limit("daily", 2),)))
    nut, bolt = Objects(("nut",), (0.9,)), Objects(("bolt",), (0.9,))

    assert [taken(pick, seen) for seen in (nut, bolt, nut, nut, nut)] == [
        "nuts",
        "every",
        "nuts",
        "every",
        None,
    ]


# limits and batches ---------------------------------------------------------------------------------------

_LIMITED = (
    Random(name="wide", traffic_percentage=1, limits=(Limit("minutely", 3), Limit("daily", 500))),
    Random(
        name="narrow",
        traffic_percentage=0.5,
        limits=(Limit("minutely", 2), Limit("hourly", 7), Limit("daily", 100)),
    ),
    Random(name="rare", traffic_percentage=0.0005),
)


def two_days() -> Iterator[float]:
    """When frames come: thirty a second in the first two minutes of each hour, one a second in the others."""
    for second in range(2 * DAY):
        for part in range(30 if second % 3600 < 120 else 1):
            yield MIDNIGHT + second + part / 30


def test_two_days_with_thousands_of_frames_a_minute_pass_no_limit() -> None:
    batching = Batching("line", "daily", 550)
    pick = picker(*_LIMITED, max_batch_images=550)
    counts: dict[int, Counter[tuple[str, int]]] = {60: Counter(), 3600: Counter(), DAY: Counter()}
    batches: Counter[str] = Counter()

    for now in two_days():
        batch = batch_name(batching, now)
        may = pick.may_pick(now=now, batch=batch)
        credit = pick.pick(NOTHING, now=now, batch=batch)
        if credit is not None:
            assert may
            batches[credit.batch] += 1
            for seconds, windows in counts.items():
                windows[credit.strategy.name, int(now) // seconds] += 1

    assert max(count for (name, _), count in counts[60].items() if name == "wide") == 3
    assert max(count for (name, _), count in counts[60].items() if name == "narrow") == 2
    assert max(count for (name, _), count in counts[3600].items() if name == "narrow") == 7
    assert max(count for (name, _), count in counts[DAY].items() if name == "wide") <= 500
    assert max(count for (name, _), count in counts[DAY].items() if name == "narrow") <= 100
    assert batches == {"line_2026_03_02": 550, "line_2026_03_03": 550}


def test_a_daily_limit_is_reached_and_not_passed_each_day() -> None:
    pick = picker(Random(name="some", traffic_percentage=1, limits=(Limit("daily", 100),)))

    counts = Counter(
        int(now) // DAY
        for now in (MIDNIGHT + 10 * frame for frame in range(3 * 8640))
        if taken(pick, NOTHING, now=now)
    )

    assert list(counts.values()) == [100, 100, 100]


def test_limits_outlive_any_number_of_restarts() -> None:
    rng, tally, count = random.Random(3), Tally(), 0

    for minute in range(24 * 60):  # each minute another process begins with what the last one wrote
        tally = msgspec.json.decode(tallies.encode(tally), type=Tally)
        pick = picker(
            Random(name="some", traffic_percentage=1, limits=(Limit("hourly", 10), Limit("daily", 100))),
            tally=tally,
            max_batch_images=90,
        )
        count += sum(
            taken(pick, NOTHING, now=MIDNIGHT + 60 * minute + rng.random() * 60) is not None
            for _ in range(20)
        )

    assert count == 90
    assert (tally.batch, tally.in_batch) == ("b", 90)


def test_a_strategy_under_a_new_sampling_goes_on_counting_by_its_name() -> None:
    tally = Tally()
    limits = (Limit("daily", 5),)
    assert sum(bool(taken(picker(EVERY, tally=tally), NOTHING)) for _ in range(3)) == 3

    renewed = picker(Random(name="every", traffic_percentage=1, limits=limits), tally=tally)

    assert [taken(renewed, NOTHING) for _ in range(4)] == ["every", "every", None, None]


def test_a_credit_that_is_given_back_may_be_taken_again() -> None:
    strategy = Random(name="some", traffic_percentage=1, limits=(Limit("minutely", 1), Limit("daily", 2)))
    pick = picker(strategy, max_batch_images=1)
    credit = pick.pick(NOTHING, now=MIDNIGHT, batch="b")
    assert credit is not None
    assert taken(pick, NOTHING) is None

    pick.give_back(credit)

    assert taken(pick, NOTHING, now=MIDNIGHT + 2) == "some"


def test_a_credit_of_a_minute_that_is_over_counts_for_the_day_only() -> None:
    strategy = Random(name="some", traffic_percentage=1, limits=(Limit("minutely", 1), Limit("daily", 2)))
    pick = picker(strategy)
    credit = pick.pick(NOTHING, now=MIDNIGHT, batch="b")
    assert credit is not None
    assert taken(pick, NOTHING, now=MIDNIGHT + 60) == "some"

    pick.give_back(credit)  # of the minute before

    assert taken(pick, NOTHING, now=MIDNIGHT + 62) is None
    assert taken(pick, NOTHING, now=MIDNIGHT + 120) == "some"
    assert taken(pick, NOTHING, now=MIDNIGHT + 180) is None


def test_a_full_batch_takes_nothing_until_the_next_begins() -> None:
    pick = picker(EVERY, max_batch_images=2)

    assert [taken(pick, NOTHING, batch=batch) for batch in "aaab"] == ["every", "every", None, "every"]


@pytest.mark.parametrize(
    ("interval", "names"),
    [
        ("never", ["line"]),
        ("daily", [f"line_2026_{month:02}_{day:02}" for month, day in ((2, 28), (3, 1), (3, 2), (3, 3))]),
        ("weekly", ["line_2026_02_23", "line_2026_03_02"]),
        ("monthly", ["line_2026_02_01", "line_2026_03_01"]),
    ],
)
def test_a_batch_is_named_by_the_day_on_which_it_began(interval: Interval, names: list[str]) -> None:
    batching = Batching("line", interval)

    hours = [MIDNIGHT - 2 * DAY + 3600 * hour for hour in range(4 * 24)]

    assert list(dict.fromkeys(batch_name(batching, now) for now in hours)) == names
