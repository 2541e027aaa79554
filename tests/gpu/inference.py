"""What runs a model: is it CUDA, does it give what a CPU gives, and what do batches bring?"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, Wanted
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.loading import load, offered
from streamfleet_worker.engine.onnx_runtime import load_libraries_of, onnx_runtime
from streamfleet_worker.engine.onnx_session import ACCELERATED_BATCH, Session
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.ipc.shared_memory import Slot
from tests.gpu.outcome import Outcome, failed, ok, skipped
from tests.gpu.setting import CheckedModel, Setting

PICTURES = 16  # that are compared
MOST_PIXELS = 1.0  # largest difference of a box's centre or size: CUDA computes convolutions in TF32
MOST_SCORE = 0.01  # largest difference of a score
LEAST_SCORE = 0.25  # of a detection
_BOX = 4  # rows of an output before its scores


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences of outputs (count, 4 + classes, boxes) of the same pictures."""

    pixels: float
    score: float
    detections: int  # of boxes that only one of both finds

    @property
    def is_small(self) -> bool:
        """Whether it is no more than rounding."""
        return self.pixels <= MOST_PIXELS and self.score <= MOST_SCORE

    def figures(self) -> dict[str, float | str | None]:
        """For the table."""
        return {
            f"largest difference of boxes (at most {MOST_PIXELS:g} pixel)": self.pixels,
            f"largest difference of scores (at most {MOST_SCORE:g})": self.score,
            f"boxes above a score of {LEAST_SCORE:g} in one of both only": float(self.detections),
        }


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compare two outputs of the family `ultralytics`. What is no number differs without limit. Pure."""
    apart = np.nan_to_num(np.abs(ours - theirs), nan=np.inf)
    found, others = (output[:, _BOX:].max(axis=1) >= LEAST_SCORE for output in (ours, theirs))
    return Difference(
        pixels=float(apart[:, :_BOX].max()),
        score=float(apart[:, _BOX:].max()),
        detections=int((found != others).sum()),
    )


def cuda(setting: Setting) -> Outcome:
    """Does CUDA run all heavy nodes, and give what the CPU gives?"""
    if not setting.gpu:
        return skipped("no GPU")
    if CUDA not in onnx_runtime().get_available_providers():
        return skipped(f"ONNX Runtime has no {CUDA} here: on a Jetson, TensorRT runs models")
    return compare(setting, CUDA)


def compare(setting: Setting, provider: str) -> Outcome:
    """Compare a provider with the CPU. Raises: AcceleratorUnusable, BadModel."""
    model = setting.model
    nodes = nodes_by_provider(model, provider, setting.folder)
    count = 2 if setting.quick else PICTURES
    here = Session(str(model.path), model.manifest, provider=CPU, max_batch=1)
    there = Session(str(model.path), model.manifest, provider=provider)
    pictures = setting.pictures(count)
    found = difference(outputs(there, pictures), outputs(here, pictures))
    figures = {**found.figures(), **{f"nodes on {name}": float(number) for name, number in nodes.items()}}
    if not nodes[provider]:
        return failed(f"expected nodes on {provider}, got none", figures)
    if nodes[provider] <= sum(nodes.values()) / 2:
        return failed(f"expected most nodes on {provider}, got {dict(nodes)}", figures)
    if not found.is_small:
        return failed(f"expected the CPU's outputs of {count} pictures, got others", figures)
    return ok(f"{provider} and the CPU agree on {count} pictures", figures)


def nodes_by_provider(model: CheckedModel, provider: str, folder: Path) -> Counter[str]:
    """How many nodes of the graph each provider runs, as the profile of a run tells."""
    runtime = onnx_runtime()
    load_libraries_of(provider)
    options = runtime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        model.path.read_bytes(), options, providers=list(dict.fromkeys((provider, CPU)))
    )
    shape = (1, 3, model.manifest.input_height, model.manifest.input_width)
    session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {(each["name"], each["args"]["provider"]) for each in events if "provider" in each.get("args", {})}
    return Counter(name for _, name in ran)


def outputs(model: Model, pictures: np.ndarray) -> np.ndarray:
    """The outputs of each picture alone: (count, rows, boxes)."""
    runner, (shape,) = model.runner(), model.layout(1).output_shapes
    found = []
    for picture in pictures:
        slot = Slot(picture[None], (np.empty(shape, np.float32),))
        runner.run([slot])
        found.append(slot.outputs[0][0])
    return np.stack(found)


def batches(setting: Setting) -> Outcome:
    """How many pictures a second does a batch bring, without TensorRT?"""
    machine = MachineProbe().read()
    path, manifest = str(setting.model.path), setting.model.manifest
    wanted = Wanted("prefer", "cuda")
    size = ACCELERATED_BATCH
    loaded = load(path, manifest, wanted=wanted, machine=machine, offer=offered(machine), max_batch=size)
    model = loaded.model
    rates = rates_of(model, setting.pictures(size), seconds=0.1 if setting.quick else 2.0)
    figures: dict[str, float | str | None] = {
        f"pictures/s in batches of {count}": rate for count, rate in rates.items()
    }
    if model.max_batch < size:
        return failed(f"expected batches of {size}, got at most {model.max_batch}", figures)
    return ok(f"batches of up to {model.max_batch} on {model.provider}", figures)


def rates_of(model: Model, pictures: np.ndarray, *, seconds: float) -> dict[int, float]:
    """Pictures per second in batches of 1, 2, 4, …, each measured for so long, by their median."""
    runner = model.runner()
    (shape,) = model.layout(1).output_shapes
    slots = [Slot(each[None], (np.empty(shape, np.float32),)) for each in pictures]
    sizes = [size for size in (1, 2, 4, 8) if size <= min(model.max_batch, len(slots))]
    return {size: size / _median_time(lambda: runner.run(slots[:size]), seconds) for size in sizes}  # noqa: B023


def _median_time(run: Callable[[], None], seconds: float) -> float:
    run()  # an accelerator prepares itself for each size
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def difference_of_slots(ours: Sequence[Slot], theirs: Sequence[Slot]) -> Difference:
    """Compare the outputs of slots, by pairs."""
    first, second = (np.concatenate([slot.outputs[0] for slot in slots]) for slots in (ours, theirs))
    return difference(first, second)
