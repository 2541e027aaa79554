"""The engine process: it serves cameras that come, go, crash and lie, and says how it is."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamfleet_broker.protocol.values import Manifest
from streamfleet_worker.engine.slots import Slot, SlotLayout, create_memory, map_slots
from streamfleet_worker.engine.wire import (
    Done,
    Failed,
    Offer,
    Run,
    Share,
    pack,
    unpack_from_engine,
)
from tests.worker.models import manifest_of, write_constant_model, write_slow_model, write_squares_model
from tests.worker.stand import Stand, is_engine, wait_for

OUTPUT = np.arange(35, dtype=np.float32).reshape(1, 7, 5)


class Guest:
    """A camera's end of the engine's socket, which may be told to misbehave."""

    def __init__(self, stand: Stand, *, slots: int = 2) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(10)
        self.link.connect(str(stand.folder / "engine"))
        offer = self.hear()
        assert isinstance(offer, Offer)
        shape = (1, 3, offer.input_height, offer.input_width)
        self.layout = SlotLayout(shape, (1, offer.rows, offer.columns), slots)
        self.slots: list[Slot] = []

    def share(self) -> Guest:
        memory = create_memory(self.layout)
        self.slots = map_slots(memory, self.layout)
        self.send_memory(memory)
        return self

    def send_memory(self, memory: int) -> None:
        socket.send_fds(self.link, [pack(Share(self.layout.count))], [memory])
        os.close(memory)

    def run(self, *slots: int) -> None:
        for slot in slots:
            self.link.send(pack(Run(slot)))

    def hear(self) -> Offer | Done | Failed:
        return unpack_from_engine(self.link.recv(1024))

    @property
    def was_cut_off(self) -> bool:
        try:
            return self.link.recv(1024) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def guests(stand: Stand) -> Iterator[list[Guest]]:
    """Closed at the end of the test."""
    guests: list[Guest] = []
    yield guests
    for guest in guests:
        guest.link.close()


@pytest.fixture
def constant(stand: Stand) -> tuple[Path, Manifest]:
    path = stand.folder / "constant.onnx"
    write_constant_model(path, OUTPUT)
    return path, manifest_of(path, width=64, height=64)


def test_a_camera_gets_its_outputs_into_its_own_memory(
    stand: Stand, guests: list[Guest], constant: tuple[Path, Manifest]
) -> None:
    engine = stand.engine(*constant)
    guests.append(Guest(stand).share())
    (guest,) = guests

    guest.run(1, 0)
    answers = {guest.hear(), guest.hear()}

    assert answers == {Done(0), Done(1)}
    for slot in guest.slots:
        np.testing.assert_array_equal(slot.output, OUTPUT)
    engine.until("both were counted", lambda report: report.inferences == 2)
    assert engine.stop() == 0


def test_one_camera_that_lies_disturbs_nobody(
    stand: Stand, guests: list[Guest], constant: tuple[Path, Manifest]
) -> None:
    stand.engine(*constant)
    good = Guest(stand).share()
    guests.append(good)
    pipe_read, pipe_write = os.pipe()
    os.close(pipe_write)
    small = SlotLayout(good.layout.input_shape, good.layout.output_shape, 1)
    unsealed = os.memfd_create("unsealed")
    os.ftruncate(unsealed, good.layout.size)

    lies = {
        "junk": lambda guest: guest.link.send(b"junk" * 100),
        "too long": lambda guest: guest.link.send(bytes(100_000)),
        "a run without memory": lambda guest: guest.run(0),
        "a share without memory": lambda guest: guest.link.send(pack(Share(2))),
        "no slots": lambda guest: guest.link.send(b"S\x00"),
        "a descriptor of something else": lambda guest: guest.send_memory(pipe_read),
        "memory that may shrink": lambda guest: guest.send_memory(unsealed),
        "too little memory": lambda guest: guest.send_memory(create_memory(small)),
        "a slot that is not there": lambda guest: guest.share().run(2),
        "memory twice": lambda guest: guest.share().share(),
        "an offer": lambda guest: guest.link.send(pack(Offer(1, 2, 3, 4))),
    }
    for name, lie in lies.items():
        guest = Guest(stand)
        guests.append(guest)
        lie(guest)
        assert guest.was_cut_off, name
        good.run(0)
        assert good.hear() == Done(0), name


def test_a_slot_that_runs_is_not_run_by_another_thread(stand: Stand, guests: list[Guest]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    stand.engine(stand.folder / "slow.onnx", manifest, threads=2)
    guests.append(Guest(stand).share())

    guests[0].run(0, 0)

    assert guests[0].was_cut_off


def test_requests_wait_in_their_socket_while_all_threads_infer(stand: Stand, guests: list[Guest]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    guests.append(Guest(stand, slots=8).share())

    guests[0].run(*range(8))
    comes = Guest(stand).share()  # is let in meanwhile
    guests.append(comes)
    comes.run(1)

    assert [guests[0].hear() for _ in range(8)] == [Done(slot) for slot in range(8)]
    assert comes.hear() == Done(1)
    engine.until("all were counted", lambda report: report.inferences == 9)


def test_a_camera_that_leaves_while_its_frame_is_inferred_disturbs_nobody(
    stand: Stand, guests: list[Guest]
) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    stays = Guest(stand).share()
    guests.append(stays)

    for _ in range(3):
        leaves = Guest(stand).share()
        leaves.run(0, 1)
        leaves.link.close()
        del leaves
        stays.run(0)
        assert stays.hear() == Done(0)

    assert engine.process.is_alive()


def test_a_busy_camera_delays_another_by_one_run_at_most(stand: Stand, guests: list[Guest]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx")
    stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    busy, quiet = Guest(stand, slots=8).share(), Guest(stand).share()
    guests += [busy, quiet]
    order: list[str] = []

    def listen(name: str, guest: Guest, count: int) -> threading.Thread:
        def hear() -> None:
            for _ in range(count):
                guest.hear()
                order.append(name)

        thread = threading.Thread(target=hear)
        thread.start()
        return thread

    listeners = [listen("busy", busy, 8), listen("quiet", quiet, 1)]
    busy.run(*range(8))
    quiet.run(0)
    for listener in listeners:
        listener.join(10)

    assert "quiet" in order[:3]


def test_a_long_inference_shows_in_the_report(stand: Stand, guests: list[Guest]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx", rounds=4000)
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    guests.append(Guest(stand).share())

    guests[0].run(0)

    engine.until("it has gone on for a while", lambda report: report.oldest_run > 0.2)
    assert guests[0].hear() == Done(0)
    engine.until("nothing goes on", lambda report: report.oldest_run == 0 and report.inferences == 1)


def test_it_stops_in_time_while_an_inference_goes_on(stand: Stand, guests: list[Guest]) -> None:
    manifest = write_slow_model(stand.folder / "slow.onnx", rounds=4000)
    engine = stand.engine(stand.folder / "slow.onnx", manifest, threads=1)
    guests.append(Guest(stand).share())
    guests[0].run(0, 1)

    started = time.monotonic()

    assert engine.stop() == 0
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path, manifest: path.write_bytes(b"junk"), "ONNX Runtime refuses the model"),
        (lambda path, manifest: path.unlink(), "the model file cannot be read"),
        (lambda path, manifest: None, "expected an output of (1, 5, N)"),
    ],
)
def test_a_model_that_cannot_serve_is_told_until_the_engine_is_stopped(
    stand: Stand, spoil: object, reason: str
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


def test_an_engine_takes_over_the_socket_of_one_that_was_killed(
    stand: Stand, guests: list[Guest], constant: tuple[Path, Manifest]
) -> None:
    stand.engine(*constant).kill()

    stand.engine(*constant)
    guests.append(Guest(stand).share())
    guests[0].run(0)

    assert guests[0].hear() == Done(0)


def test_a_socket_path_that_is_too_long_fails_with_its_reason(
    stand: Stand, constant: tuple[Path, Manifest]
) -> None:
    stand.folder = stand.folder / ("x" * 100)

    engine = stand.engine(*constant, ready=False)

    report = engine.until("it failed", lambda report: is_engine(report, "failed"))
    assert "expected a socket path of at most 107 bytes" in report.reason
    stand.folder = stand.folder.parent


def test_it_ends_when_the_agent_is_gone(stand: Stand, constant: tuple[Path, Manifest]) -> None:
    engine = stand.engine(*constant)

    assert engine.hang_up() == 0
