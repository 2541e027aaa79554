"""Time of one inference on this CPU: float32 and INT8, in ONNX Runtime and in OpenVINO.

Measured is one run of one thread, from the numbers of a picture to the output, in a process of its own.
Rounds of all variants alternate, and each ratio is within its round. Two models, unless one is chosen: the
detector of the demo on the conveyor belt that it was trained for, and a stand-in of YOLOv8n's size, of which
only the cost is real. INT8 is made of frames that are not compared, as
`streamfleet models optimise` makes it; its head stays float.

Agreement with float32 in ONNX Runtime: the detections of both that have the same class and overlap by half,
twice, divided by all detections of both. OpenVINO is asked for float32, and needs an ONNX Runtime of its own.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import supervision as sv

from benchmarks.bare import RULES, Video, session_of
from benchmarks.processes import TIMEOUT, child, receive, start_session
from benchmarks.report import Bars, Cell, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting, heavy_by_default
from streamfleet_api.local.demo import conveyor_model
from streamfleet_core.models import onnx_file
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.choice import OPENVINO
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.host.board import read_cpu
from streamfleet_worker.ipc.shared_memory import FloatArray
from streamfleet_worker.optimise.quantization import quantize
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.conveyor import draw
from tests.fakes.ports_and_folders import short_folder

if TYPE_CHECKING:
    import onnxruntime

FLOAT, INT8 = "float32, ONNX Runtime", "INT8, ONNX Runtime"
OPENVINO_FLOAT, OPENVINO_INT8 = "float32, OpenVINO", "INT8, OpenVINO"
VARIANTS = (FLOAT, INT8, OPENVINO_FLOAT, OPENVINO_INT8)
AGREEMENT = 90.0  # percent, at least, of INT8 with float32 on the demo's detector
HOW_TO_GET = (
    f"{OPENVINO} is not installed: in an environment of its own, pip uninstall -y onnxruntime and"
    "\npip install onnxruntime-openvino. Its plug-in onnxruntime-ep-openvino has no device on CPUs of AMD."
)
_PREPARATION = 240.0  # seconds for INT8 and the comparison
_OVERLAP = 0.5  # IoU of the same object
_BELT = 5  # a scene that the demo does not show
_APART = 7  # frames between two that are taken
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Task:
    """The work of the process of one model."""

    weights: Path
    manifest: Manifest
    video: Path | None  # None: the conveyor belt
    folder: Path
    frames: int  # that are compared, and as many others for the ranges of INT8
    rounds: int
    runs: int  # of each variant in a round


@dataclass(slots=True)
class Measured:
    """What the process found out about one variant."""

    times: list[float] = field(default_factory=list)  # ms, the median of each round
    agreement: float = 0.0  # percent
    score: float = 0.0  # largest difference of a score of the same object
    detections: int = 0
    size: int = 0  # bytes of the file


def run(setting: Setting) -> Report:
    """Measure each model."""
    found: dict[str, dict[str, Measured]] = {}
    frames, rounds, runs = setting.pick(24, 3), setting.rounds_of(9), setting.pick(10, 1)
    with short_folder() as folder:
        for name, weights, manifest, video in _models(setting, folder):
            task = Task(weights, manifest, video, folder, frames, rounds, runs)
            with child(_measure, task) as connection:
                # Most of the time is that of the runs, which may take a second each.
                found[name] = receive(connection, _PREPARATION + TIMEOUT + 4 * rounds * runs)
    return report(setting, found, frames=frames, rounds=rounds, runs=runs)


def _models(setting: Setting, folder: Path) -> list[tuple[str, Path, Manifest, Path | None]]:
    """Return the name, file and manifest of each model, and the video that it sees."""
    if setting.is_chosen:
        return [(setting.model_name, setting.model, setting.manifest, setting.video)]
    weights = folder / "conveyor.onnx"
    weights.write_bytes(conveyor_model())
    models: list[tuple[str, Path, Manifest, Path | None]] = [
        ("the demo's detector", weights, validate_model(weights, digest_of(weights)), None)
    ]
    with heavy_by_default(setting) as heavy:
        copy = folder / "heavy.onnx"
        copy.write_bytes(heavy.model.read_bytes())
        return [*models, (heavy.model_name, copy, heavy.manifest, heavy.video)]


# in the process of a model --------------------------------------------------------------------------------


def _measure(connection: Connection, task: Task) -> None:
    start_session()
    pictures = pictures_of(task, 2 * task.frames)
    compared, others = pictures[::2], pictures[1::2]
    small = task.folder / f"{task.weights.stem}.int8.onnx"
    name = onnx_file.read_file(task.weights).inputs[0].name
    inputs = ({name: numbers} for numbers, _ in others)
    quantize(task.weights, small, inputs, full_range=read_cpu().adds_without_overflow)
    files = {FLOAT: task.weights, INT8: small, OPENVINO_FLOAT: task.weights, OPENVINO_INT8: small}
    sessions = {name: _session(name, path) for name, path in files.items() if _is_there(name)}
    found = {name: Measured(size=files[name].stat().st_size) for name in sessions}
    expected = [_detections(sessions[FLOAT], each, task.manifest) for each in compared]
    for name, session in sessions.items():
        detections = [_detections(session, each, task.manifest) for each in compared]
        measured = found[name]
        measured.detections = sum(map(len, detections))
        measured.agreement, measured.score = agreement(expected, detections)
    for _ in range(task.rounds):
        for name, session in sessions.items():
            found[name].times.append(_median_ms(session, compared[0][0], task.runs))
    connection.send(found)


def pictures_of(task: Task, count: int) -> list[tuple[FloatArray, Geometry]]:
    """Return pictures as the model takes them, some frames apart."""
    letterbox = Letterbox(task.manifest)
    shape = (1, 3, task.manifest.input_height, task.manifest.input_width)
    pixels = np.zeros(shape, np.uint8)
    found = []
    images = _images(task)
    for number in range(count):
        geometry = letterbox.write(ArrayPicture(images(number)), pixels)
        numbers = np.empty(shape, np.float32)
        normalize(pixels, input_format_of(task.manifest).scale, numbers)
        found.append((numbers, geometry))
    return found


def _images(task: Task) -> Callable[[int], Image]:
    if task.video is None:
        return lambda number: draw(_BELT, number * _APART)
    video = Video(task.video)

    def next_image(_: int) -> Image:
        image = video.next()
        if image is None:
            raise ValueError(f"expected a video with at least {2 * task.frames} frames, got fewer")
        return image

    return next_image


def _is_there(variant: str) -> bool:
    return "OpenVINO" not in variant or OPENVINO in onnx_runtime().get_available_providers()


def _session(variant: str, weights: Path) -> onnxruntime.InferenceSession:
    if "OpenVINO" not in variant:
        return session_of(weights, 1)
    as_float = {"CPU": {"INFERENCE_NUM_THREADS": "1", "INFERENCE_PRECISION_HINT": "f32"}}
    options = {"device_type": "CPU", "load_config": json.dumps(as_float)}
    session = onnx_runtime().InferenceSession(
        weights.read_bytes(), providers=[(OPENVINO, options)], enable_fallback=0
    )
    if session.get_providers()[0] != OPENVINO:
        raise RuntimeError(f"expected a session on {OPENVINO}, got {session.get_providers()}")
    return session


def _detections(
    session: onnxruntime.InferenceSession, picture: tuple[FloatArray, Geometry], manifest: Manifest
) -> sv.Detections:
    numbers, geometry = picture
    output = session.run(None, {session.get_inputs()[0].name: numbers})[0]
    return decode([output], geometry, manifest=manifest, rules=RULES)


def _median_ms(session: onnxruntime.InferenceSession, numbers: FloatArray, runs: int) -> float:
    times, given = [], {session.get_inputs()[0].name: numbers}
    for _ in range(runs):
        began = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - began)
    return _MS * statistics.median(times)


def agreement(ours: Sequence[sv.Detections], theirs: Sequence[sv.Detections]) -> tuple[float, float]:
    """Return the percentage of detections that agree, and the largest difference of their scores. Pure."""
    pairs, apart = 0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        for score, other_score in _same(one, other):
            pairs, apart = pairs + 1, max(apart, abs(score - other_score))
    total = sum(map(len, ours)) + sum(map(len, theirs))
    return (100 * 2 * pairs / total if total else 100.0), apart


def _same(one: sv.Detections, other: sv.Detections) -> list[tuple[float, float]]:
    """Return the scores of detections of the same objects, the most confident first."""
    if not len(one) or not len(other):
        return []
    assert one.confidence is not None
    assert other.confidence is not None
    overlaps = sv.box_iou_batch(one.xyxy, other.xyxy)
    overlaps[np.asarray(one.class_id)[:, None] != np.asarray(other.class_id)[None]] = 0.0
    found = []
    for index in np.argsort(-one.confidence, kind="stable"):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= _OVERLAP:
            found.append((float(one.confidence[index]), float(other.confidence[best])))
            overlaps[:, best] = 0.0
    return found


# the report -----------------------------------------------------------------------------------------------


def report(
    setting: Setting, found: dict[str, dict[str, Measured]], *, frames: int, rounds: int, runs: int
) -> Report:
    """Report medians of the rounds."""
    rows = tuple(
        Row(f"{model}, {variant}", _cells(variants, variant))
        for model, variants in found.items()
        for variant in VARIANTS
    )
    columns = (
        *(Column("inference", "ms"), Column("ratio", digits=2), Column("agreement", "%")),
        *(Column("score apart", digits=3), Column("detections", digits=0), Column("file", "MB")),
    )
    has_openvino = any(OPENVINO_FLOAT in variants for variants in found.values())
    checks = [
        Check(f"{model}, agreement of {INT8}", variants[INT8].agreement, AGREEMENT, "%", at_least=True)
        for model, variants in found.items()
    ]
    return Report(
        name="precision",
        title="Time of one inference, one thread, by precision and provider",
        sizes={"models": list(found), "frames": frames, "rounds": rounds, "runs": runs},
        tables=(Table("medians", columns, rows),),
        charts=(_chart(found),),
        checks=tuple(checks),
        rounds={
            f"{model}, {variant}, ms": measured.times
            for model, variants in found.items()
            for variant, measured in variants.items()
        },
        notes=() if has_openvino else (HOW_TO_GET,),
    )


def _cells(variants: dict[str, Measured], variant: str) -> tuple[Cell, ...]:
    measured = variants.get(variant)
    if measured is None:
        return ("not installed", *[None] * 5)
    return (
        statistics.median(measured.times),
        ratio(measured.times, variants[FLOAT].times),
        measured.agreement,
        measured.score,
        measured.detections,
        measured.size / 1000**2,
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios within the rounds. Pure."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _chart(found: dict[str, dict[str, Measured]]) -> Bars:
    return Bars(
        "One inference, one thread (lower is better)",
        "ms",
        tuple(found),
        tuple(
            Series(
                variant,
                tuple(
                    statistics.median(variants[variant].times) if variant in variants else None
                    for variants in found.values()
                ),
            )
            for variant in VARIANTS
            if any(variant in variants for variants in found.values())
        ),
    )
