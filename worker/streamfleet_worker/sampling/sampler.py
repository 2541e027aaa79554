"""The samples of one camera: picked by the emitting thread, written by a separate thread.

    emitter ──▶ Picker ──▶ queue ──▶ writer: conversion, JPEG, tally, spool

The emitting thread never waits for the disk or the writer: if the queue is full, the sample is dropped and
counted, and its credit returned. Only the writer accesses files. It reads the tally first; until then nothing
is picked.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from streamfleet_core.datasets.picked_sample import Sample, SamplePrediction
from streamfleet_core.datasets.spool import SIZE, Spool, SpoolTooSmall
from streamfleet_core.protocol.sampling import Sampling
from streamfleet_core.protocol.status import SampleStat
from streamfleet_worker.sampling import quota_file
from streamfleet_worker.sampling.batches import batch_name
from streamfleet_worker.sampling.resize import fitted, jpeg_of, scaled
from streamfleet_worker.sampling.selection import Credit, Objects, Picker, Tally, differing_sampling
from streamfleet_worker.video.frame import Picture, Stamp

logger = logging.getLogger(__name__)

_WAITING = 8  # samples that wait for the writer; if it is full, new ones are dropped
_REST = 5.0  # seconds without samples after a failed one: it costs work, and no credit


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The destination of one pipeline's samples, and the metadata of each."""

    pipeline_id: str
    device: str
    labels: tuple[str, ...]  # of the model at first, see `Sampler.name_as`
    folder: Path  # of all samples of this device
    size: int = SIZE  # limit for all of them, in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picked:
    """A picked frame that waits for the writer."""

    picture: Picture
    prediction: dict[str, Any]
    labels: tuple[str, ...]  # of the model
    stamp: Stamp
    source_id: int
    credit: Credit
    sampling: Sampling


class Sampler:
    """Samples frames of one camera. One thread calls `offer`; any thread may call the other methods."""

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._labels = to.labels
        self._spool = Spool(to.folder, size=to.size)
        self._tally_path = quota_file.path_of(to.folder, to.pipeline_id)
        self._rng = random.Random().random
        self._changed = threading.Condition()  # guards all of the following
        self._sampling: Sampling | None = None
        self._tally: Tally | None = None  # None until the writer has read it
        self._picker: Picker | None = None
        self._differing: tuple[Sampling, Picker] | None = None  # of frames in which another model differs
        self._waiting: deque[_Picked] = deque()
        self._closed = False
        self._picked = self._written = 0
        self._dropped: Counter[str] = Counter()
        self._error = ""  # of the last sample, if storing it failed
        self._failed_at = 0.0  # Unix seconds, when that sample was picked
        self._writer: threading.Thread | None = None  # None before the first sampling

    # for the camera ---------------------------------------------------------------------------------------

    def use(self, sampling: Sampling | None) -> None:
        """Set the sampling; None: pick nothing. Does not block."""
        with self._changed:
            self._sampling = sampling
            self._update_picker()
            if sampling is not None:
                self._start_writer()

    def use_differing(self, dataset: str | None) -> None:
        """Set the dataset of frames in which another model differs; None: none are kept. Does not block."""
        with self._changed:
            self._differing = None
            if dataset is not None:
                sampling = differing_sampling(dataset)
                self._differing = sampling, Picker(sampling, self._rng, Tally())
                self._start_writer()

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._run, name="sample writer", daemon=True)
            self._writer.start()

    def name_as(self, labels: tuple[str, ...]) -> None:
        """Name the classes of frames that are offered from now on. For the thread that offers them."""
        self._labels = labels

    @property
    def is_on(self) -> bool:
        """Whether any frame may be picked."""
        return self._sampling is not None or self._differing is not None

    def wants(self, now: float) -> bool:
        """Whether some frame could be picked now; `now` is in Unix seconds."""
        with self._changed:
            picker, sampling = self._picker, self._sampling
            if picker is None or sampling is None or self._is_pausing(now):
                return False
            return picker.may_pick(now=now, batch=batch_name(sampling.batching, now))

    def offer(
        self, picture: Picture, prediction: dict[str, Any], stamp: Stamp, *, source_id: int, now: float
    ) -> None:
        """Pick this frame if a strategy wants it. `now` is in Unix seconds."""
        with self._changed:
            if self._picker is not None and self._sampling is not None:
                self._offer(
                    picture, prediction, stamp, source_id, now, sampling=self._sampling, picker=self._picker
                )

    def wants_differing(self, now: float) -> bool:
        """Whether a frame in which another model differs could be picked now; `now` is in Unix seconds."""
        with self._changed:
            if self._differing is None or self._is_pausing(now):
                return False
            sampling, picker = self._differing
            return picker.may_pick(now=now, batch=batch_name(sampling.batching, now))

    def keep_differing(
        self, picture: Picture, prediction: dict[str, Any], stamp: Stamp, *, source_id: int, now: float
    ) -> bool:
        """Pick a frame in which another model differs, if there are not too many; return whether it was."""
        with self._changed:
            if self._differing is None:
                return False
            sampling, picker = self._differing
            return self._offer(picture, prediction, stamp, source_id, now, sampling=sampling, picker=picker)

    def _offer(
        self,
        picture: Picture,
        prediction: dict[str, Any],
        stamp: Stamp,
        source_id: int,
        now: float,
        *,
        sampling: Sampling,
        picker: Picker,
    ) -> bool:
        if self._is_pausing(now):
            return False
        credit = picker.pick(_objects(prediction), now=now, batch=batch_name(sampling.batching, now))
        if credit is None:
            return False
        self._picked += 1
        if len(self._waiting) >= _WAITING:
            self._drop(credit, "queue")
            return False
        self._waiting.append(
            _Picked(
                picture=picture,
                prediction=prediction,
                labels=self._labels,
                stamp=stamp,
                source_id=source_id,
                credit=credit,
                sampling=sampling,
            )
        )
        self._changed.notify()
        return True

    def _is_pausing(self, now: float) -> bool:
        return self._closed or (self._error != "" and 0 <= now - self._failed_at < _REST)

    @property
    def stat(self) -> SampleStat | None:
        """The counters; None if sampling was never enabled."""
        with self._changed:
            if self._writer is None:
                return None
            return SampleStat(self._picked, self._written, dict(self._dropped), self._error)

    def close(self, deadline: float) -> None:
        """Stop picking. Wait up to `deadline` seconds until the picked samples are written."""
        with self._changed:
            self._closed = True
            writer = self._writer
            self._changed.notify()
        if writer is not None:
            writer.join(deadline)

    # the writer -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_tally()
            while (picked := self._next()) is not None:
                self._store(picked)
        except Exception:
            logger.exception("%s: the sample writer failed", self._to.pipeline_id)
            with self._changed:
                self._picker, self._error = None, "the sample writer failed"
                self._closed = True

    def _read_tally(self) -> None:
        try:
            known = quota_file.load(self._tally_path)
        except OSError as exc:  # the first sample will fail too, and that is reported
            logger.warning("%s: the limits are reset: %s", self._to.pipeline_id, exc)
            known = Tally()
        with self._changed:
            self._tally = known
            self._update_picker()

    def _update_picker(self) -> None:
        """Create the picker, if there is a sampling and the tally was read."""
        if self._sampling is None or self._tally is None:
            self._picker = None
        else:
            self._picker = Picker(self._sampling, self._rng, self._tally)

    def _next(self) -> _Picked | None:
        """Wait for the next picked frame; None if it is closed and the queue is empty."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _store(self, picked: _Picked) -> None:
        try:
            sample, jpeg = _sample(picked, self._to)
        except msgspec.ValidationError as exc:  # a model whose outputs are not finite
            self._failed(picked.credit, "invalid", exc)
            return
        with self._changed:
            assert self._tally is not None
            counted = quota_file.encode(self._tally)
        try:
            quota_file.save(self._tally_path, counted)  # first: so limits hold even if this process is killed
            self._spool.put(sample, jpeg)
        except SpoolTooSmall as exc:
            self._failed(picked.credit, "size", exc)
        except OSError as exc:
            self._failed(picked.credit, "disk", exc)
        else:
            self._succeeded()

    def _failed(self, credit: Credit, cause: str, exc: Exception) -> None:
        with self._changed:
            first, self._error, self._failed_at = not self._error, str(exc), credit.at
            self._drop(credit, cause)
        if first:
            logger.warning("%s: samples cannot be stored: %s", self._to.pipeline_id, exc)

    def _succeeded(self) -> None:
        with self._changed:
            failed, self._error = self._error, ""
            self._written += 1
        if failed:
            logger.info("%s: samples are stored again", self._to.pipeline_id)

    def _drop(self, credit: Credit, cause: str) -> None:
        self._dropped[cause] += 1
        if self._picker is not None:
            self._picker.give_back(credit)


def _objects(prediction: dict[str, Any]) -> Objects:
    found = prediction["predictions"]
    return Objects(
        [each["class"] for each in found],
        [each["confidence"] for each in found],
        classify="top" in prediction,
    )


def _sample(picked: _Picked, to: Destination) -> tuple[Sample, bytes]:
    sampling, strategy = picked.sampling, picked.credit.strategy
    image = fitted(picked.picture.bgr(), sampling.max_image_size)
    height, width = image.shape[:2]
    jpeg = jpeg_of(image, sampling.jpeg_compression_level)
    return Sample(
        pipeline_id=to.pipeline_id,
        device=to.device,
        source_id=picked.source_id,
        frame_id=picked.stamp.frame_id,
        captured_at=picked.stamp.wall_ns / 1e9,
        width=width,
        height=height,
        size=len(jpeg),
        labels=picked.labels,
        prediction=cast(SamplePrediction, scaled(picked.prediction, width, height))
        if sampling.persist_predictions
        else None,
        strategy=strategy.name,
        tags=tuple(dict.fromkeys((*sampling.tags, *strategy.tags))),
        batch=picked.credit.batch,
        dataset=sampling.dataset,
    ), jpeg
