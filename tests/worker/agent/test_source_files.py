"""Files of the fleet as sources: fetched when a pipeline plays them, removed when none does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from streamfleet_core.protocol.values import Assignment, ModelRef, PipelineSpec, SourceSpec
from streamfleet_worker.agent import source_files
from streamfleet_worker.agent.blob_cache import Source
from streamfleet_worker.agent.source_files import SourceFiles
from tests.fakes.patience import PATIENCE
from tests.worker.agent.test_model_cache import Api, serving

FILM = b"film" * 1000
DIGEST = hashlib.sha256(FILM).hexdigest()
OTHER = "ab" * 32


def assigned(*references: str | int) -> Assignment:
    """A pipeline that plays these."""
    sources = tuple(SourceSpec(reference, max_fps=5) for reference in references)
    return Assignment(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="stop",
        spec=PipelineSpec(model=ModelRef("a/1", "ef" * 32), sources=sources),
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a task does."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), PATIENCE)


@pytest.fixture
def api() -> Iterator[Api]:
    """An API with one film."""
    with serving(Api({DIGEST: FILM})) as api:
        yield api


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[SourceFiles]:
    """The files in an empty folder."""
    files = SourceFiles(tmp_path, lambda: 0.0)
    files._blobs._client.timeout = httpx.Timeout(PATIENCE)
    yield files
    await files.close()


async def test_a_file_that_a_pipeline_plays_is_fetched_once_with_the_ticket(
    files: SourceFiles, api: Api, tmp_path: Path
) -> None:
    files.use(Source(api.url, "ticket"))

    files.adopt([assigned(f"blob:{DIGEST}", "rtsp://camera/1"), assigned(f"blob:{DIGEST}")])
    await until((tmp_path / DIGEST).exists)
    files.adopt([assigned(f"blob:{DIGEST}")])

    assert (tmp_path / DIGEST).read_bytes() == FILM
    assert [digest for digest, _ in api.requests] == [DIGEST]


async def test_a_file_that_no_pipeline_plays_any_more_is_removed(
    files: SourceFiles, api: Api, tmp_path: Path
) -> None:
    (tmp_path / f"{OTHER}.part").write_bytes(b"of an earlier agent")
    files.use(Source(api.url, "ticket"))
    files.adopt([assigned(f"blob:{DIGEST}")])
    await until((tmp_path / DIGEST).exists)

    files.adopt([assigned("rtsp://camera/1")])

    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_not_there_yet_is_asked_for_again(
    files: SourceFiles, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_files, "BACKOFF_FIRST", 0.01)
    api.statuses = [404, 503]

    files.adopt([assigned(f"blob:{DIGEST}")])
    files.use(Source(api.url, "ticket"))

    await until((tmp_path / DIGEST).exists)
    assert len(api.requests) == 3


async def test_a_file_that_is_too_large_is_not_stored(
    files: SourceFiles,
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(source_files, "MAX_FILE", len(FILM) - 1)
    files.use(Source(api.url, "ticket"))

    files.adopt([assigned(f"blob:{DIGEST}")])
    await until(lambda: "expected at most 3999 bytes" in caplog.text)

    assert not (tmp_path / DIGEST).exists()


async def test_cameras_get_the_paths_of_files(files: SourceFiles, tmp_path: Path) -> None:
    spec = assigned(f"blob:{DIGEST}", "rtsp://camera/1", 0).spec

    local = files.local(spec)

    assert [source.reference for source in local.sources] == [str(tmp_path / DIGEST), "rtsp://camera/1", 0]
    assert [source.max_fps for source in local.sources] == [5, 5, 5]
    plain = assigned("rtsp://camera/1").spec
    assert files.local(plain) is plain
