"""Real child processes with a test in the agent's place: it starts them, hears them, and kills them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from streamfleet_core.protocol.values import (
    DesiredStatus,
    Manifest,
    ModelRef,
    PipelineSpec,
    SourceSpec,
    UdpSink,
)
from streamfleet_worker.camera import process as camera_process
from streamfleet_worker.ipc.child_messages import (
    AcceleratorUse,
    CameraConfig,
    CameraReport,
    Change,
    EngineConfig,
    EngineReport,
    KeepConfig,
    ModelConfig,
    PostProcessing,
    PublisherConfig,
    Stop,
    ToChild,
    receive,
    send,
)
from streamfleet_worker.ipc.fence import Fence
from streamfleet_worker.publisher import process
from tests.fakes.datagrams import Datagrams
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import SHARED

DATA = SHARED / "data"

_BEGINNING = 2 * PATIENCE  # for the first child, with which all that any of them needs is loaded
_STEP = 0.1  # seconds
_ENDING = 8.0  # seconds for a child that was told to stop: fewer than a silent source has for its answer

T = TypeVar("T")


def wait_for(what: str, happened: Callable[[], T | None], deadline: float = PATIENCE) -> T:
    """The first true value of a condition that is looked at every few milliseconds."""
    until = time.monotonic() + deadline
    while True:
        value = happened()
        if value:
            return value
        assert time.monotonic() < until, f"not within {deadline} s: {what}"
        time.sleep(0.005)


class Child:
    """A child process; a thread keeps its reports."""

    def __init__(self, entry: Callable[[Any, Connection], None], config: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["streamfleet_worker.camera.process"])
        self.config = config
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=entry, args=(config, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.reports: list[Any] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        try:
            while True:
                self.reports.append(receive(self.connection))
        except (EOFError, OSError):
            return

    def tell(self, message: ToChild) -> None:
        send(self.connection, message)

    def change(self, generation: int, desired_status: DesiredStatus = "run", **different: Any) -> None:
        """Tell a camera to go on like this; what is not named of its spec stays as it began."""
        self.tell(Change(generation, desired_status, replace(self.config.spec, **different)))

    def until(self, what: str, holds: Callable[[Any], bool], deadline: float = PATIENCE) -> Any:
        """The first report of which this holds, beginning with the last one there is."""
        start = max(0, len(self.reports) - 1)

        def found() -> Any:
            alive = self.process.is_alive()
            if not alive:
                self._listener.join(PATIENCE)  # until its last words are here
            report = next((one for one in self.reports[start:] if holds(one)), None)
            assert report or alive, f"ended with {self.process.exitcode} before: {what}; {self.reports[-1:]}"
            return report

        return wait_for(what, found, deadline)

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def hang_up(self) -> int | None:
        """Go away as a killed agent does. The exit code."""
        # Not `close`: the listener reads from it, and would keep it open.
        with socket.socket(fileno=self.connection.fileno()) as ours:
            ours.shutdown(socket.SHUT_RDWR)
            ours.detach()
        self.process.join(PATIENCE)
        return self.process.exitcode

    def stop(self) -> int | None:
        """Say stop, as the agent does. The exit code; None when it did not end in time, and was killed."""
        with contextlib.suppress(OSError):
            send(self.connection, Stop())
        # Step by step: of a machine that stands still, only one of them is lost.
        for _ in range(round(_ENDING / _STEP)):
            self.process.join(_STEP)
        exit_code = self.process.exitcode
        if exit_code is None:
            self.process.kill()
        self._reap()
        return exit_code

    def _reap(self) -> None:
        self.process.join(PATIENCE)
        self._listener.join(PATIENCE)
        self.connection.close()


class Receiver:
    """A UDP port; a thread keeps every datagram that comes."""

    def __init__(self) -> None:
        self._receiver = Datagrams()
        self.sink = UdpSink("127.0.0.1", self._receiver.port)

    @property
    def datagrams(self) -> list[bytes]:
        """Those that were read so far."""
        return self._receiver.kept

    def until(self, count: int) -> None:
        """Wait until so many datagrams have come."""
        wait_for(f"{count} datagrams", lambda: len(self.datagrams) >= count)

    def settle(self) -> None:
        """Wait until all that was sent so far is here: on this host datagrams keep their order."""
        self._receiver.settle()

    @property
    def documents(self) -> list[dict[str, Any]]:
        self.settle()
        return [json.loads(datagram) for datagram in list(self.datagrams)]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        return [document["inference_metadata"] for document in self.documents]

    @property
    def frame_ids(self) -> list[int]:
        return [metadata["frame_id"] for metadata in self.metadata]

    def close(self) -> None:
        self._receiver.close()


class ProcessHarness:
    """A device without an agent: a folder for its sockets, and the children that were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receiver = Receiver()
        self.fence = Fence.create()
        self._children: list[Child] = []

    def engine(
        self,
        weights: Path,
        manifest: Manifest,
        *,
        threads: int = 2,
        ready: bool = True,
        entry: Callable[[Any, Connection], None] | None = None,
        accelerator: AcceleratorUse = "prefer",
        plans: Path | None = None,
        name: str = "engine",
        **more: Any,
    ) -> Child:
        # Imported where it is needed: a test of cameras alone loads no ONNX Runtime.
        from streamfleet_worker.engine.process import main

        socket_path = str(self.folder / name)
        config = EngineConfig(manifest, str(weights), socket_path, threads, accelerator, **more)
        if plans is not None:
            config = replace(config, plans_path=str(plans))
        child = self._start(entry or main, config)
        if ready:
            child.until("the engine is ready", lambda report: is_engine(report, "ready"), _BEGINNING)
        return child

    def camera(
        self,
        manifest: Manifest,
        reference: str | int | Sequence[SourceSpec],
        *,
        generation: int = 1,
        incarnation: int = 1,
        desired_status: DesiredStatus = "run",
        fenced: bool = False,
        samples_size: int = 1 << 30,
        progress_path: str = "",
        sinks: tuple[UdpSink, ...] | None = None,
        properties: dict[str, float] | None = None,
        stage_configs: tuple[ModelConfig, ...] = (),
        **spec: Any,
    ) -> Child:
        config = CameraConfig(
            pipeline_id="pipeline-1",
            device="device-1",
            short_id=7,
            generation=generation,
            incarnation=incarnation,
            desired_status=desired_status,
            spec=PipelineSpec(
                model=ModelRef("model", manifest.digest),
                sources=(SourceSpec(reference, properties=properties or {}),)
                if isinstance(reference, (str, int))
                else tuple(reference),
                sinks=(self.receiver.sink,) if sinks is None else sinks,
                **spec,
            ),
            manifest=manifest,
            defaults=PostProcessing(),
            engine_socket=str(self.folder / "engine"),
            intake_path=self.intake_path,
            picture_intake_path=self.picture_intake_path,
            progress_path=progress_path or str(self.folder / "progress"),
            fence_path=self.fence.path,
            fenced=fenced,
            samples_path=str(self.folder / "samples"),
            samples_size=samples_size,
            stages=stage_configs,
        )
        return self._start(camera_process.main, config)

    def publisher(
        self,
        *,
        entry: Callable[[Any, Connection], None] = process.main,
        keep: KeepConfig | None = None,
        **more: str,
    ) -> Child:
        config = PublisherConfig(
            device="device-1",
            intake_path=self.intake_path,
            picture_intake_path=self.picture_intake_path,
            local_endpoint=self.local_endpoint,
            local_picture_endpoint=self.local_picture_endpoint,
            keep=keep,
            **{"direct_endpoint": "", "public_key": "", "secret_key": "", **more},
        )
        return self._start(entry, config)

    @property
    def intake_path(self) -> str:
        return str(self.folder / "intake")

    @property
    def picture_intake_path(self) -> str:
        return str(self.folder / "picture-intake")

    @property
    def local_endpoint(self) -> str:
        return f"ipc://{self.folder}/local"

    @property
    def local_picture_endpoint(self) -> str:
        return f"ipc://{self.folder}/local-pictures"

    def close(self) -> None:
        for child in self._children:
            if child.process.is_alive():
                child.kill()
        self.receiver.close()
        self.fence.close()

    def _start(self, entry: Callable[[Any, Connection], None], config: Any) -> Child:
        child = Child(entry, config)
        self._children.append(child)
        return child


def until_ended(camera: Child) -> CameraReport:
    """The report of a camera whose files are all at their end."""
    report = camera.until("the files are at their end", lambda report: is_camera(report, "ended"))
    assert isinstance(report, CameraReport)
    return report


def is_camera(report: Any, state: str) -> bool:
    return isinstance(report, CameraReport) and report.state.value == state


def is_engine(report: Any, state: str) -> bool:
    return isinstance(report, EngineReport) and report.state == state


def write_video(
    path: Path, frames: int, *, size: tuple[int, int] = (64, 48), fps: float = 25.0, codec: str = "MJPG"
) -> Path:
    """A small film of grey pictures, each a little lighter than the last."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), index % 256, np.uint8))
    writer.release()
    return path
