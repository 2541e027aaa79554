"""Pipelines that move on purpose, from a running device to another, as subscribers see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fleet.harness import Fleet, Subscriber, rises, wait_for


@pytest.fixture
def on_one(clean: Fleet) -> Iterator[list[str]]:
    """Two pipelines on local-1; local-2 came, as it were, after them."""
    clean.cli("devices", "cordon", "local-2")
    pipeline_ids = [clean.initialise("TestPatternStreamProducer", "shapes/1") for _ in range(2)]
    clean.cli("devices", "uncordon", "local-2")
    yield pipeline_ids
    clean.cli("devices", "uncordon", "local-1")


def places(fleet: Fleet) -> list[str]:
    return [each["device"] for each in fleet.http.get("/v2/pipelines").json()["pipelines"]]


def test_pipelines_move_to_even_out_the_load_and_then_all_from_one_device(
    clean: Fleet, subscribe: Callable[..., Subscriber], on_one: list[str]
) -> None:
    subscriber = subscribe()
    for pipeline_id in on_one:
        subscriber.wait_for(pipeline_id, 3)

    dry = clean.cli("devices", "rebalance", "--dry-run").stdout
    before = places(clean)
    clean.cli("devices", "rebalance")
    wait_for(lambda: sorted(places(clean)) == ["local-1", "local-2"], lambda: f"one on each; {places(clean)}")
    drained = clean.cli("devices", "drain", "local-1", "--wait")
    known = {pipeline_id: len(subscriber.of(pipeline_id)) for pipeline_id in on_one}
    for pipeline_id in on_one:
        subscriber.wait_for(pipeline_id, known[pipeline_id] + 3)

    assert "1 pipeline would move:" in dry
    assert before == ["local-1", "local-1"]
    assert "local-1 is drained: nothing is left on it" in drained.stdout
    assert places(clean) == ["local-2", "local-2"]
    for pipeline_id in on_one:
        assert rises(subscriber.keys(pipeline_id))
