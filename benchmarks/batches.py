"""Batches of a stand-in for an accelerator, in real engine processes: n frames take a + b·n seconds.

Eight cameras that always have frames, at one engine and at an engine each; then a camera with a frame now
and then beside seven of them. Engines share one accelerator, which runs one batch at a time.
An engine of one camera runs the frames of that camera in batches, too.
The cameras are the engine's clients without pictures, so that the accelerator limits them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.setting import Setting
from streamfleet_worker.engine.messages import Done, SetPriority, Turn, pack
from streamfleet_worker.engine.turns.batching import MAX_DELAY
from tests.fakes.camera_peer import CameraPeer
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.process_harness import ProcessHarness
from tests.fakes.standin_engine import StandInFigures, StandInRun, runs_of, standin_engine

START, EACH, MAX_BATCH = 0.010, 0.001, 8  # a and b in seconds
CAMERAS = 8
_SLOTS = 3  # of a busy camera
_PAUSE = 0.1  # seconds between two frames of the paced camera
_PACED = 255  # its pixels
_MODEL = "standin"


def run(setting: Setting) -> Report:
    """Run the benchmark."""
    seconds = setting.pick(10.0, 1.0)
    together = _busy(seconds, engines=1)
    each = _busy(seconds, engines=CAMERAS)
    batch = START + EACH * MAX_BATCH
    frames = sum(len(one.pixels) for one in together)
    busy = sum(one.ended - one.began for one in together) / seconds
    occupancy = frames / (MAX_BATCH * len(together))
    alone = sum(len(one.pixels) for one in each)
    ratio = frames / alone
    paced = {priority: _paced(seconds, priority) for priority in ("normal", "high")}
    rows = [
        Row(f"{priority}, beside {CAMERAS - 1} busy cameras", (*_ms(waits), *_ms(latencies)))
        for priority, (waits, latencies) in paced.items()
    ]
    return Report(
        name="batches",
        title=f"Batches, on an accelerator that takes {START * 1000:g} + {EACH * 1000:g}·n ms",
        sizes={"seconds": seconds, "cameras": CAMERAS, "max_batch": MAX_BATCH, "max_delay": MAX_DELAY},
        tables=(
            Table(
                f"{CAMERAS} busy cameras",
                (
                    Column("inferences", "1/s", 0),
                    Column("frames of a batch", "", 2),
                    Column("accelerator busy", "", 3),
                ),
                (
                    Row("one engine", (frames / seconds, frames / len(together), busy)),
                    Row("an engine each", (alone / seconds, alone / len(each), None)),
                ),
            ),
            Table(
                "a paced camera: until its batch begins, and until its prediction",
                tuple(
                    Column(f"{what} {share}", "ms")
                    for what in ("wait", "all")
                    for share in ("p50", "p99", "max")
                ),
                tuple(rows),
            ),
        ),
        charts=(
            Bars(
                f"{CAMERAS} busy cameras",
                "inferences per second",
                ("one engine", "an engine each"),
                (Series("stand-in", (frames / seconds, alone / seconds)),),
            ),
        ),
        checks=(
            Check("frames of a batch, of the most", occupancy, 0.9, "", at_least=True),
            Check("accelerator busy", busy, 0.9, "", at_least=True),
            Check("inferences, to those of an engine each", ratio, 2.0, "", at_least=True),
            *(
                Check(
                    f"wait of a paced camera, {priority}, p99",
                    percentiles(waits)[2] * 1000,
                    (MAX_DELAY + batch) * 1000,
                    "ms",
                )
                for priority, (waits, _) in paced.items()
            ),
        ),
        notes=("A batch is not interrupted: a prediction comes after that wait and a batch of its own.",),
    )


def _ms(seconds: list[float]) -> tuple[float, float, float]:
    p50, _, p99 = percentiles(seconds)
    return p50 * 1000, p99 * 1000, max(seconds) * 1000


@contextlib.contextmanager
def _engines(count: int) -> Iterator[list[Path]]:
    """Engines of stand-ins that share one accelerator, each in a folder of its own."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(short_folder()))
        folders = []
        for number in range(count):
            folders.append(root / str(number))
            folders[-1].mkdir()
            harness = ProcessHarness(folders[-1])
            stack.callback(harness.close)
            model = folders[-1] / _MODEL
            figures = StandInFigures(start=START, each=EACH, max_batch=MAX_BATCH, lock=str(root / "lock"))
            harness.engine(model, figures.write(model), entry=standin_engine)
        yield folders


def _busy(seconds: float, *, engines: int) -> list[StandInRun]:
    """The runs of eight busy cameras that began within so many seconds."""
    with _engines(engines) as folders, _busy_cameras([folders[n % engines] for n in range(CAMERAS)]):
        time.sleep(0.5)
        began = time.monotonic()
        time.sleep(seconds + 0.5)
        runs = [one for folder in folders for one in runs_of(folder / _MODEL)]
    return [one for one in runs if began <= one.began < began + seconds]


@contextlib.contextmanager
def _busy_cameras(folders: list[Path]) -> Iterator[None]:
    """Cameras that fill each slot again as soon as it was inferred."""
    stopped = threading.Event()

    def infer(peer: CameraPeer) -> None:
        peer.run(*range(_SLOTS))
        while not stopped.is_set():
            done = peer.hear()
            if isinstance(done, Done):
                peer.run(done.slot)

    peers = [CameraPeer(folder, slots=_SLOTS).share() for folder in folders]
    threads = [threading.Thread(target=infer, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        for peer in peers:
            peer.link.close()


def _paced(seconds: float, priority: str) -> tuple[list[float], list[float]]:
    """Seconds until the batch of each frame of a paced camera began, and until its prediction."""
    asked, ended = [], []
    with _engines(1) as (folder,), _busy_cameras([folder] * (CAMERAS - 1)):
        peer = CameraPeer(folder, slots=1).share()
        peer.slots[0].input[:] = _PACED
        peer.link.send(pack(SetPriority("high" if priority == "high" else "normal")))
        time.sleep(0.5)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked.append(time.monotonic())
            peer.request_turn(0)
            if isinstance(peer.hear(), Turn):
                peer.run(0)
            peer.hear()
            ended.append(time.monotonic())
            time.sleep(_PAUSE)
        peer.link.close()
        began = [one.began for one in runs_of(folder / _MODEL) if _PACED in one.pixels]
    return (
        [at - since for at, since in zip(began, asked, strict=True)],
        [at - since for at, since in zip(ended, asked, strict=True)],
    )
