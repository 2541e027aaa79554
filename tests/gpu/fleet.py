"""A whole fleet: frames per second with several files, and what the status tells of the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import bare, throughput
from benchmarks.fleets import MODEL_ID, delete_all, put
from benchmarks.setting import PATTERN
from benchmarks.setting import Setting as Benchmark
from streamfleet_api.local.demo import demo_model
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.videos import write_pattern
from tests.fleet.harness import Fleet, wait_for
from tests.gpu.outcome import Outcome, failed, ok
from tests.gpu.setting import Setting

FILES = (1, 8, 16)
_FRAMES = 3000  # of the file: it must not end while the last camera starts
_QUICK_FRAMES = 60
_SENSED = 15.0  # seconds for the first status with figures of the GPU


def files(setting: Setting) -> Outcome:
    """How many frames a second does a fleet infer with 1, 8 and 16 files?"""
    counts = FILES[:1] if setting.quick else FILES
    benchmark = _benchmark(setting)
    figures: dict[str, float | str | None] = {}
    with running(benchmark, most=max(counts)) as fleet:
        device = sensed(fleet, gpu=setting.gpu)
        for count in counts:
            seconds = 0.5 if setting.quick else 5.0
            played = throughput.measure(fleet, benchmark, count, seconds)
            figures[f"frames/s of {count} files"] = bare.rate([each.times for each in played], seconds)
    (engine,) = device["engines"]
    figures |= {"GPU load": device["gpu_load"], "GPU, W": device["gpu_power_watts"]}
    figures |= {"°C": device["temperature"]}
    return judged(engine, device, figures, gpu=setting.gpu)


def judged(
    engine: dict[str, Any],
    device: dict[str, Any],
    figures: dict[str, float | str | None],
    *,
    gpu: bool,
) -> Outcome:
    """Does the GPU run the model of a fleet, and does its status tell of the GPU? Pure."""
    provider, missing = engine["provider"], engine["missing_accelerator"]
    if gpu and (provider == CPU or missing is not None):
        return failed(f"expected a model on the GPU, got {provider}: {missing}", figures)
    if gpu and device["gpu_load"] is None:
        return failed("expected the load of the GPU in the status of the device, got none", figures)
    return ok(f"a fleet infers on {provider}", figures)


def sensed(fleet: Fleet, *, gpu: bool) -> dict[str, Any]:
    """The status of the device while a live source is predicted, if possible with figures of the GPU."""
    put(fleet, "live", PATTERN)
    wait_for(lambda: _device(fleet)["engines"], "an engine")
    ready = wait_for(lambda: _with_engine(fleet), lambda: f"a ready engine: {_device(fleet)['engines']}")
    if gpu:
        try:
            ready = wait_for(lambda: _with_load(fleet), "the load of the GPU", timeout=_SENSED)
        except AssertionError:
            ready = _device(fleet)  # judged later
    delete_all(fleet)
    return ready


@contextmanager
def running(benchmark: Benchmark, *, most: int) -> Iterator[Fleet]:
    """Run a fleet of one worker that has the model, until the block ends."""
    with short_folder() as home:
        fleet = Fleet(home)
        fleet.environment["STREAMFLEET_CAPACITY"] = str(most)
        if CUDA in onnx_runtime().get_available_providers():
            fleet.environment["STREAMFLEET_PROVIDER"] = "cuda"  # the step `plan` builds plans
        try:
            fleet.start()
            fleet.add_model(MODEL_ID, benchmark.model)
            yield fleet
        finally:
            fleet.stop()


def _device(fleet: Fleet) -> dict[str, Any]:
    answer = fleet.http.get("/v2/devices")
    assert answer.is_success, answer.text
    (device,) = answer.json()["devices"]
    found: dict[str, Any] = device
    return found


def _with_engine(fleet: Fleet) -> dict[str, Any] | None:
    device = _device(fleet)
    states = [each["state"] for each in device["engines"]]
    assert "failed" not in states, device["engines"]
    return device if states == ["ready"] and device["engines"][0]["inferences"] else None


def _with_load(fleet: Fleet) -> dict[str, Any] | None:
    device = _device(fleet)
    return device if device["gpu_load"] is not None and device["engines"] else None


def _benchmark(setting: Setting) -> Benchmark:
    """The model and the film of this step, as benchmarks have them."""
    model = setting.model.path
    if not setting.gpu:  # the small one of this check has no names of classes, which a fleet asks for
        model = setting.folder / "demo.onnx"
        model.write_bytes(demo_model())
    film = write_pattern(setting.folder / "film.avi", _QUICK_FRAMES if setting.quick else _FRAMES)
    return Benchmark(
        quick=setting.quick,
        rounds=1,
        model=model,
        model_options=(),
        manifest=validate_model(Path(model), digest_of(model)),
        video=film,
        is_generated=True,
        model_name=model.name,
        video_name=film.name,
        is_heavy=setting.gpu,
    )
