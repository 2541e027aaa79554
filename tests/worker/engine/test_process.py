"""The engine process: it serves cameras that come, go, crash and lie, and says how it is."""

from __future__ import annotations

import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from streamfleet_core.protocol.status import BatchingStat
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine import onnx_session, process
from streamfleet_worker.engine.messages import (
    Decline,
    Done,
    Failed,
    Offer,
    RequestTurn,
    SetPriority,
    Share,
    Turn,
    pack,
)
from streamfleet_worker.ipc.child_messages import EngineConfig
from streamfleet_worker.ipc.shared_memory import SlotLayout, create_memory
from tests.fakes.accelerators import engine_with_cuda, engine_without_kernels
from tests.fakes.camera_peer import CameraPeer
from tests.fakes.models import (
    manifest_of,
    write_constant_model,
    write_endless_model,
    write_hungry_model,
    write_picky_model,
    write_slow_model,
    write_squares_model,
)
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import Child, ProcessHarness, is_engine, wait_for

OUTPUT = np.arange(35, dtype=np.float32).reshape(1, 7, 5) / 35


@pytest.fixture
def peers(stand: ProcessHarness) -> Iterator[list[CameraPeer]]:
    """Closed at the end of the test."""
    peers: list[CameraPeer] = []
    yield peers
    for peer in peers:
        peer.link.close()


@pytest.fixture
def constant(stand: ProcessHarness) -> tuple[Path, Manifest]:
    path = stand.folder / "constant.onnx"
    write_constant_model(path, OUTPUT)
    return path, manifest_of(path, width=64, height=64)


def test_a_camera_gets_its_outputs_into_its_own_memory(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    engine = stand.engine(*constant)
    peers.append(CameraPeer(stand.folder).share())
    (peer,) = peers

    peer.run(1, 0)
    answers = {peer.hear(), peer.hear()}

    assert answers == {Done(0), Done(1)}
    for slot in peer.slots:
        np.testing.assert_array_equal(slot.outputs[0], OUTPUT)
    engine.until("both were counted", lambda report: report.inferences == 2)
    assert engine.stop() == 0


def test_one_camera_that_lies_disturbs_nobody(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    stand.engine(*constant)
    good = CameraPeer(stand.folder).share()
    peers.append(good)
    pipe_read, pipe_write = os.pipe()
    os.close(pipe_write)
    small = SlotLayout(good.layout.input_shape, good.layout.output_shapes, 1)
    unsealed = os.memfd_create("unsealed")
    os.ftruncate(unsealed, good.layout.size)

    lies: dict[str, Callable[[CameraPeer], object]] = {
        "junk": lambda peer: peer.link.send(b"junk" * 100),
        "too long": lambda peer: peer.link.send(bytes(100_000)),
        "a run without memory": lambda peer: peer.run(0),
        "a share without memory": lambda peer: peer.link.send(pack(Share(2))),
        "no slots": lambda peer: peer.link.send(b"S\x00"),
        "a descriptor of something else": lambda peer: peer.send_memory(pipe_read),
        "memory that may shrink": lambda peer: peer.send_memory(unsealed),
        "too little memory": lambda peer: peer.send_memory(create_memory(small)),
        "a slot that is not there": lambda peer: peer.share().run(2),
        "memory twice": lambda peer: peer.share().share(),
        "a turn that nobody asked for": lambda peer: peer.share().link.send(pack(Decline(0))),
        "a slot for two sources": lambda peer: peer.share().send(
            RequestTurn(0, 0, 0.0), RequestTurn(0, 1, 0.0)
        ),
        "a frame of no time": lambda peer: peer.share().request_turn(0, decoded_at=math.nan),
        "a priority that is none": lambda peer: peer.share().link.send(b"L\x03"),
        "a priority without memory": lambda peer: peer.link.send(pack(SetPriority("high"))),
        "an offer": lambda peer: peer.link.send(pack(Offer(1, 2, ((1, 3, 4),)))),
    }
    for name, lie in lies.items():
        peer = CameraPeer(stand.folder)
        peers.append(peer)
        lie(peer)
        assert peer.was_cut_off, name
        good.run(0)
        assert good.hear() == Done(0), name


def test_a_slot_that_runs_is_not_run_by_another_thread(
    stand: ProcessHarness, peers: list[CameraPeer]
) -> None:
    manifest = write_endless_model(stand.folder / "endless.onnx", brighter_than=0.9)
    stand.engine(stand.folder / "endless.onnx", manifest, threads=2)
    peers.append(CameraPeer(stand.folder).share())
    peers[0].slots[0].input[:] = 255

    peers[0].run(0, 0)

    assert peers[0].was_cut_off


def test_requests_wait_in_their_socket_while_all_threads_infer(
    stand: ProcessHarness, peers: list[CameraPeer]
) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    peers.append(CameraPeer(stand.folder, slots=8).share())

    peers[0].run(*range(8))
    comes = CameraPeer(stand.folder).share()  # is let in meanwhile
    peers.append(comes)
    comes.run(1)

    assert [peers[0].hear() for _ in range(8)] == [Done(slot) for slot in range(8)]
    assert comes.hear() == Done(1)
    engine.until("all were counted", lambda report: report.inferences == 9)


def test_a_camera_that_leaves_while_its_frame_is_inferred_disturbs_nobody(
    stand: ProcessHarness, peers: list[CameraPeer]
) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    stays = CameraPeer(stand.folder).share()
    peers.append(stays)

    for _ in range(3):
        leaves = CameraPeer(stand.folder).share()
        leaves.run(0, 1)
        leaves.link.close()
        del leaves
        stays.run(0)
        assert stays.hear() == Done(0)

    assert engine.process.is_alive()


def test_a_busy_camera_delays_another_by_one_run_at_most(
    stand: ProcessHarness, peers: list[CameraPeer]
) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    busy, quiet = CameraPeer(stand.folder, slots=8).share(), CameraPeer(stand.folder).share()
    peers += [busy, quiet]

    def order() -> list[str]:
        """Who was answered, one after the other, when both ask at once."""
        answered: list[str] = []

        def hear(name: str, peer: CameraPeer, count: int) -> None:
            for _ in range(count):
                peer.hear()
                answered.append(name)

        listeners = [
            threading.Thread(target=hear, args=("busy", busy, 8)),
            threading.Thread(target=hear, args=("quiet", quiet, 1)),
        ]
        for listener in listeners:
            listener.start()
        busy.run(*range(8))
        quiet.run(0)
        for listener in listeners:
            listener.join(PATIENCE)
        return answered

    # Whenever this process stands still between the two, the quiet one asks too late, which says nothing.
    assert any("quiet" in order()[:3] for _ in range(5))


def test_a_live_slot_is_filled_when_its_turn_comes(stand: ProcessHarness, peers: list[CameraPeer]) -> None:
    manifest = write_endless_model(stand.folder / "endless.onnx", brighter_than=0.9)
    engine = stand.engine(stand.folder / "endless.onnx", manifest, threads=2)
    busy, first, second = (CameraPeer(stand.folder).share() for _ in range(3))
    peers += [busy, first, second]
    busy.slots[0].input[:] = 255
    busy.run(0)  # one of the two threads is busy for ever
    engine.until("an inference goes on", lambda report: report.oldest_run > 0)

    first.request_turn(1)
    assert first.hear() == Turn(1)
    first.run(1)
    assert first.hear() == Done(1)
    second.request_turn(0)
    assert second.hear() == Turn(0)
    second.link.send(pack(Decline(0)))
    second.request_turn(0)

    assert second.hear() == Turn(0)


def test_a_camera_that_does_not_fill_its_slot_holds_up_nobody(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    stand.engine(*constant, threads=1)
    dead = [CameraPeer(stand.folder).share() for _ in range(3)]
    live = CameraPeer(stand.folder).share()
    peers += [*dead, live]
    for peer in dead:
        peer.request_turn(0)
    live.request_turn(0)

    assert live.hear() == Turn(0)
    live.run(0)
    assert live.hear() == Done(0)


def test_a_lone_camera_gets_all_threads_for_each_inference(
    stand: ProcessHarness, peers: list[CameraPeer]
) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx", rounds=200)
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=3)
    peers.append(CameraPeer(stand.folder).share())
    before = len(list(Path(f"/proc/{engine.process.pid}/task").iterdir()))

    def has_more_threads() -> bool:
        began = time.monotonic()
        peers[0].run(0)
        assert peers[0].hear() == Done(0)
        time.sleep(4 * (time.monotonic() - began))  # its engine is idle for most of the time
        return len(list(Path(f"/proc/{engine.process.pid}/task").iterdir())) >= before + 2

    wait_for("another session has two threads beside the caller", has_more_threads)
    peers[0].run(0)
    assert peers[0].hear() == Done(0)
    assert engine.stop() == 0


def test_a_long_inference_shows_in_the_report(stand: ProcessHarness, peers: list[CameraPeer]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx", rounds=4000)
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    peers.append(CameraPeer(stand.folder).share())

    peers[0].run(0)

    engine.until("it has gone on for a while", lambda report: report.oldest_run > 0.2)
    assert peers[0].hear() == Done(0)
    engine.until("nothing goes on", lambda report: report.oldest_run == 0 and report.inferences == 1)


def test_it_stops_in_time_while_an_inference_goes_on(stand: ProcessHarness, peers: list[CameraPeer]) -> None:
    manifest = write_endless_model(stand.folder / "endless.onnx", brighter_than=0.9)
    engine = stand.engine(stand.folder / "endless.onnx", manifest, threads=1)
    peers.append(CameraPeer(stand.folder).share())
    peers[0].slots[0].input[:] = 255
    peers[0].run(0)
    engine.until("an inference goes on", lambda report: report.oldest_run > 0)

    assert engine.stop() == 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path, manifest: path.unlink(), "the model file cannot be read"),
        (lambda path, manifest: None, "expected an output of (1, 5, N)"),
    ],
)
def test_a_model_that_cannot_serve_is_told_until_the_engine_is_stopped(
    stand: ProcessHarness, spoil: object, reason: str
) -> None:
    path = stand.folder / "model.onnx"
    manifest = write_squares_model(path)
    if "output" in reason:
        manifest = replace(manifest, labels=("one",))
    spoil(path, manifest)  # type: ignore[operator]

    engine = stand.engine(path, manifest, ready=False)
    report = engine.until("it failed", lambda report: is_engine(report, "failed"))
    reports = len(engine.reports)
    wait_for("it goes on to say so", lambda: len(engine.reports) > reports)

    assert report.reason.startswith(reason)
    assert not (stand.folder / "engine").exists()
    assert engine.stop() == 0


def damage(path: Path, _manifest: Manifest) -> None:
    """One bit of it is another."""
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def test_a_file_that_the_disk_has_damaged_is_told_as_such_and_removed(stand: ProcessHarness) -> None:
    path = stand.folder / "model.onnx"
    manifest = write_squares_model(path)
    damage(path, manifest)

    engine = stand.engine(path, manifest, ready=False)

    report = engine.until("it says so", lambda report: is_engine(report, "damaged"))
    assert manifest.weights.sha256 in report.reason
    assert not path.exists()
    assert engine.stop() == 0


def test_a_model_that_wants_too_much_memory_fails_by_itself(stand: ProcessHarness) -> None:
    path = stand.folder / "hungry.onnx"
    manifest = write_hungry_model(path)

    engine = stand.engine(path, manifest, ready=False)

    report = engine.until("it failed", lambda report: is_engine(report, "failed"))
    assert "more memory than a model of its size may take" in report.reason
    assert "onnxruntime_src" not in report.reason
    assert _memory(engine) < 300 * 1024**2
    assert engine.stop() == 0


def _memory(engine: Child) -> int:
    """Bytes that the process had at most."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def hasty_engine(config: EngineConfig, connection: Connection) -> None:
    """One whose model gets three seconds of processor time for its first run, and not ten."""
    onnx_session.RUN_TIME = 3  # type: ignore[attr-defined]  # it imports it
    process.main(config, connection)


def test_a_model_that_never_comes_to_an_end_is_ended_while_another_is_served(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    path = stand.folder / "endless.onnx"
    manifest = write_endless_model(path)
    stand.engine(*constant)
    peers.append(CameraPeer(stand.folder).share())

    endless = stand.engine(path, manifest, ready=False, entry=hasty_engine)
    endless.until("it loads", lambda report: is_engine(report, "loading"))
    peers[0].run(0)

    assert peers[0].hear() == Done(0)
    endless.process.join(90)
    assert endless.process.exitcode == -signal.SIGXCPU


def test_a_model_whose_inferences_all_fail_says_so(stand: ProcessHarness, peers: list[CameraPeer]) -> None:
    path = stand.folder / "picky.onnx"
    manifest = write_picky_model(path)
    engine = stand.engine(path, manifest)
    peers.append(CameraPeer(stand.folder).share())
    (peer,) = peers

    peer.run(0)
    first = peer.hear()
    peer.slots[0].input[:] = 128
    peer.run(0)
    second = peer.hear()

    assert isinstance(first, Failed)
    assert "onnxruntime_src" not in first.reason
    assert second == Done(0)
    assert engine.reports[-1].reason == ""


def test_what_an_engine_may_take_is_limited_by_the_kernel(
    stand: ProcessHarness, constant: tuple[Path, Manifest]
) -> None:
    engine = stand.engine(*constant)
    pid = engine.process.pid
    assert pid is not None

    memory, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
    time_left, _ = resource.prlimit(pid, resource.RLIMIT_CPU)

    assert 0 < memory < 2 * 1024**3
    assert time_left == resource.RLIM_INFINITY  # from the first inference on
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


def test_an_engine_takes_over_the_socket_of_one_that_was_killed(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    stand.engine(*constant).kill()

    stand.engine(*constant)
    peers.append(CameraPeer(stand.folder).share())
    peers[0].run(0)

    assert peers[0].hear() == Done(0)


def test_a_socket_path_that_is_too_long_fails_with_its_reason(
    stand: ProcessHarness, constant: tuple[Path, Manifest]
) -> None:
    stand.folder = stand.folder / ("x" * 100)

    engine = stand.engine(*constant, ready=False)

    report = engine.until("it failed", lambda report: is_engine(report, "failed"))
    assert "expected a socket path of at most 107 bytes" in report.reason
    stand.folder = stand.folder.parent


def test_it_ends_when_the_agent_is_gone(stand: ProcessHarness, constant: tuple[Path, Manifest]) -> None:
    engine = stand.engine(*constant)

    assert engine.hang_up() == 0


def test_an_engine_says_what_runs_its_model(stand: ProcessHarness, constant: tuple[Path, Manifest]) -> None:
    engine = stand.engine(*constant, entry=engine_with_cuda)

    assert engine.reports[-1].provider == "CUDAExecutionProvider"
    assert engine.reports[-1].missing is None


def test_an_engine_measures_batches_once_and_says_so(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path, batch="N")
    batches = stand.folder / "batches"

    first = stand.engine(path, manifest, entry=engine_with_cuda, batches_path=str(batches))
    (kept,) = batches.iterdir()
    first.kill()
    kept.write_text('{"1": 0.004, "2": 0.005, "4": 0.02, "8": 0.04}')
    again = stand.engine(path, manifest, entry=engine_with_cuda, batches_path=str(batches))
    again.kill()
    given = stand.engine(
        path, manifest, entry=engine_with_cuda, batches_path=str(batches), max_batch=8, max_delay=0.02
    )

    assert first.reports[-1].batching.max_batch_origin == "measured"
    assert manifest.weights.sha256 in kept.name
    assert again.reports[-1].batching == BatchingStat(
        max_batch=2, max_delay=0.0, max_batch_origin="measured", max_delay_origin="measured"
    )
    assert given.reports[-1].batching == BatchingStat(
        max_batch=8, max_delay=0.02, max_batch_origin="given", max_delay_origin="given"
    )


def test_an_engine_on_the_cpu_has_no_batches(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path, batch="N")

    engine = stand.engine(path, manifest, batches_path=str(stand.folder / "batches"), max_batch=8)

    assert engine.reports[-1].batching is None
    assert not (stand.folder / "batches").exists()


def test_an_engine_whose_accelerator_fails_runs_on_the_cpu_and_says_why(
    stand: ProcessHarness, peers: list[CameraPeer], constant: tuple[Path, Manifest]
) -> None:
    engine = stand.engine(*constant, entry=engine_without_kernels)
    peers.append(CameraPeer(stand.folder).share())
    peers[0].run(0)

    assert peers[0].hear() == Done(0)
    assert engine.reports[-1].provider == "CPUExecutionProvider"
    assert "no kernels for this GPU" in engine.reports[-1].missing.reason
    assert "JetPack" in engine.reports[-1].missing.remedy


def test_an_engine_whose_required_accelerator_fails_does_not_run(
    stand: ProcessHarness, constant: tuple[Path, Manifest]
) -> None:
    engine = stand.engine(*constant, entry=engine_without_kernels, accelerator="require", ready=False)

    report = engine.until("it fails", lambda report: is_engine(report, "failed"))

    assert report.reason.startswith("an accelerator is required: the installed ONNX Runtime has no kernels")
    assert "no kernels for this GPU" in report.missing.reason
