"""Few descriptors are left: a process says so, and says when there are enough again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from streamfleet_core.runtime import file_descriptors
from streamfleet_core.runtime.file_descriptors import DescriptorWatch, raise_limit, read_descriptors
from tests.fakes.patience import PATIENCE


@contextmanager
def limited(count: int) -> Iterator[None]:
    """At most so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_few_descriptors_are_told_while_there_are_few(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_descriptors, "_INTERVAL", 0.01)
    gc.collect()  # what other tests have left is closed now, and not while these are counted
    held = [os.dup(0) for _ in range(200)]
    caplog.set_level("INFO")
    watch = DescriptorWatch()
    watching = asyncio.create_task(watch.run())
    try:
        with limited(int(read_descriptors().open / 0.85)):
            await until(lambda: watch.warning)
            assert "file descriptors are open" in watch.warning
        await until(lambda: not watch.warning)
    finally:
        watching.cancel()
        for descriptor in held:
            os.close(descriptor)

    levels = [record.levelname for record in caplog.records if "descriptors are open" in record.message]
    assert levels == ["ERROR", "INFO"]


def test_when_none_is_left_all_are_open() -> None:
    soft = read_descriptors().open + 20
    with limited(soft):
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        seen = read_descriptors()
        for descriptor in held:
            os.close(descriptor)

    assert (seen.open, seen.limit) == (soft, soft)


def test_a_process_takes_what_the_kernel_gives() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with limited(most // 2):
        raise_limit()

        assert read_descriptors().limit == most
