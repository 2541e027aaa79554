"""Real engine processes: refused, on the CPU, on CUDA, and with a plan of TensorRT."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, TENSORRT
from streamfleet_worker.engine.messages import Done
from streamfleet_worker.engine.process import main
from streamfleet_worker.engine.tensorrt.library import installed_version
from streamfleet_worker.ipc.child_messages import AcceleratorUse, EngineConfig, EngineReport, ProviderName
from streamfleet_worker.ipc.shared_memory import Slot
from tests.fakes.camera_peer import CameraPeer
from tests.fakes.process_harness import Child
from tests.gpu.inference import difference_of_slots
from tests.gpu.machine import gpu_memory
from tests.gpu.outcome import Outcome, failed, ok, skipped
from tests.gpu.setting import Setting

HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
_SLOTS = 8
_LEFT = 64.0  # MB that may be in use after an engine has ended, beyond what was before
_FREED = 10.0  # seconds for the driver to free the memory of a process
_HALF_PIXELS, _HALF_SCORE = 4.0, 0.05  # largest differences of FP16


@contextmanager
def engine(
    setting: Setting,
    *,
    accelerator: AcceleratorUse = "prefer",
    provider: ProviderName = "auto",
    plans: Path | None = None,
) -> Iterator[Child]:
    """Run an engine until the block ends."""
    config = EngineConfig(
        manifest=setting.model.manifest,
        weights_path=str(setting.model.path),
        socket_path=str(setting.folder / "engine"),
        threads=2,
        accelerator=accelerator,
        provider=provider,
        plans_path=str(plans) if plans else "",
    )
    child = Child(main, config)
    try:
        yield child
    finally:
        child.stop()


def loaded(child: Child, setting: Setting) -> EngineReport:
    """The report of an engine that is ready or failed. Raises: AssertionError."""
    report = child.until(
        "it is ready or failed", lambda each: each.state in ("ready", "failed"), setting.seconds_left()
    )
    assert isinstance(report, EngineReport)
    return report


def require(setting: Setting) -> Outcome:
    """Is a model refused whose accelerator is required, and hidden?"""
    os.environ.update(HIDDEN)
    with engine(setting, accelerator="require") as child:
        report = loaded(child, setting)
    if report.state != "failed" or report.missing is None:
        return failed(f"expected a refusal, got {report.state} on {report.provider}")
    return ok(f"refused: {report.reason}", {"what to do": report.missing.remedy})


def prefer(setting: Setting) -> Outcome:
    """Does a model run on the CPU, and say why, if the accelerator is hidden?"""
    os.environ.update(HIDDEN)
    with engine(setting, accelerator="prefer") as child:
        report = loaded(child, setting)
    if report.state != "ready" or report.provider != CPU:
        return failed(f"expected a model on {CPU}, got {report.state} on {report.provider} {report.reason}")
    if setting.gpu and report.missing is None:
        return failed(f"expected the reason why a model runs on {CPU}, got none")
    if report.missing is None:
        return ok(f"on {CPU} without a warning: there is no GPU")
    return ok(f"on {CPU}: {report.missing.reason}", {"what to do": report.missing.remedy})


def memory(setting: Setting) -> Outcome:
    """Is the memory of the GPU free again when an engine has ended?"""
    if not setting.gpu:
        return skipped("no GPU")
    before = gpu_memory()
    if before is None:
        return skipped("the driver does not tell the memory of its GPU")
    with engine(setting, provider="cuda") as child:
        report = loaded(child, setting)
        if report.provider != CUDA:
            return skipped(f"expected an engine on {CUDA}, got {report.state} on {report.provider}")
        run_slots(setting)
        during = gpu_memory()
    until = time.monotonic() + _FREED
    while (after := gpu_memory() or 0.0) > before + _LEFT and time.monotonic() < until:
        time.sleep(0.2)
    figures: dict[str, float | str | None] = {
        "MB before": before,
        "MB with an engine": during,
        "MB after": after,
    }
    if after > before + _LEFT:
        return failed(f"expected at most {_LEFT:g} MB more than before, got {after - before:.0f}", figures)
    return ok("all is free after the engine has ended", figures)


def run_slots(setting: Setting) -> list[Slot]:
    """Let the engine run pictures, as a camera does, and return them with their outputs."""
    peer = CameraPeer(setting.folder, slots=_SLOTS).share()
    try:
        for slot, picture in zip(peer.slots, setting.pictures(_SLOTS), strict=True):
            slot.input[0] = picture
        peer.run(*range(_SLOTS))
        answers = [peer.hear() for _ in range(_SLOTS)]
    finally:
        peer.link.close()
    assert all(isinstance(answer, Done) for answer in answers), f"expected outputs, got {answers}"
    return peer.slots


@dataclass(frozen=True, slots=True)
class Planned:
    """An engine that has loaded a plan."""

    provider: str
    seconds: float  # until it was ready
    slots: list[Slot]


def plan(setting: Setting) -> Outcome:
    """Is a plan built beside an engine that serves, and used by its successors?"""
    if not setting.gpu:
        return skipped("no GPU")
    if not installed_version():
        return skipped("the module tensorrt is not installed")
    plans = setting.folder / "plans"
    with engine(setting, plans=plans) as child:
        first = loaded(child, setting)
        if first.state != "ready" or not first.activity:
            why = first.missing.reason if first.missing else first.reason
            return failed(f"expected a build beside {first.provider}, got {first.state}: {why or 'no build'}")
        began = time.monotonic()
        served = run_slots(setting)
        last = child.until("the plan is built", lambda each: not each.activity, setting.seconds_left())
        built = time.monotonic() - began
    if not last.outdated:
        return failed(f"expected a plan, got none after {built:.0f} s: {last.missing}")
    (file,) = plans.glob("*.plan")
    inode = file.stat().st_ino
    successors = [planned(setting, plans) for _ in range(2)]
    found = difference_of_slots(successors[0].slots, served)
    figures: dict[str, float | str | None] = {
        "meanwhile on": first.provider,
        "seconds of the build": built,
        "MB of the plan": file.stat().st_size / 1000**2,
        "seconds until an engine with the plan is ready": successors[1].seconds,
        "largest difference of boxes, pixels": found.pixels,
        "largest difference of scores": found.score,
    }
    if any(each.provider != TENSORRT for each in successors):
        return failed(f"expected {TENSORRT}, got {[each.provider for each in successors]}", figures)
    if file.stat().st_ino != inode:
        return failed("expected the same plan after a restart, got another one", figures)
    if found.pixels > _HALF_PIXELS or found.score > _HALF_SCORE:
        return failed(f"expected outputs as on {first.provider}, got others", figures)
    return ok(f"{file.name[-40:]} was built in {built:.0f} s, and used twice", figures)


def planned(setting: Setting, plans: Path) -> Planned:
    """Start an engine that has a plan."""
    began = time.monotonic()
    with engine(setting, plans=plans) as child:
        report = loaded(child, setting)
        seconds = time.monotonic() - began
        assert report.state == "ready", report.reason
        return Planned(report.provider, seconds, run_slots(setting))
