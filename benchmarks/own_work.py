"""CPU time that a camera process spends on each frame by itself: all but decoding, inference and sending.

Given are an H.264 film of 1920x1080 that plays live, and the outputs of a model for it: 84x8400, as of an
Ultralytics model with an input of 640x640. Each frame has 20 objects, all of which are tracked. Measured is
the CPU time of one thread (`time.thread_time`) for each step, in a process of its own: the mean of a round's
frames. Baselines of the same run, which alternate with it: the whole picture is converted to BGR before it is
scaled; the tracks are those of `ByteTrackTracker` of the package `trackers`, whose ids must be the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from benchmarks.films import write_h264
from benchmarks.processes import TIMEOUT, child, receive
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from streamfleet_core.protocol.values import Manifest, SourceSpec, Weights
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import FloatArray
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.detection.tracker import Tracker
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.encoding import to_json, to_msgpack
from streamfleet_worker.video.outputs.prediction import Names, Origin, describe
from streamfleet_worker.video.sources.open_source import open_source
from tests.fakes.package_tracker import PackageTracker
from tests.fakes.ports_and_folders import short_folder

SCALE, READ, TRACK, DESCRIBE = "scale, fill the slot", "read the output", "track", "describe, encode"
STEPS = (SCALE, READ, TRACK, DESCRIBE)
WHOLE = "whole"
LIMITS = {SCALE: 0.75, TRACK: 0.25}  # ratio to the baseline
OBJECTS = 20

_SIZE = (1920, 1080)  # pixels
_INPUT = 640  # pixels
_FPS = 30
_WARM_UP = 2  # frames of each round that are not counted: they open and allocate
_NEAR = 8  # boxes of the model for each object, which suppression reduces to one
_RULES = PostProcessing()
_MANIFEST = Manifest(
    family="ultralytics",
    labels=tuple(f"class {number}" for number in range(80)),
    input_width=_INPUT,
    input_height=_INPUT,
    weights=Weights("0" * 64, 1),
)

Round = dict[str, float]  # CPU milliseconds for each frame, by step


@dataclass(frozen=True, slots=True)
class Work:
    """What the process measures."""

    film: Path
    frames: int  # of a round
    rounds: int


@dataclass(frozen=True, slots=True)
class Result:
    """The rounds of the camera's work, and of the baselines of two of its steps."""

    own: list[Round]
    baseline: list[Round]


def run(setting: Setting) -> Report:
    """Measure in a process of its own."""
    frames, rounds = setting.pick(40, 6), setting.rounds_of(15)
    with short_folder() as folder:
        video = None if setting.is_generated else setting.video
        film = write_h264(folder / "film.mp4", video, fps=_FPS, frames=frames, size=_SIZE)
        with child(_measure, Work(film, frames, rounds)) as connection:
            found: Result = receive(connection, TIMEOUT + frames * rounds)
    return report(setting, found, frames=frames)


def _measure(connection: Connection, work: Work) -> None:
    cv2.setNumThreads(1)  # as a camera process
    outputs = [output_of(at) for at in range(work.frames)]
    found = Result([], [])
    for number in range(work.rounds):
        sides = [(own_work, found.own), (baseline_work, found.baseline)]
        ids = []
        for measure, rounds in sides if number % 2 else reversed(sides):
            means, tracked = measure(work.film, outputs)
            rounds.append(means)
            ids.append(tracked)
        if ids[0] != ids[1] or any(len(frame) != OBJECTS for frame in ids[0]):
            raise ValueError(f"expected the same {OBJECTS} ids in each frame of both sides, got {ids}")
    connection.send(found)


# both sides -----------------------------------------------------------------------------------------------


def own_work(film: Path, outputs: list[FloatArray]) -> tuple[Round, list[list[int]]]:
    """Do what a camera process does with each frame. Return the means, and the ids of each frame."""
    clock, letterbox, pixels = _Clock(), Letterbox(_MANIFEST), _slot()
    slot = np.empty_like(outputs[0])
    tracker = Tracker(confidence=_RULES.confidence, fps=_FPS)
    # As a live source it is decoded by one thread, and none disturbs the measurement.
    capture = open_source(SourceSpec(str(film), mode="live"), 1)
    ids = []
    for at, output in enumerate(outputs):
        if not capture.grab():
            raise ValueError(f"expected a film of {len(outputs)} frames, got {at}")
        clock.start()
        picture = capture.retrieve()
        if picture is None:
            raise ValueError(f"expected a film without damage, got a damaged frame {at}")
        geometry = letterbox.write(picture, pixels)
        clock.record(SCALE)
        np.copyto(slot, output)  # the engine has just written it
        clock.start()
        detections = decode([slot], geometry, manifest=_MANIFEST, rules=_RULES)
        clock.record(READ)
        detections = tracker.update(detections, at / _FPS)
        clock.record(TRACK)
        document = describe(
            detections,
            names=Names(_MANIFEST.labels),
            width=picture.width,
            height=picture.height,
            origin=_origin(at),
        )
        to_json(document)
        to_msgpack(document)
        clock.record(DESCRIBE)
        ids.append(_ids_of(detections.tracker_id))
    capture.close()
    return clock.means(), ids


def baseline_work(film: Path, outputs: list[FloatArray]) -> tuple[Round, list[list[int]]]:
    """Scale and track in the plain way. Return the means, and the ids of each frame."""
    clock, letterbox, pixels = _Clock(), Letterbox(_MANIFEST), _slot()
    tracker = PackageTracker(confidence=_RULES.confidence, fps=_FPS)
    ids = []
    for at, (convert, output) in enumerate(zip(_whole_pictures(film), outputs, strict=True)):
        clock.start()
        geometry = letterbox.write(ArrayPicture(convert()), pixels)
        clock.record(SCALE)
        detections = decode([output], geometry, manifest=_MANIFEST, rules=_RULES)
        clock.start()
        detections = tracker.update(detections, at / _FPS)
        clock.record(TRACK)
        ids.append(_ids_of(detections.tracker_id))
    return clock.means(), ids


class _Clock:
    """Adds up the CPU time of this thread, by step."""

    def __init__(self) -> None:
        self._spent: dict[str, list[float]] = {}  # seconds, by step
        self._began = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._began = time.thread_time()

    def record(self, step: str) -> None:
        """End a step, and begin the next one."""
        self._spent.setdefault(step, []).append(time.thread_time() - self._began)
        self._began = time.thread_time()

    def means(self) -> Round:
        """Milliseconds for each frame."""
        return {step: 1000 * statistics.mean(spent[_WARM_UP:]) for step, spent in self._spent.items()}


def _whole_pictures(film: Path) -> Iterator[Callable[[], Image]]:
    """For each frame a function that converts all of it."""
    reformatter = VideoReformatter()
    with av.open(str(film)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            yield lambda frame=frame: _bgr(reformatter, frame)  # type: ignore[misc]


def _bgr(reformatter: VideoReformatter, frame: av.VideoFrame) -> Image:
    """(height, width, 3), a view of the memory of the converted picture."""
    picture = reformatter.reformat(
        frame, frame.width, frame.height, "bgr24", interpolation=Interpolation.BICUBIC, threads=1
    )
    rows = np.frombuffer(cast(bytes, picture.planes[0]), np.uint8).reshape(picture.height, -1)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


def _slot() -> Image:
    return np.empty((1, 3, _INPUT, _INPUT), np.uint8)


def _ids_of(found: npt.NDArray[Any] | None) -> list[int]:
    return [] if found is None else sorted(found.tolist())


def _origin(at: int) -> Origin:
    now = time.time()
    return Origin(
        source_id=0,
        frame_id=at + 1,
        decoded_at=now,
        emitted_at=now,
        pipeline_id="entrance",
        device="device",
        generation=1,
        incarnation=1,
        seq=at,
    )


# the model ------------------------------------------------------------------------------------------------


def output_of(at: int) -> FloatArray:
    """What the model gives for a frame: (1, 84, 8400) float32. Pure."""
    chance = np.random.default_rng(at)
    output = np.empty((84, 8400), np.float32)
    output[:2] = chance.uniform(0, _INPUT, (2, 8400))  # centres
    output[2:4] = chance.uniform(5, 200, (2, 8400))  # sizes
    output[4:] = 0.3 * chance.random((80, 8400), np.float32) ** 8
    where = np.sort(chance.choice(8400, OBJECTS * _NEAR, replace=False))
    for number, near in enumerate(np.split(chance.permutation(where), OBJECTS)):
        # Four rows of five, which swing to and fro in the part of the input that the picture covers.
        swing = 6 * np.sin(at / 10 + number)
        centre = [64 + 128 * (number % 5) + swing, 185 + 90 * (number // 5) + swing]
        output[:2, near] = np.reshape(centre, (2, 1)) + chance.normal(0, 1, (2, _NEAR))
        output[2:4, near] = [[40], [60]] * chance.uniform(0.95, 1.05, (2, _NEAR))
        output[4 + number, near] = chance.uniform(0.5, 0.95, _NEAR)
    return output[None]


# the report -----------------------------------------------------------------------------------------------


def report(setting: Setting, found: Result, *, frames: int) -> Report:
    """Report medians of the rounds."""
    own = [{**each, WHOLE: sum(each.values())} for each in found.own]
    middle = {step: statistics.median(each[step] for each in own) for step in (*STEPS, WHOLE)}
    plain = {step: statistics.median(each[step] for each in found.baseline) for step in LIMITS}
    ratio = {step: ratio_of(found, step) for step in LIMITS}
    return Report(
        name="own-work",
        title=f"CPU of a camera's own work on a frame: 1920x1080, {OBJECTS} tracked boxes",
        sizes={
            "frames": frames,
            "rounds": setting.rounds_of(15),
            "boxes": OBJECTS,
            "film": "drawn" if setting.is_generated else setting.video_name,
        },
        tables=(
            Table(
                "CPU for a frame",
                (Column("camera", "ms", 3), Column("baseline", "ms", 3), Column("ratio", digits=2)),
                tuple(Row(step, (middle[step], plain.get(step), ratio.get(step))) for step in middle),
            ),
        ),
        charts=(
            Bars(
                f"a frame of 1920x1080 with {OBJECTS} boxes (lower is better)",
                "ms of CPU",
                (*STEPS, WHOLE),
                (
                    Series("camera", tuple(middle.values())),
                    Series("baseline", tuple(plain.get(step) for step in middle)),
                ),
                digits=2,
            ),
        ),
        checks=tuple(
            Check(f"{step}, ratio to the baseline", ratio[step], limit, "") for step, limit in LIMITS.items()
        ),
        rounds={
            **{f"{step}, ms": [each[step] for each in own] for step in middle},
            **{f"{step}, baseline, ms": [each[step] for each in found.baseline] for step in LIMITS},
        },
    )


def ratio_of(found: Result, step: str) -> float:
    """The median of the ratios within each round. Pure."""
    pairs = zip(found.own, found.baseline, strict=True)
    return statistics.median(own[step] / max(baseline[step], 1e-9) for own, baseline in pairs)
