"""Tries a model on a device of the fleet: by a short-lived pipeline, which is removed in the end.

    file ──upload──▶ API ◀──fetches it with its ticket── device      sources: blob:<sha256>
    results ◀── predictions, previews and the status of the pipeline try-… ◀──┘

Pictures are played in a loop, up to 16 at once, until each has a prediction. A film is played once from its
beginning; its pipeline begins paused, so that no frame passes before someone listens.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfleet.requests import Source
from streamfleet_api.cli.context import warn
from streamfleet_api.cli.pipeline_text import trouble
from streamfleet_api.cli.trials.known_devices import ready_device
from streamfleet_api.cli.trials.picture_files import found_name, is_picture, unique_stems
from streamfleet_api.cli.trials.results import Result
from streamfleet_api.cli.trials.uploads import undisturbed, uploaded
from streamfleet_api.client.errors import DoesNotPredict, NotInTime, Rejected
from streamfleet_core.protocol.limits import MAX_SOURCES

if TYPE_CHECKING:
    from streamfleet.results import Pipeline
    from streamfleet_api.client.http_client import Client

PREFIX = "try-"  # of the ids of the pipelines
_MAX_FPS = 5.0  # of each picture, in a loop
_EVERY = 0.2  # seconds between two looks
_UNREADABLE = ("codec", "invalid", "undecodable")
_NONE_YET = 504  # the status of an answer without a picture
_SURE = 2  # attempts after which a file cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTrial:
    """A model on a device. `rules`: settings of the pipelines; `timeout`: seconds for each of them."""

    client: Client
    model_id: str
    device: str
    frames: int  # of a film
    output: Path | None  # for pictures with what was found
    rules: Mapping[str, Any]
    timeout: float

    def run(self, files: Sequence[Path]) -> Iterator[Result]:
        """Yield what was found in each file. Raises: CommandFailed, OSError."""
        ready_device(self.client.list_devices(), self.device)
        stems = dict(zip(files, unique_stems(files), strict=True))
        pictures = [file for file in files if is_picture(file)]
        for start in range(0, len(pictures), MAX_SOURCES):
            yield from self._try_pictures(pictures[start : start + MAX_SOURCES], stems)
        for file in files:
            if not is_picture(file):
                yield from self._try_film(file)

    # pictures ---------------------------------------------------------------------------------------------

    def _try_pictures(self, files: Sequence[Path], stems: Mapping[Path, str]) -> Iterator[Result]:
        with uploaded(self.client, files) as references:
            sources = [Source(reference=each, mode="live", max_fps=_MAX_FPS) for each in references]
            with self._pipeline(sources) as pipeline_id:
                deadline = time.monotonic() + self.timeout
                entry = self._settled(pipeline_id, deadline)
                failed = {number: _unreadable(entry, number) for number, _ in enumerate(files)}
                wanted = {number: 1 for number, why in failed.items() if not why}
                found = self._predictions(pipeline_id, wanted, deadline)
                seconds = self._seconds(pipeline_id)
                for number, file in enumerate(files):
                    if failed[number]:
                        yield Result(file=str(file), error=failed[number])
                        continue
                    picture = self._save_picture(pipeline_id, number, stems[file], deadline)
                    yield _result(file, found[number][0], seconds.get(number, {}), picture=picture)

    def _settled(self, pipeline_id: str, deadline: float) -> Pipeline:
        """The pipeline as soon as each source has predicted or cannot be read. Raises: CommandFailed."""
        while True:
            entry = self.client.get_pipeline(pipeline_id)
            if entry.sources and all(
                source.emitted or _unreadable(entry, number) for number, source in enumerate(entry.sources)
            ):
                return entry
            if entry.status == "failed":
                raise DoesNotPredict(f"{self.device}: {entry.reason or 'the pipeline has failed'}")
            if time.monotonic() > deadline:
                raise self._late(entry)
            time.sleep(_EVERY)

    def _save_picture(self, pipeline_id: str, number: int, stem: str, deadline: float) -> Path | None:
        if self.output is None:
            return None
        path = self.output / found_name(stem)
        while True:
            try:
                content = self.client.pipeline_picture(pipeline_id, source=number)
            except Rejected as exc:
                # A slow device needs longer than one request may take. It goes on drawing until the next one.
                if exc.status == _NONE_YET and time.monotonic() < deadline:
                    continue
                warn(f"no picture of {stem}: {exc}")
                return None
            path.write_bytes(content)
            return path

    # films ------------------------------------------------------------------------------------------------

    def _try_film(self, file: Path) -> Iterator[Result]:
        with uploaded(self.client, [file]) as references:
            sources = [Source(reference=references[0], mode="file")]
            with self._pipeline(sources, paused=True) as pipeline_id:
                deadline = time.monotonic() + self.timeout
                try:
                    found = self._predictions(pipeline_id, {0: self.frames}, deadline, resume=True)[0]
                except DoesNotPredict:
                    entry = self.client.get_pipeline(pipeline_id)
                    if why := _unreadable(entry, 0):
                        yield Result(file=str(file), error=why)
                        return
                    raise
                seconds = self._seconds(pipeline_id).get(0, {})
                for document in found:
                    yield _result(file, document, seconds, is_film=True)

    # both -------------------------------------------------------------------------------------------------

    def _predictions(
        self, pipeline_id: str, wanted: Mapping[int, int], deadline: float, *, resume: bool = False
    ) -> dict[int, list[dict[str, Any]]]:
        """The predictions by source: so many of each, or fewer of a film that ends. Raises: CommandFailed."""
        found: dict[int, list[dict[str, Any]]] = {number: [] for number in wanted}
        path = f"/v2/predictions?pipeline={pipeline_id}&empty=true"
        with contextlib.closing(self.client.connect(path)) as events:
            next(events)  # it is connected
            if resume:
                self._resume(pipeline_id, deadline)
            while any(len(found[number]) < count for number, count in wanted.items()):
                name, data, _ = next(events)
                if name == "message":
                    document = json.loads(data)
                    number = document["inference_metadata"].get("source_id") or 0
                    if number in found and len(found[number]) < wanted[number]:
                        found[number].append(document)
                elif name == "silence" or time.monotonic() > deadline:
                    entry = self.client.get_pipeline(pipeline_id)
                    if entry.status == "ended":
                        break
                    if entry.status == "failed":
                        raise DoesNotPredict(f"{self.device}: {entry.reason or 'the pipeline has failed'}")
                if time.monotonic() > deadline:
                    raise self._late(self.client.get_pipeline(pipeline_id))
        return found

    def _resume(self, pipeline_id: str, deadline: float) -> None:
        """Let a pipeline run that waits, when it is ready. Raises: CommandFailed."""
        while (entry := self.client.get_pipeline(pipeline_id)).status != "paused":
            if entry.status == "failed":
                raise DoesNotPredict(f"{self.device}: {entry.reason or 'the pipeline has failed'}")
            if time.monotonic() > deadline:
                raise self._late(entry)
            time.sleep(_EVERY)
        self.client.resume_pipeline(pipeline_id)

    def _late(self, entry: Pipeline) -> NotInTime:
        why = trouble(entry) or f"{entry.pipeline_id} is {entry.status}"
        return NotInTime(
            f"expected results of {self.device} within {self.timeout:g} s; {why}",
            "a model may need longer when a device first loads it: --timeout",
        )

    def _seconds(self, pipeline_id: str) -> dict[int, dict[str, float]]:
        """The seconds of each step by source, in the mean of the last frames."""
        report = self.client.pipeline_report(pipeline_id).report
        steps = {"wait": "frame_decoding_latency", "inference": "inference_latency"}
        found = {}
        for entry in report.get("latency_reports", []):
            values = {name: entry.get(key) for name, key in steps.items()}
            found[entry.get("source_id") or 0] = {
                name: value for name, value in values.items() if isinstance(value, float)
            }
        return found

    @contextlib.contextmanager
    def _pipeline(self, sources: Sequence[Source], *, paused: bool = False) -> Iterator[str]:
        """A pipeline with these sources, which is deleted in the end. Raises: CommandFailed."""
        pipeline_id = f"{PREFIX}{secrets.token_hex(4)}"
        try:
            self.client.put_pipeline(
                pipeline_id,
                model=self.model_id,
                sources=sources,
                sinks=[],
                device=self.device,
                paused=paused,
                **self.rules,
            )
            yield pipeline_id
        finally:
            with undisturbed():
                self._delete(pipeline_id)

    def _delete(self, pipeline_id: str) -> None:
        try:
            self.client.delete_pipeline(pipeline_id)
        except Rejected as exc:
            if exc.status != 404:
                raise


def _unreadable(entry: Pipeline, number: int) -> str:
    """Why the device cannot read this source; "" if it may."""
    if number >= len(entry.sources):
        return ""
    source = entry.sources[number]
    is_sure = source.cause in _UNREADABLE and (source.attempts >= _SURE or entry.status == "failed")
    return source.reason if is_sure and not source.emitted else ""


def _result(
    file: Path,
    document: Mapping[str, Any],
    seconds: Mapping[str, float],
    *,
    is_film: bool = False,
    picture: Path | None = None,
) -> Result:
    image = document["image"]
    return Result(
        file=str(file),
        frame=document["inference_metadata"].get("frame_id", 1) if is_film else 1,
        is_film=is_film,
        width=image.get("width") or 0,
        height=image.get("height") or 0,
        predictions=document["predictions"],
        seconds=seconds,
        picture=picture,
    )
