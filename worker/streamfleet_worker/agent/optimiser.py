"""Builds variants of a model when the desired state says so, and uploads the best.

    asked ──▶ model and pictures fetched ──▶ built and measured, in a process ──▶ uploaded ──▶ registered
      └──not asked any more──▶ ended, and all its files removed

One at a time. What the process says is bounded and checked: the model that it loads may come from a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO

import httpx
import msgspec

from streamfleet_core.datasets.spool import Spool
from streamfleet_core.models.optimisation import Job, Said
from streamfleet_core.protocol.source_reference import blob_of, cut_reason, shown_reason
from streamfleet_core.protocol.tasks.optimisation import (
    LEAST_FRAMES,
    MOST_PICTURES,
    TIMEOUT,
    Optimisation,
    OptimisationStat,
    Outcome,
    Trial,
)
from streamfleet_core.protocol.values import Assignment, Manifest, Weights
from streamfleet_core.runtime.pinned_tls import PinnedContext
from streamfleet_worker.agent.blob_cache import BlobCache, FetchError, Source
from streamfleet_worker.agent.model_cache import MAX_MANIFEST
from streamfleet_worker.agent.paths import WorkerPaths
from streamfleet_worker.ipc.child_messages import AcceleratorUse, ProviderName

logger = logging.getLogger(__name__)

_PROGRAM = "streamfleet_worker.optimise.process"
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")  # no secret is among them (S9)
_LONGEST_LINE = 65_536  # bytes
_UPLOAD_TIMEOUT = 900.0  # seconds; the API tries the variant before it answers
_ANSWER_TIMEOUT = 180.0
_CHUNK = 256 * 1024  # bytes


class _Failure(Exception):
    """The task has no result. The text says why."""


class Optimiser:
    """The task of one device. Created and used in the loop; `stat` is what its status says."""

    def __init__(
        self,
        paths: WorkerPaths,
        spool: Spool,
        *,
        board: str,
        accelerator: AcceleratorUse,
        provider: ProviderName,
    ) -> None:
        self._paths = paths
        self._spool = spool
        self._board = board
        self._accelerator = accelerator
        self._provider = provider
        self._source = Source("", "")
        self._tls = PinnedContext("")
        self._blobs: BlobCache | None = None  # of the running task
        self._task: asyncio.Task[None] | None = None
        self._is_uploading = False
        self.stat: OptimisationStat | None = None
        shutil.rmtree(paths.optimise, ignore_errors=True)  # of an agent that was killed

    def use(self, source: Source) -> None:
        """Set the API."""
        self._source = source
        self._tls.fingerprint = source.fingerprint
        if self._blobs is not None:
            self._blobs.use(source)

    def adopt(self, wanted: Optimisation | None, assignments: Iterable[Assignment]) -> None:
        """Start what is wanted, unless it is known, and end what is not wanted any more."""
        known = self.stat
        if wanted is not None and (known is None or known.id != wanted.id):
            before = self._cancel()
            self.stat = OptimisationStat(id=wanted.id, model=wanted.model, progress="fetching the model")
            datasets = _datasets_of(wanted, assignments)
            self._task = asyncio.create_task(self._run(wanted, datasets, before), name="optimise")
        elif wanted is None and known is not None and not known.ended and not self._is_uploading:
            # While it uploads, the API may have taken the variant already: the answer says so.
            self._cancel()
            self.stat = None

    async def close(self) -> None:
        """End the task."""
        if (task := self._cancel()) is not None:
            await asyncio.gather(task, return_exceptions=True)

    def _cancel(self) -> asyncio.Task[None] | None:
        """End the task, and return it: its process may need a moment."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _tell(self, **changes: object) -> None:
        assert self.stat is not None
        self.stat = replace(self.stat, **changes)  # type: ignore[arg-type]

    async def _run(
        self, wanted: Optimisation, datasets: frozenset[str], before: asyncio.Task[None] | None
    ) -> None:
        """Do all of it. Only a cancellation is raised."""
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        folder = self._paths.optimise
        logger.info("variants of %s are built", wanted.model.id)
        try:
            await asyncio.to_thread(_make_empty, folder)
            outcome = await asyncio.wait_for(self._build(wanted, datasets, folder), TIMEOUT)
            self._tell(outcome=_shown(outcome))
            if outcome.winner is not None and not wanted.dry_run:
                self._tell(progress="uploading the variant")
                await self._upload(wanted, outcome, outcome.winner, folder)
                self._tell(registered=True)
        except (_Failure, FetchError, OSError, httpx.HTTPError) as exc:
            self._failed(wanted, str(exc) or type(exc).__name__)
        except asyncio.TimeoutError:
            self._failed(wanted, f"expected the variants within {TIMEOUT:.0f} s, they took longer")
        finally:
            self._is_uploading = False
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._tell(ended=True, progress="")

    def _failed(self, wanted: Optimisation, reason: str) -> None:
        self._tell(failure=shown_reason(reason))
        logger.warning("no variant of %s: %s", wanted.model.id, shown_reason(reason))

    # building ---------------------------------------------------------------------------------------------

    async def _build(self, wanted: Optimisation, datasets: frozenset[str], folder: Path) -> Outcome:
        """Raises: _Failure, FetchError, OSError."""
        if wanted.board != self._board:
            raise _Failure(f"expected a device of the kind {wanted.board}, this one is {self._board}")
        blobs = self._blobs = BlobCache(folder)
        blobs.use(self._source)
        try:
            await blobs.fetch(wanted.model.digest, limit=MAX_MANIFEST)
            manifest = _manifest(await asyncio.to_thread(blobs.path(wanted.model.digest).read_bytes))
            weights = await self._weights(blobs, manifest.weights)
            pictures = await self._pictures(blobs, wanted, datasets)
        finally:
            self._blobs = None
            await blobs.close()
        job = Job(
            manifest=replace(manifest, variants=()),
            weights_path=str(weights),
            pictures=pictures,
            folder=str(folder),
            least_agreement=wanted.least_agreement,
            frames=wanted.frames,
            accelerator=self._accelerator,
            provider=self._provider,
        )
        return await self._in_process(job)

    async def _weights(self, blobs: BlobCache, weights: Weights) -> Path:
        """The file of the model: the one that pipelines run, if there is one. Raises: FetchError."""
        cached = self._paths.models / weights.sha256
        if await asyncio.to_thread(_has_size, cached, weights.size):
            return cached  # it is verified when it is loaded
        await blobs.fetch(weights.sha256, size=weights.size, limit=weights.size)
        return blobs.path(weights.sha256)

    async def _pictures(self, blobs: BlobCache, wanted: Optimisation, datasets: frozenset[str]) -> str:
        """Raises: _Failure, FetchError, OSError."""
        if not wanted.pictures:
            self._tell(progress="collecting samples")
            folder = await asyncio.to_thread(self._collect, datasets, 2 * wanted.frames)
            if (count := len(list(folder.iterdir()))) < 2 * LEAST_FRAMES:
                where = ", ".join(sorted(datasets)) or f"the pipelines here that use {wanted.model.id}"
                raise _Failure(
                    f"expected at least {2 * LEAST_FRAMES} samples of {where} on this device, got {count}"
                )
            return str(folder)
        digest = blob_of(wanted.pictures)
        if digest is None:
            return wanted.pictures
        self._tell(progress="fetching the pictures")
        await blobs.fetch(digest, limit=MOST_PICTURES)
        return str(blobs.path(digest))

    def _collect(self, datasets: frozenset[str], count: int) -> Path:
        """Copy samples of this device, evenly spread in time, and return their folder. Raises: OSError."""
        folder = self._paths.optimise / "samples"
        folder.mkdir()
        entries = [entry for entry in self._spool.entries() if entry.dataset in datasets]
        for entry in entries[:: max(1, len(entries) // count)][:count]:
            with contextlib.suppress(FileNotFoundError):  # uploaded or removed meanwhile
                shutil.copyfile(
                    self._spool.image_path(entry.dataset, entry.name), folder / f"{entry.name}.jpg"
                )
        return folder

    async def _in_process(self, job: Job) -> Outcome:
        """Build and measure in a process. Raises: _Failure, OSError."""
        self._tell(progress="loading the model")
        with tempfile.TemporaryFile() as errors:
            async with _started(errors) as process:
                said = await self._listen(process, job)
                code = await process.wait()
            if said.outcome is not None:
                return said.outcome
            errors.seek(0)
            raise _Failure(said.failure or _how_it_ended(code, errors.read(_LONGEST_LINE)))

    async def _listen(self, process: asyncio.subprocess.Process, job: Job) -> Said:
        """Give it the job, tell its progress, and return its last word. Raises: _Failure."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(msgspec.json.encode(job))
            await process.stdin.drain()
            process.stdin.close()
        said = Said()
        try:
            while line := await process.stdout.readline():
                said = msgspec.json.decode(line, type=Said)
                if said.progress:
                    self._tell(progress=cut_reason(said.progress))
        except (ValueError, msgspec.DecodeError) as exc:
            raise _Failure(f"the process that builds variants said what it cannot mean: {exc}") from exc
        return said

    # uploading --------------------------------------------------------------------------------------------

    async def _upload(self, wanted: Optimisation, outcome: Outcome, winner: Trial, folder: Path) -> None:
        """Raises: _Failure, httpx.HTTPError, OSError."""
        path = folder / Path(winner.path).name  # wherever it says that the file is
        if not await asyncio.to_thread(_has_size, path, winner.weights.size):
            raise _Failure("the process that builds variants has not written the file that it tells of")
        source = self._source
        self._is_uploading = True
        async with httpx.AsyncClient(
            verify=self._tls,
            timeout=httpx.Timeout(30.0, read=_ANSWER_TIMEOUT),
            follow_redirects=False,
            trust_env=False,
        ) as client:
            answer = await asyncio.wait_for(
                client.put(
                    f"{source.api.rstrip('/')}/v2/optimisations/{wanted.id}/variant",
                    params={
                        "weights": winner.weights.sha256,
                        "board": outcome.board,
                        "provider": outcome.provider,
                        "precision": winner.precision,
                        "speedup": f"{winner.speedup:.3f}",
                        "agreement": f"{winner.agreement or 0.0:.4f}",
                    },
                    content=_content(path),
                    headers={
                        "Authorization": f"Bearer {source.ticket}",
                        "Content-Type": "application/octet-stream",
                        "Content-Length": str(winner.weights.size),
                    },
                ),
                _UPLOAD_TIMEOUT,
            )
        if answer.status_code != httpx.codes.CREATED:
            raise _Failure(f"the API has not taken the variant: {_detail(answer)}")


def _datasets_of(wanted: Optimisation, assignments: Iterable[Assignment]) -> frozenset[str]:
    """The datasets of the pipelines whose frames the model sees whole."""
    return frozenset(
        each.spec.sampling.dataset
        for each in assignments
        if each.spec.sampling is not None and each.spec.model.id == wanted.model.id
    )


def _manifest(content: bytes) -> Manifest:
    """Raises: _Failure."""
    try:
        return Manifest.decode(content)
    except msgspec.DecodeError as exc:
        raise _Failure(f"the manifest of the model cannot be read: {exc}") from exc


@contextlib.asynccontextmanager
async def _started(errors: IO[bytes]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, which ends with this context, or with the agent. Raises: OSError."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        env=kept | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        limit=_LONGEST_LINE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _how_it_ended(code: int, errors: bytes) -> str:
    if code < 0:
        return f"building was ended by signal {-code}: it needs more memory than there is"
    *_, last = ["it said nothing", *errors.decode("utf-8", "replace").strip().splitlines()]
    return f"building ended with code {code}: {last}"


def _shown(outcome: Outcome) -> Outcome:
    """The outcome without the paths of this device."""
    return replace(outcome, trials=tuple(replace(trial, path="") for trial in outcome.trials))


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


async def _content(path: Path) -> AsyncIterator[bytes]:
    """Yield a file. Raises: OSError."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


def _detail(answer: httpx.Response) -> str:
    """What the API says about an error."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    detail = told.get("detail") if isinstance(told, dict) else None
    return detail if isinstance(detail, str) else f"HTTP {answer.status_code}"
