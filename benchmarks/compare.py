"""`make bench-compare`: frames/s and CPU time a frame of two revisions, measured in alternating pairs.

Each measurement starts a fleet with the packages of one revision; the benchmark itself is that of this
checkout. The fleet processes files at full speed; its datagrams are counted, and the CPU time of all its
processes. Ratios are computed within each pair, so that a machine that slows down affects both sides.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import streamfleet_core
from benchmarks.cpu import cpu_times, growth
from benchmarks.receiver import Receiver, boot_ns
from benchmarks.report import Column, Report, Row, Table, text
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fleet.harness import Fleet, wait_for

WORKING_TREE = "."  # instead of a revision
_RESULTS = ROOT / "benchmarks/results"  # git ignores it
_PACKAGES = ("broker", "worker", "api")
_MODEL = "bench/1"
_MOST = 0.8  # of all frames, after which a file may end
_STANDSTILL = 30.0  # seconds, at most, until another frame comes
_TIMEOUT = 600.0  # seconds for one measurement
_CHILD = "import sys; from benchmarks.compare import print_figures; print_figures(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Task:
    """The work of a fleet."""

    tree: str  # the checkout of its packages
    model: str
    video: str
    cameras: int
    seconds: float
    frames: int  # of one video


@dataclass(frozen=True, slots=True)
class Figures:
    """The result of one measurement."""

    rate: float  # frames/s
    cost: float  # ms of CPU time a frame


def main() -> int:
    """Measure both revisions, and print the comparison."""
    options = parse(sys.argv[1:])
    # Not at the top: a process that measures has the packages of a revision, and needs few of their modules.
    from benchmarks.setting import FRAMES, prepared

    pairs = []
    with contextlib.ExitStack() as stack:
        trees = [stack.enter_context(checked_out(revision)) for revision in (options.a, options.b)]
        setting = stack.enter_context(
            prepared(quick=False, rounds=None, model=options.model, family=None, labels=None, video=None)
        )
        tasks = [
            Task(str(tree), str(setting.model), str(setting.video), options.cameras, options.seconds, FRAMES)
            for tree in trees
        ]
        for number in range(options.pairs):
            pairs.append(_pair(tasks, reverse=number % 2 == 1))
            print(f"pair {number + 1} of {options.pairs}", file=sys.stderr, flush=True)
    print(text(report(options, setting.model_name, pairs), judged=False))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="a revision of git, or . for the working tree")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs [%(default)s]")
    parser.add_argument("--cameras", type=int, default=4, help="files at the same time [%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement [%(default)s]")
    parser.add_argument("--model", default="demo", help="demo, heavy, or an ONNX file [%(default)s]")
    found = parser.parse_args(arguments)
    for name in ("pairs", "cameras", "seconds"):
        if not getattr(found, name) > 0:
            parser.error(f"expected --{name} above 0, got {getattr(found, name):g}")
    for revision in (found.a, found.b):
        if revision != WORKING_TREE and not _is_revision(revision):
            parser.error(f"expected a revision of git, or . for the working tree, got {revision!r}")
    return found


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out until the block ends. It is compiled, so that no measurement has to compile."""
    if revision == WORKING_TREE:
        yield ROOT
        return
    _RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="revision-", dir=_RESULTS) as folder:
        tree = Path(folder, "tree")
        _git("worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            for package in _PACKAGES:
                compileall.compile_dir(tree / package, quiet=2)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def report(options: argparse.Namespace, model: str, pairs: Sequence[tuple[Figures, Figures]]) -> Report:
    """Report medians, and the median and the quartiles of the ratios of B to A."""
    rates = [(a.rate, b.rate) for a, b in pairs]
    costs = [(a.cost, b.cost) for a, b in pairs]
    columns = (
        *(Column(name, digits=2) for name in ("A", "B")),
        *(Column(name, digits=3) for name in ("B/A", "quartile", "quartile")),
    )
    return Report(
        name="compare",
        title=f"A: {options.a}, B: {options.b}; {model}, {options.cameras} files, {options.pairs} pairs",
        sizes={},
        tables=(Table("median", columns, (_row("frames/s", rates), _row("CPU ms a frame", costs))),),
        charts=(),
    )


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> Row:
    quarter, middle, three_quarters = np.percentile([b / a for a, b in pairs], [25, 50, 75])
    medians = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(name, (*medians, float(middle), float(quarter), float(three_quarters)))


def _is_revision(text: str) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
        return True
    return False


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _pair(tasks: Sequence[Task], *, reverse: bool) -> tuple[Figures, Figures]:
    if reverse:
        last = measured(tasks[1])
        return measured(tasks[0]), last
    return measured(tasks[0]), measured(tasks[1])


def measured(task: Task) -> Figures:
    """Measure a revision in a process that has its packages."""
    packages = os.pathsep.join(str(Path(task.tree, package)) for package in _PACKAGES)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(asdict(task))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": packages},
        stdout=subprocess.PIPE,
        timeout=_TIMEOUT,
        check=True,
    )
    return Figures(**json.loads(done.stdout))


# the process that measures --------------------------------------------------------------------------------


def print_figures(task: str) -> None:
    """Measure the packages that this process has. Raises: RuntimeError if they are not those of the task."""
    given = Task(**json.loads(task))
    if not Path(str(streamfleet_core.__file__)).is_relative_to(given.tree):
        raise RuntimeError(f"expected the packages of {given.tree}, got {streamfleet_core.__file__}")
    print(json.dumps(asdict(of_fleet(given))))


def of_fleet(task: Task) -> Figures:
    """Start a fleet, and measure it while all files play."""
    names = [f"file-{number}" for number in range(task.cameras)]
    with short_folder() as home, Receiver() as receiver:
        fleet = Fleet(home)
        fleet.environment["STREAMFLEET_CAPACITY"] = str(task.cameras)
        try:
            fleet.start()
            fleet.add_model(_MODEL, Path(task.model))
            sink = {"type": "udp", "host": "127.0.0.1", "port": receiver.port}
            for name in names:
                body = {"model": _MODEL, "sources": [task.video], "sinks": [sink]}
                fleet.http.put(f"/v2/pipelines/{name}", json=body).raise_for_status()
            wait_for(lambda: len(receiver.first_ns) == task.cameras, "a datagram of each file")
            return _while_playing(fleet, receiver, task)
        finally:
            fleet.stop()


def _while_playing(fleet: Fleet, receiver: Receiver, task: Task) -> Figures:
    seen = receiver.count()
    began_ns, before = boot_ns(), cpu_times(fleet.pids())
    until = time.monotonic() + task.seconds
    while time.monotonic() < until and receiver.count() < _MOST * task.cameras * task.frames:
        time.sleep(0.05)
    # A machine may stand still for longer than a short measurement takes.
    while receiver.count() == seen and time.monotonic() < until + _STANDSTILL:
        time.sleep(0.05)
    ended_ns, after = boot_ns(), cpu_times(fleet.pids())
    frames = sum(began_ns <= arrival.at_ns < ended_ns for arrival in list(receiver.arrivals))
    if not frames:
        raise RuntimeError(f"expected frames within {task.seconds:g} s, got none")
    spent = sum(growth(before, after).values())
    return Figures(frames / ((ended_ns - began_ns) / 1e9), 1000 * spent / frames)


if __name__ == "__main__":
    sys.exit(main())
