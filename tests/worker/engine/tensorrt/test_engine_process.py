"""An engine on a Jetson: it serves while its plan is built, and its successor runs the plan.

The processes are real; the module `tensorrt` and the GPU are fakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.messages import Done
from streamfleet_worker.ipc.child_messages import AcceleratorUse, EngineReport
from tests.fakes.accelerators import engine_with_tensorrt
from tests.fakes.camera_peer import CameraPeer
from tests.fakes.models import write_squares_model
from tests.fakes.process_harness import Child, ProcessHarness, is_engine, wait_for

ON_CPU, ON_TENSORRT = "CPUExecutionProvider", "TensorRT"


@dataclass
class Jetson:
    """A Jetson whose builds the test controls."""

    stand: ProcessHarness
    path: Path
    manifest: Manifest

    def engine(self, accelerator: AcceleratorUse = "prefer", *, ready: bool = True) -> Child:
        return self.stand.engine(
            self.path,
            self.manifest,
            entry=engine_with_tensorrt,
            accelerator=accelerator,
            plans=self.stand.folder / "plans",
            ready=ready,
        )

    def allow(self, name: str) -> None:
        """Write a file that builds look for."""
        (self.stand.folder / name).touch()

    def update(self, version: str) -> None:
        """Install another version of TensorRT."""
        (self.stand.folder / "version").write_text(version)

    @property
    def builds(self) -> list[str]:
        """The versions of TensorRT that have built a plan."""
        file = self.stand.folder / "builds"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def jetson(stand: ProcessHarness) -> Jetson:
    path = stand.folder / "model.onnx"
    return Jetson(stand, path, write_squares_model(path, batch="batch"))


def is_outdated(report: EngineReport) -> bool:
    return report.outdated


def test_an_engine_serves_while_its_plan_is_built_and_its_successor_runs_the_plan(jetson: Jetson) -> None:
    jetson.allow("wait")
    engine = jetson.engine()
    building = engine.until("it builds", lambda report: report.activity != "")
    peer = CameraPeer(jetson.stand.folder).share()
    peer.run(0)
    served = peer.hear()
    peer.link.close()
    jetson.allow("go")
    built = engine.until("the plan is built", is_outdated)
    engine.stop()

    successor = jetson.engine()

    assert (building.state, building.provider, building.missing) == ("ready", ON_CPU, None)
    assert building.activity == "building a TensorRT plan, 0 min"
    assert served == Done(0)
    assert (built.state, built.activity) == ("ready", "")
    last = successor.reports[-1]
    assert (last.provider, last.missing, last.activity, last.outdated) == (ON_TENSORRT, None, "", False)


def test_a_plan_is_built_once_and_again_for_another_version_of_tensorrt(jetson: Jetson) -> None:
    first = jetson.engine()
    first.until("the plan is built", is_outdated)
    first.stop()
    for _ in range(2):
        restarted = jetson.engine()
        assert restarted.reports[-1].provider == ON_TENSORRT
        restarted.stop()
    once = jetson.builds

    jetson.update("10.4.0")
    updated = jetson.engine()
    updated.until("another plan is built", is_outdated)
    updated.stop()

    assert once == ["10.3.0"]
    assert jetson.builds == ["10.3.0", "10.4.0"]


def test_a_required_tensorrt_builds_its_plan_before_it_serves(jetson: Jetson) -> None:
    jetson.allow("wait")
    engine = jetson.engine("require", ready=False)
    building = engine.until("it builds", lambda report: report.activity != "")
    jetson.allow("go")

    ready = engine.until("it is ready", lambda report: is_engine(report, "ready"))

    assert building.state == "loading"
    assert (ready.provider, ready.outdated) == (ON_TENSORRT, False)


def test_a_build_that_fails_is_told_and_the_cpu_goes_on(jetson: Jetson) -> None:
    jetson.allow("fail")
    engine = jetson.engine()

    failed = engine.until("the build fails", lambda report: report.missing is not None)

    assert (failed.state, failed.provider, failed.activity, failed.outdated) == ("ready", ON_CPU, "", False)
    assert "it built no plan" in failed.missing.reason
    assert "Could not find any implementation for node Conv_0" in failed.missing.reason


def test_a_build_that_fails_where_tensorrt_is_required_fails_the_model(jetson: Jetson) -> None:
    jetson.allow("fail")
    engine = jetson.engine("require", ready=False)

    failed = engine.until("it fails", lambda report: is_engine(report, "failed"))

    assert failed.reason.startswith("an accelerator is required: TensorRT cannot run the model: it built no")


@pytest.mark.parametrize("accelerator", ["prefer", "require"])
def test_an_engine_that_is_stopped_ends_its_build(jetson: Jetson, accelerator: AcceleratorUse) -> None:
    jetson.allow("wait")
    engine = jetson.engine(accelerator, ready=False)
    engine.until("it builds", lambda report: report.activity != "")
    wait_for("the build has begun", lambda: jetson.builds)
    builders = children_of(engine)

    assert engine.stop() == 0
    assert len(builders) == 1
    wait_for("its build is gone", lambda: not alive(builders[0]))


def test_a_build_ends_with_an_engine_that_is_killed(jetson: Jetson) -> None:
    jetson.allow("wait")
    engine = jetson.engine()
    wait_for("the build has begun", lambda: jetson.builds)
    (builder,) = children_of(engine)

    engine.kill()

    wait_for("its build is gone", lambda: not alive(builder))


def children_of(engine: Child) -> list[int]:
    """The pids of the processes that an engine has started."""
    task = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children")
    return [int(pid) for pid in task.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
