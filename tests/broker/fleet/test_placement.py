"""Which device a pipeline goes to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.fleet.capacity.amounts import Amounts
from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.capacity.device_pool import DevicePool
from streamfleet_broker.fleet.capacity.placement import Candidate, choose, meets, order
from streamfleet_broker.fleet.capacity.spare import Movable, SpareRoom

GIB = 1024.0**3


def counted(device: str, capacity: int, assigned: int) -> Candidate:
    """A device of which nothing is measured."""
    share = 1 / capacity if capacity else 2.0
    return Candidate(
        device,
        capacity,
        assigned,
        used=Amounts(engine=assigned * share, places=assigned),
        supply=Amounts(1.0 if capacity else 0.0, float("inf"), float("inf"), capacity),
    )


def guess(candidate: Candidate) -> Demand:
    return demanding(Amounts(engine=1 / candidate.capacity if candidate.capacity else 2.0, places=1))


def demanding(amounts: Amounts) -> Demand:
    return Demand(amounts, is_measured=True)


def movable(pipeline_id: str, need: Amounts) -> Movable:
    return Movable(pipeline_id, lambda _: demanding(need), lambda _: True)


def test_most_room_wins() -> None:
    assert choose([counted("a", 4, 3), counted("b", 4, 1), counted("c", 2, 0)], guess) == "b"


def test_of_equals_the_first_by_name_wins() -> None:
    assert choose([counted("b", 4, 2), counted("a", 2, 0)], guess) == "a"


def test_a_full_device_is_never_chosen() -> None:
    assert choose([counted("a", 0, 0), counted("b", 2, 2), counted("c", 1, 5)], guess) is None


def test_a_device_is_full_when_any_of_its_resources_is() -> None:
    device = Candidate("a", 8, supply=Amounts(1.0, 4.0, 2 * GIB, 64))

    assert choose([device], lambda _: demanding(Amounts(0.5, 4.0, 2 * GIB, 1))) == "a"
    for more in (Amounts(engine=1.1), Amounts(cores=4.5), Amounts(memory=2.5 * GIB), Amounts(places=65)):
        assert choose([device], lambda _, more=more: demanding(more)) is None  # type: ignore[misc]


def test_a_selector_asks_for_all_of_its_labels() -> None:
    labels = {"site": "hall-1", "line": "2"}

    assert meets(labels, {})
    assert meets(labels, {"line": "2"})
    assert not meets(labels, {"line": "2", "camera": "3"})
    assert not meets(labels, {"site": "hall-2"})


# laws -----------------------------------------------------------------------------------------------------

AMOUNTS = st.builds(
    Amounts,
    engine=st.floats(0, 1),
    cores=st.floats(0, 4),
    memory=st.floats(0, 4 * GIB),
    places=st.just(1.0),
)
SUPPLIES = st.builds(
    Amounts,
    engine=st.just(1.0),
    cores=st.sampled_from([2.0, 4.0, 8.0]),
    memory=st.sampled_from([2 * GIB, 8 * GIB]),
    places=st.sampled_from([4.0, 64.0]),
)
DEVICES = st.lists(SUPPLIES, min_size=1, max_size=6).map(
    lambda supplies: [Candidate(f"d{n}", 8, supply=supply) for n, supply in enumerate(supplies)]
)
NEEDS = st.lists(AMOUNTS, max_size=30)


def placed(pool: DevicePool, needs: Iterable[Amounts]) -> list[str | None]:
    """Place pipelines one after another, and return where each went."""
    found = []
    for need in needs:
        chosen = pool.choose(lambda _, need=need: demanding(need))  # type: ignore[misc]
        if chosen is not None:
            pool.put(chosen.with_pipeline(demanding(need)))
        found.append(None if chosen is None else chosen.device)
    return found


@given(DEVICES, NEEDS)
def test_no_device_gets_more_than_it_has(devices: list[Candidate], needs: list[Amounts]) -> None:
    pool = DevicePool(devices)

    placed(pool, needs)

    assert all(each.used.fits_into(each.supply) for each in pool)


@given(DEVICES, NEEDS)
def test_the_same_pipelines_go_to_the_same_devices(devices: list[Candidate], needs: list[Amounts]) -> None:
    assert placed(DevicePool(devices), needs) == placed(DevicePool(reversed(devices)), needs)


@given(DEVICES, NEEDS, AMOUNTS)
def test_what_is_refused_fits_nowhere_and_less_load_refuses_nothing_more(
    devices: list[Candidate], needs: list[Amounts], last: Amounts
) -> None:
    """Monotone: with fewer pipelines on the devices, whatever fitted still fits."""
    loaded = DevicePool(devices)
    placed(loaded, needs)
    lighter = DevicePool(replace(each, used=each.used - each.used, assigned=0) for each in loaded)

    if loaded.choose(lambda _: demanding(last)) is None:
        assert not any(last.fits_into(each.free) for each in loaded)
    else:
        assert lighter.choose(lambda _: demanding(last)) is not None


@given(DEVICES, NEEDS)
def test_a_pool_keeps_its_order_as_devices_change(devices: list[Candidate], needs: list[Amounts]) -> None:
    pool = DevicePool(devices)
    placed(pool, needs)
    pool.remove("d0")

    assert [each.device for each in pool] == [each.device for each in sorted(pool, key=order)]
    assert "d0" not in [each.device for each in pool]


@given(DEVICES, NEEDS)
def test_with_spare_room_the_loss_of_any_device_is_endured(
    devices: list[Candidate], needs: list[Amounts]
) -> None:
    """Pipelines are admitted as the broker admits them; then each device is lost for real."""
    pool, spare = DevicePool(devices), SpareRoom()
    for each in pool:
        spare.put(each, ())
    of = dict[str, list[Movable]]()
    for number, need in enumerate(needs):
        pipeline = movable(str(number), need)
        chosen = pool.choose(pipeline.need)
        if chosen is None:
            continue
        after = chosen.with_pipeline(demanding(need))
        if spare.lacking_with(after, pipeline) is None:
            pool.put(after)
            spare.add(after, pipeline)
            of.setdefault(chosen.device, []).append(pipeline)
    assert spare.lacking() is None
    spare.check()

    for lost in [each.device for each in pool]:
        left, kept = pool.copy(), spare.copy()
        left.remove(lost)
        kept.remove(lost)
        kept.check()
        for pipeline in of.get(lost, []):
            target = kept.reserved(lost, pipeline.pipeline_id)
            assert target is not None
            left.put(left[target].with_pipeline(pipeline.need(left[target])))
        assert all(each.used.fits_into(each.supply) for each in left)


def test_a_change_doubts_only_the_proofs_that_it_touches() -> None:
    spare, count = SpareRoom(), 0

    def counting(candidate: Candidate) -> Demand:
        nonlocal count
        count += 1
        return guess(candidate)

    for number in range(200):
        name = f"d{number:03}"
        moving = [Movable(f"{name}-{each}", counting, lambda _: True) for each in range(2)]
        spare.put(counted(name, 4, 2), moving)
    assert spare.lacking() is None
    count = 0

    spare.put(counted("d100", 4, 3), [Movable("x", counting, lambda _: True)])

    assert spare.lacking() is None
    assert count < 50
    spare.check()
