"""What stops when a device is removed, or two machines have one key: real workers, cameras and streams."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fleet.harness import BIN, Fleet, Subscriber, wait_for


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Its devices are removed."""
    return own_fleet


def states(fleet: Fleet) -> dict[str, str]:
    """The state of each device."""
    return {each["device"]: each["state"] for each in json.loads(fleet.cli("devices", "--json").stdout)}


def start(fleet: Fleet, *options: str) -> str:
    """A pipeline that plays a pattern."""
    source = ("--model", "shapes/1", "--video", "TestPatternStreamProducer")
    return str(json.loads(fleet.cli("init", *source, *options, "--json").stdout)["context"]["pipeline_id"])


def is_silent(subscriber: Subscriber, pipeline_id: str) -> bool:
    """Does nothing come for a while?"""
    before = len(subscriber.of(pipeline_id))
    time.sleep(0.5)
    return len(subscriber.of(pipeline_id)) == before


def test_a_key_on_two_machines_stops_the_pinned_streams_of_both(
    clean: Fleet, subscribe: Callable[..., Subscriber], home: Path
) -> None:
    subscriber = subscribe()
    pinned = start(clean, "--device", "local-1")
    subscriber.wait_for(pinned, 3)
    # Not its database, which may be written at this moment: without one a worker begins anew.
    left_out = shutil.ignore_patterns("run", "*.ipc", "lock*", "worker.db*")
    shutil.copytree(clean.data / "workers/local-1", home / "clone", ignore=left_out)
    command = [str(BIN / "streamfleet-worker"), "--data-dir", str(home / "clone")]
    with (home / "log").open("wb") as log:
        clone = subprocess.Popen(command, env=clean.environment, stdout=log, stderr=log)
    try:
        wait_for(
            lambda: states(clean)["local-1"] == "quarantined",
            lambda: f"quarantine\n{(home / 'log').read_text()}",
            every=0.2,
        )
        wait_for(lambda: not clean.pids("camera"), lambda: f"no camera: {clean.names()}")
        wait_for(lambda: is_silent(subscriber, pinned), "silence")
    finally:
        clone.terminate()
        clone.wait(PATIENCE)


def test_a_device_that_is_removed_while_it_works_stops_and_is_heard_no_more(
    clean: Fleet, subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    clean.cli("devices", "label", "local-2", "here=yes")
    moving = start(clean, "--select", "here=yes")
    subscriber.wait_for(moving, 3)

    clean.cli("devices", "remove", "local-2")

    assert "local-2" not in states(clean)
    wait_for(lambda: is_silent(subscriber, moving), "silence")
    wait_for(lambda: not clean.pids("camera"), lambda: f"no camera: {clean.names()}")
