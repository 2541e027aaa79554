"""Plans are found by all that they depend on, and the least recently used ones are removed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from streamfleet_worker.engine.tensorrt.plan_store import MOST_CRASHES, PlanKey, PlanStore

KEY = PlanKey(sha256="ab" * 32, tensorrt="10.3.0", capability="8.7", precision="fp16", batch=8)


def keys(count: int) -> list[PlanKey]:
    return [replace(KEY, sha256=f"{number:064d}") for number in range(count)]


def test_a_plan_is_found_again(tmp_path: Path) -> None:
    store = PlanStore(tmp_path / "plans")
    before = store.read(KEY)

    store.write(KEY.name, b"plan")

    assert before is None
    assert store.read(KEY) == b"plan"
    assert KEY.name == f"{'ab' * 32}-trt10.3.0-sm8.7-fp16-b8.plan"


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": "cd" * 32},
        {"tensorrt": "10.4.0"},
        {"capability": "8.9"},
        {"precision": "own"},
        {"batch": 1},
    ],
)
def test_a_plan_is_used_for_nothing_else(tmp_path: Path, changed: dict[str, object]) -> None:
    store = PlanStore(tmp_path)
    store.write(KEY.name, b"plan")

    assert store.read(replace(KEY, **changed)) is None  # type: ignore[arg-type]


def test_a_name_never_leaves_the_folder(tmp_path: Path) -> None:
    key = replace(KEY, tensorrt="../../10")

    assert PlanStore(tmp_path).path(key).parent == tmp_path


def test_the_least_recently_used_plans_are_removed(tmp_path: Path) -> None:
    store = PlanStore(tmp_path, most=2)
    first, second, third = keys(3)
    for at, key in enumerate((first, second)):
        store.write(key.name, b"plan")
        os.utime(store.path(key), (at, at))
    store.read(first)

    store.write(third.name, b"plan")

    assert [store.read(key) for key in (first, second, third)] == [b"plan", None, b"plan"]


def test_plans_that_are_too_large_together_are_removed_but_never_the_newest(tmp_path: Path) -> None:
    store = PlanStore(tmp_path, size=10)
    old, new = keys(2)
    store.write(old.name, b"12345")

    store.write(new.name, b"123456789012")

    assert [store.read(key) for key in (old, new)] == [None, b"123456789012"]


def test_the_draft_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.plan.7.draft").write_bytes(b"half")

    PlanStore(tmp_path).write(KEY.name, b"plan")

    assert [path.name for path in tmp_path.iterdir()] == [KEY.name]


def test_a_plan_that_ends_processes_is_loaded_no_more(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    store.write(KEY.name, b"plan")
    crashed = [store.begin_load(KEY) for _ in range(MOST_CRASHES)]

    refused = store.begin_load(KEY)
    store.end_load(KEY)

    assert (crashed, refused) == ([True] * MOST_CRASHES, False)
    assert store.begin_load(KEY)


def test_loads_of_an_earlier_boot_count_as_no_crash(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    store.path(KEY).with_suffix(".loading").write_text("another boot\n" * MOST_CRASHES)

    assert store.begin_load(KEY)
