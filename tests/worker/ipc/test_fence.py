"""The fence between emitting and not."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.fence import Fence
from tests.fakes.patience import PATIENCE


def test_a_new_fence_lets_nothing_pass() -> None:
    fence = Fence.create()

    assert not fence.passes(boot_time())
    assert not fence.passes(0.0)
    fence.close()


def test_it_passes_until_the_instant_it_was_extended_to() -> None:
    fence = Fence.create()

    fence.extend(100.0)

    assert [fence.passes(now) for now in (0.0, 99.9, 100.0, 200.0)] == [True, True, False, False]
    fence.close()


def test_another_process_sees_the_fence_move_at_once() -> None:
    ours = Fence.create()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_extend, args=(ours.path, 50.0))

    process.start()
    process.join(PATIENCE)

    assert process.exitcode == 0
    assert ours.passes(49.0)
    ours.close()


def test_a_fence_made_anew_leaves_the_old_one_as_it_was() -> None:
    old = Fence.create()
    old.extend(10.0)

    new = Fence.create()
    new.extend(99.0)

    assert not old.passes(50.0)
    assert new.passes(50.0)
    old.close()
    new.close()


def test_a_fence_that_is_not_there_or_too_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234")

    with pytest.raises(FileNotFoundError):
        Fence.open(str(tmp_path / "none"))
    with pytest.raises(ValueError):
        Fence.open(str(tmp_path / "short"))


def _extend(path: str, until: float) -> None:
    fence = Fence.open(path)
    fence.extend(until)
    fence.close()
