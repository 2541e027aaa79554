"""What the motion gate, regions and kept classes save, and what the gate misses.

Each film is inferred whole, frame by frame, in one thread of a process of its own. From the detections of all
frames follows what a gated source would have told. A film is played as it is, and with stops: 5 s of it, then
the last picture for 15 s, with noise of a sensor that is new in each frame (a deviation of 3 of 255 levels).

    skipped         frames that the gate lets pass without an inference, of all frames
    CPU saved       of conversion, inference and postprocessing, less the CPU time of the gate
    missed objects  objects that are found in skipped frames, and that the last predictions do not have: of
                    the same class, with an IoU of at least 0.5; as a share of the objects of all frames
    frames          skipped frames with such an object, of all frames

`of nine parts` are nine sources that see the same film, each with a ninth of the picture as its region.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import supervision as sv

from benchmarks.bare import RULES, session_of
from benchmarks.processes import TIMEOUT, child, receive, start_session
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from streamfleet_api.local.demo import conveyor_model
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.values import Manifest, Motion, Region, SourceSpec
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.detection.selection import selection_of
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.motion_gate import MotionGate
from streamfleet_worker.video.outputs.encoding import to_json
from streamfleet_worker.video.outputs.prediction import Names, Origin, describe
from streamfleet_worker.video.synthetic.conveyor import FPS, draw
from tests.fakes.ports_and_folders import short_folder

WHOLE, PARTS = "whole picture", "of nine parts"
SENSITIVITIES = (0.0, 0.5, 1.0)
AS_IT_IS, WITH_STOPS = "as it is", "with stops"
SKIPPED, MISSED = 60.0, 3.0  # percent, of a film with stops: skipped at least, and objects missed at most
_BELT = 5  # a scene that the demo does not show
_MOVES, _STANDS = 5.0, 15.0  # seconds; of a film that is shorter, a quarter and three quarters
_DEVIATION = 3.0  # levels of brightness
_OVERLAP = 0.5  # IoU of the same object
_MS = 1000.0
_NINTHS = tuple(
    ((x, y), (x + 1 / 3, y), (x + 1 / 3, y + 1 / 3), (x, y + 1 / 3))
    for x, y in itertools.product((0, 1 / 3, 2 / 3), repeat=2)
)


@dataclass(frozen=True, slots=True)
class Task:
    """The work of the process of one film."""

    weights: Path
    manifest: Manifest
    video: Path | None  # None: the conveyor belt
    frames: int
    stops: bool


@dataclass(slots=True)
class Seen:
    """All frames of a film, with what is found in each of them."""

    overviews: list[Image] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # media seconds
    found: list[sv.Detections] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    gate: float = 0.0  # CPU seconds of all frames
    inference: float = 0.0  # with conversion and postprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one gate makes of a film. All counts are of all frames."""

    frames: int
    skipped: int
    objects: int
    missed: int
    missing_frames: int

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            frames=self.frames + other.frames,
            skipped=self.skipped + other.skipped,
            objects=self.objects + other.objects,
            missed=self.missed + other.missed,
            missing_frames=self.missing_frames + other.missing_frames,
        )


def run(setting: Setting) -> Report:
    """Infer each film, and compare."""
    seen: dict[str, tuple[Seen, Manifest]] = {}
    frames = setting.pick(600, 45)
    with short_folder() as folder:
        for name, task in _tasks(setting, folder, frames):
            with child(_watch, task) as connection:
                seen[name] = receive(connection, frames + TIMEOUT), task.manifest
    return report(seen, frames=frames)


def _tasks(setting: Setting, folder: Path, frames: int) -> Iterator[tuple[str, Task]]:
    weights = folder / "conveyor.onnx"
    weights.write_bytes(conveyor_model())
    films = [("conveyor", Task(weights, validate_model(weights, digest_of(weights)), None, frames, False))]
    if not setting.is_generated:
        given = Task(setting.model, setting.manifest, setting.video, frames, False)
        films.append((f"{setting.video_name}, {setting.model_name}", given))
    for name, task in films:
        yield f"{name}, {AS_IT_IS}", task
        yield f"{name}, {WITH_STOPS}", replace(task, stops=True)


# in the process of a film ---------------------------------------------------------------------------------


def _watch(connection: Connection, task: Task) -> None:
    start_session()
    cv2.setNumThreads(1)
    connection.send(watch(task))


def watch(task: Task) -> Seen:
    """Infer every frame."""
    seen, session = Seen(), session_of(task.weights, 1)
    name, letterbox = session.get_inputs()[0].name, Letterbox(task.manifest)
    shape = (1, 3, task.manifest.input_height, task.manifest.input_width)
    pixels, numbers = np.zeros(shape, np.uint8), np.empty(shape, np.float32)
    scale = input_format_of(task.manifest).scale
    images, gate = _images(task), MotionGate()
    gate.use(Motion(), None)
    for _ in range(task.frames):
        image, at = next(images)
        began = time.process_time()
        overview = ArrayPicture(image).overview()
        gate.is_still(overview, at)
        gate.inferred(overview, at)
        gated = time.process_time()
        geometry = letterbox.write(ArrayPicture(image), pixels)
        normalize(pixels, scale, numbers)
        outputs = session.run(None, {name: numbers})
        found = decode(outputs, geometry, manifest=task.manifest, rules=RULES)
        seen.gate += gated - began
        seen.inference += time.process_time() - gated
        seen.overviews.append(overview)
        seen.times.append(at)
        seen.found.append(found)
        seen.size = (image.shape[1], image.shape[0])
    return seen


def _images(task: Task) -> Iterator[tuple[Image, float]]:
    """The pictures and their media seconds."""
    pictures, fps = (_belt(), FPS) if task.video is None else _film(task.video)
    if not task.stops:
        yield from ((image, number / fps) for number, image in enumerate(pictures))
        return
    chance, number = np.random.default_rng(1), 0
    moves = min(round(_MOVES * fps), task.frames // 4)
    while True:
        for _ in range(moves):
            image = next(pictures)
            yield image, number / fps
            number += 1
        for _ in range(round(moves * _STANDS / _MOVES)):
            noise = chance.normal(0, _DEVIATION, image.shape).astype(np.float32)
            yield (image + noise).clip(0, 255).astype(np.uint8), number / fps
            number += 1


def _belt() -> Iterator[Image]:
    return (draw(_BELT, number).copy() for number in itertools.count(1))


def _film(path: Path) -> tuple[Iterator[Image], float]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)

    def pictures() -> Iterator[Image]:
        while True:
            there, image = capture.read()
            if not there:
                raise ValueError(f"expected a longer film than {path.name}")
            yield np.asarray(image, np.uint8)

    return pictures(), capture.get(cv2.CAP_PROP_FPS) or FPS


# what would have been told --------------------------------------------------------------------------------


def gated(seen: Seen, rule: Motion, region: Region | None) -> Outcome:
    """What a gate makes of a film. Pure."""
    found = [_in_region(each, region, seen.size) for each in seen.found]
    gate = MotionGate()
    gate.use(rule, region)
    last, skipped, missed, missing_frames = sv.Detections.empty(), 0, 0, 0
    for overview, at, there in zip(seen.overviews, seen.times, found, strict=True):
        if not gate.is_still(overview, at):
            gate.inferred(overview, at)
            last = there
            continue
        lost = missing(there, last)
        skipped, missed, missing_frames = skipped + 1, missed + lost, missing_frames + (lost > 0)
    return Outcome(
        frames=len(found),
        skipped=skipped,
        objects=sum(map(len, found)),
        missed=missed,
        missing_frames=missing_frames,
    )


def missing(there: sv.Detections, told: sv.Detections) -> int:
    """How many objects are not among those that were told. Pure."""
    if not len(there) or not len(told):
        return len(there)
    assert there.confidence is not None
    overlaps = sv.box_iou_batch(there.xyxy, told.xyxy)
    overlaps[np.asarray(there.class_id)[:, None] != np.asarray(told.class_id)[None]] = 0.0
    lost = 0
    for index in np.argsort(-there.confidence, kind="stable"):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] < _OVERLAP:
            lost += 1
        else:
            overlaps[:, best] = 0.0
    return lost


def _in_region(found: sv.Detections, region: Region | None, size: tuple[int, int]) -> sv.Detections:
    selection = selection_of(SourceSpec(0, region=region), ())
    kept = found[selection.keeps_places(found.xyxy.T, width=size[0], height=size[1])]
    assert isinstance(kept, sv.Detections)
    return kept


def _gates(seen: Seen) -> Iterator[tuple[str, Outcome]]:
    for sensitivity in SENSITIVITIES:
        rule = Motion(sensitivity=sensitivity)
        yield f"{WHOLE}, {sensitivity:g}", gated(seen, rule, None)
        parts = [gated(seen, rule, ninth) for ninth in _NINTHS]
        yield f"{PARTS}, {sensitivity:g}", sum(parts[1:], parts[0])


def _filters(seen: Seen, manifest: Manifest) -> Iterator[tuple[str, float, float]]:
    """The name of each filter, and what it keeps: objects, and kilobytes of JSON, of a frame."""
    kinds = Counter(int(kind) for each in seen.found for kind in np.asarray(each.class_id))
    yield "everything", *_told(seen, manifest, lambda found: found)
    for name, (kind, _) in (("most", kinds.most_common()[0]), ("least", kinds.most_common()[-1])):
        label = manifest.labels[kind]
        yield f"only {label}, the {name} common", *_told(seen, manifest, _only(kind))
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    yield "only the left half", *_told(seen, manifest, lambda found: _in_region(found, left, seen.size))


def _only(kind: int) -> Callable[[sv.Detections], sv.Detections]:
    def keep(found: sv.Detections) -> sv.Detections:
        kept = found[np.asarray(found.class_id) == kind]
        assert isinstance(kept, sv.Detections)
        return kept

    return keep


def _told(
    seen: Seen, manifest: Manifest, keep: Callable[[sv.Detections], sv.Detections]
) -> tuple[float, float]:
    width, height = seen.size
    names = Names(manifest.labels, manifest.keypoints)
    objects = size = 0
    for number, found in enumerate(map(keep, seen.found)):
        origin = Origin(
            source_id=0,
            frame_id=number + 1,
            decoded_at=0.0,
            emitted_at=0.0,
            pipeline_id="door",
            device="edge-1",
            generation=1,
            incarnation=1,
            seq=number,
        )
        document = describe(found, names=names, width=width, height=height, origin=origin)
        objects, size = objects + len(found), size + len(to_json(document).content)
    return objects / len(seen.found), size / len(seen.found) / 1000


# the report -----------------------------------------------------------------------------------------------


def report(seen: dict[str, tuple[Seen, Manifest]], *, frames: int) -> Report:
    """Report shares of all frames and of all objects."""
    gates = {film: dict(_gates(each)) for film, (each, _) in seen.items()}
    rows = tuple(
        Row(f"{film}, {name}", tuple(_cells(outcome, seen[film][0])))
        for film, outcomes in gates.items()
        for name, outcome in outcomes.items()
    )
    filters = tuple(
        Row(f"{film}, {name}", (objects, size))
        for film, (each, manifest) in seen.items()
        if any(map(len, each.found))
        for name, objects, size in _filters(each, manifest)
    )
    usual = f"{WHOLE}, 0.5"
    checks = [
        check
        for film, outcomes in gates.items()
        if film.endswith(WITH_STOPS)
        for check in _checks(film, outcomes[usual])
    ]
    return Report(
        name="gate",
        title="Savings and misses of the motion gate, by region and sensitivity",
        sizes={"films": list(seen), "frames": frames},
        tables=(
            Table("motion gate, shares of all frames and objects", _COLUMNS, rows),
            Table("what is kept of a frame", (Column("objects", digits=2), Column("JSON", "kB", 2)), filters),
        ),
        charts=(_chart(gates),),
        checks=tuple(checks),
        rounds={},
    )


_COLUMNS = (
    *(Column("skipped", "%"), Column("CPU saved", "%"), Column("missed objects", "%", 2)),
    *(Column("frames", "%", 2), Column("gate", "ms", 2), Column("inference", "ms")),
)


def _cells(outcome: Outcome, seen: Seen) -> Iterator[float]:
    share = outcome.skipped / outcome.frames
    yield 100 * share
    yield 100 * (share - seen.gate / seen.inference)
    yield 100 * outcome.missed / max(1, outcome.objects)
    yield 100 * outcome.missing_frames / outcome.frames
    yield _MS * seen.gate / len(seen.found)
    yield _MS * seen.inference / len(seen.found)


def _checks(film: str, outcome: Outcome) -> Sequence[Check]:
    missed = 100 * outcome.missed / max(1, outcome.objects)
    return (
        Check(f"{film}: skipped", 100 * outcome.skipped / outcome.frames, SKIPPED, "%", at_least=True),
        Check(f"{film}: missed objects", missed, MISSED, "%"),
    )


def _chart(gates: dict[str, dict[str, Outcome]]) -> Bars:
    names = list(next(iter(gates.values())))
    return Bars(
        "Frames without an inference (higher is better)",
        "% of all frames",
        tuple(gates),
        tuple(
            Series(name, tuple(100 * each[name].skipped / each[name].frames for each in gates.values()))
            for name in names
        ),
    )
