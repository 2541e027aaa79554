"""A fleet on a full disk starts again and answers, refuses what it cannot keep, and leaves no rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streamfleet_api.storage.blob_store import Blobs
from tests.api.local.test_up import Start, ready, start
from tests.fakes.disks import fill_up, small_disk
from tests.fakes.patience import PATIENCE

__all__ = ["start"]


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk("8m") as folder:
        yield folder


def test_a_fleet_starts_again_answers_and_refuses_changes(disk: Path, start: Start) -> None:
    data = str(disk / "d")
    ready(start("--data-dir", data)).stop()
    filler = fill_up(disk)

    fleet = ready(start("--data-dir", data))
    url = f"http://127.0.0.1:{fleet.port}"
    listed = httpx.get(f"{url}/v2/pipelines", timeout=PATIENCE, trust_env=False)
    refused = httpx.post(f"{url}/v2/devices", json={"name": "edge-1"}, timeout=PATIENCE, trust_env=False)
    filler.unlink()
    taken = httpx.post(f"{url}/v2/devices", json={"name": "edge-1"}, timeout=PATIENCE, trust_env=False)

    assert listed.json()["pipelines"] == []
    assert (refused.status_code, taken.is_success) == (503, True)
    assert "does not take writes" in refused.text


def test_content_that_is_there_is_put_again_without_room(disk: Path) -> None:
    blobs = Blobs(disk / "blobs", limit=1000)
    blobs.open()
    digest = blobs.put_bytes(b"manifest")
    fill_up(disk)

    assert blobs.put_bytes(b"manifest") == digest
    with pytest.raises(OSError, match="No space left"):
        blobs.put_bytes(b"another")
    assert list((disk / "blobs/arriving").iterdir()) == []
