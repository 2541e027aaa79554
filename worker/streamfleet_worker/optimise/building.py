"""Builds the variants of a model, and compares each with the model itself."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfleet_core.models.agreement import Box, compare, summarize
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.family_recognition import SIZES_INPUT
from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.models.onnx_graph import Graph
from streamfleet_core.models.optimisation import Job, refusal_of
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.tasks.optimisation import Failed, Outcome, Trial
from streamfleet_core.protocol.values import Manifest, Weights
from streamfleet_worker.engine.accelerators.choice import CPU
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.engine.onnx_session import BadModel, Session
from streamfleet_worker.families.adapter import BadOutput
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.host.board import Cpu
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.optimise.candidates import Candidate, candidates
from streamfleet_worker.optimise.comparison import ModelRun, compare_speed
from streamfleet_worker.optimise.half_precision import halve
from streamfleet_worker.optimise.pictures import ModelPicture, read_pictures, unpacked
from streamfleet_worker.optimise.quantization import quantize

RULES = PostProcessing()  # the defaults of a device

OnProgress = Callable[[str], None]
Build = Callable[[Path, Path, Iterator[dict[str, npt.NDArray[Any]]], Candidate], None]


class CannotCompare(Exception):
    """A model that variants cannot be compared with. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Where the variants will run."""

    name: str
    provider: str
    cpu: Cpu


def optimise(job: Job, board: Board, on_progress: OnProgress, build: Build | None = None) -> Outcome:
    """Build and measure all variants for this board. `build`: writes one; None: as the candidate says.

    What a variant must find is what the model finds in float on the CPU: an accelerator may compute less
    exactly. Its time is compared with that of the model on the same board.

    Raises: NothingToBuild, CannotCompare, TooFewPictures, SourceLost, BadModel,
    AcceleratorUnusable, OSError, one of `run_errors`.
    """
    wanted = candidates(board.provider)
    pictures = read_pictures(
        unpacked(job.pictures, Path(job.folder)),
        job.manifest,
        job.frames,
        lambda done, of: on_progress(f"reading pictures: {done} of {of}"),
    )
    exact = ModelRun(_load(Path(job.weights_path), job.manifest, CPU), job.manifest)
    on_progress("running the model itself")
    expected = _found(exact, pictures.comparison)
    if not any(expected):
        raise CannotCompare(
            f"the model finds nothing in {len(expected)} pictures: choose some with objects that it knows"
        )
    rival = exact
    if board.provider != CPU:
        rival = ModelRun(_load(Path(job.weights_path), job.manifest, board.provider), job.manifest)
    trials, failed = [], []
    for candidate in wanted:
        on_progress(f"building {candidate.precision} with {len(pictures.calibration)} pictures")
        target = Path(job.folder) / f"{candidate.precision}.onnx"
        try:
            (build or _writer(board.cpu))(
                Path(job.weights_path), target, _inputs(job, pictures.calibration), candidate
            )
            on_progress(f"comparing {candidate.precision} on {len(pictures.comparison)} other pictures")
            trials.append(_tried(job, board, candidate, target, rival, expected, pictures.comparison))
        except _build_errors() as exc:
            failed.append(Failed(precision=candidate.precision, reason=shown_reason(str(exc))))
    ms = statistics.median(of for _, of in trials) if trials else 0.0
    return Outcome(
        board=board.name,
        provider=board.provider,
        calibrated=len(pictures.calibration),
        compared=len(pictures.comparison),
        boxes=sum(map(len, expected)),
        ms=ms,
        trials=tuple(replace(trial, ms=ms / trial.speedup) for trial, _ in trials),
        failed=tuple(failed),
    )


def _tried(
    job: Job,
    board: Board,
    candidate: Candidate,
    path: Path,
    rival: ModelRun,
    expected: Sequence[list[Box]],
    pictures: Sequence[ModelPicture],
) -> tuple[Trial, float]:
    """The figures of a variant, and the time of the model. Raises: BadModel, BadOutput, run_errors."""
    weights = Weights(digest_of(path), path.stat().st_size)
    other = ModelRun(_load(path, replace(job.manifest, weights=weights), board.provider), job.manifest)
    found = _found(other, pictures)
    agreement = summarize(compare(one, two) for one, two in zip(expected, found, strict=True))
    speed = compare_speed(rival, other, pictures[0])
    trial = Trial(
        precision=candidate.precision,
        path=str(path),
        weights=weights,
        ms=speed.reference_ms / speed.ratio,
        speedup=speed.ratio,
        agreement=agreement.f1,
        class_agreement=agreement.class_agreement,
        shift=agreement.mean_shift,
        blind_frames=agreement.blind_frames,
        refusal=refusal_of(agreement, speedup=speed.ratio, least_agreement=job.least_agreement),
    )
    return trial, speed.reference_ms


def _load(path: Path, manifest: Manifest, provider: str) -> Session:
    return Session(str(path), manifest, provider=provider, max_batch=1)


def _found(run: ModelRun, pictures: Sequence[ModelPicture]) -> list[list[Box]]:
    return [run.find(picture, RULES) for picture in pictures]


def _writer(cpu: Cpu) -> Build:
    def build(
        source: Path, target: Path, inputs: Iterator[dict[str, npt.NDArray[Any]]], candidate: Candidate
    ) -> None:
        if candidate.method == "fp16":
            halve(source, target)
        else:
            quantize(
                source,
                target,
                inputs,
                full_range=cpu.adds_without_overflow,
                keep_stem=candidate.keep_stem,
            )

    return build


def _inputs(job: Job, pictures: Sequence[ModelPicture]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the inputs of the model for each picture. Raises: BadModel, if they are not float32."""
    graph = read_file(Path(job.weights_path))
    name = _picture_input(graph)
    sizes = {
        port.name: np.array([[job.manifest.input_width, job.manifest.input_height]], np.int64)
        for port in graph.inputs
        if port.name == SIZES_INPUT
    }
    scale = input_format_of(job.manifest).scale
    for picture in pictures:
        numbers = np.empty(picture.pixels.shape, np.float32)
        normalize(picture.pixels, scale, numbers)
        yield {name: numbers, **sizes}


def _picture_input(graph: Graph) -> str:
    port = next(each for each in graph.inputs if each.name != SIZES_INPUT)
    if port.dtype != "FLOAT":
        raise BadModel(f"expected a model of float32, got an input of {port.dtype}")
    return port.name


def _build_errors() -> tuple[type[Exception], ...]:
    """What onnx and the tools of ONNX Runtime raise for models that they cannot take."""
    errors: list[type[Exception]] = [AcceleratorUnusable, BadModel, BadOutput, OSError, *run_errors()]
    errors += [KeyError, IndexError, AttributeError, TypeError]
    with contextlib.suppress(ImportError):
        from onnx import checker, shape_inference

        errors += [checker.ValidationError, shape_inference.InferenceError]
    return tuple(errors)
