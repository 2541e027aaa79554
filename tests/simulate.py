"""`make simulate`: many seeds of the simulated fleet, on all cores at the lowest priority.

python -m tests.simulate [SEEDS] [--processes N] [--again]

In every second world operators drain and rebalance devices, too, and pipelines have priorities.

SEEDS is a number (seeds from 0) or a range `FROM:TO`. What ran is remembered in `.simulated/`, so that a run
that was interrupted goes on where it ended; a change of the code or of the simulation begins anew. Prints
each seed that broke a promise. Exit code: 0; 1 if there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.ports_and_folders import ROOT

SIMULATED = (
    "broker/streamfleet_broker/fleet",
    "broker/streamfleet_core/protocol",
    "broker/streamfleet_core/rollout",
    "worker/streamfleet_worker/decisions",
    "worker/streamfleet_worker/ipc/child_messages.py",
    "tests/fakes/simulation.py",
    "tests/fakes/scripted_fleet.py",
)
CHUNK = 20  # seeds between two notes of what ran


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some seeds showed."""

    seeds: tuple[int, ...]
    broken: tuple[tuple[int, str], ...]  # seed, and how it ended


class Memory:
    """Which seeds ran with this code, in a file of one line for each chunk."""

    def __init__(self, folder: Path, code: str) -> None:
        self._path = folder / f"{code}.txt"
        folder.mkdir(exist_ok=True)

    def ran(self) -> set[int]:
        """The seeds that ran and broke nothing."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {int(seed) for line in lines for seed in line.split()}

    def note(self, outcome: Outcome) -> None:
        """Remember what broke nothing."""
        broken = {seed for seed, _ in outcome.broken}
        with self._path.open("a") as file:
            file.write(" ".join(str(seed) for seed in outcome.seeds if seed not in broken) + "\n")


def code_digest(root: Path = ROOT) -> str:
    """A digest of all that a seed depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for name in SIMULATED:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def run(seeds: tuple[int, ...]) -> Outcome:
    """Simulate these seeds."""
    from tests.fakes import simulation

    ended = ((seed, _ended(simulation.simulate_mixed, seed)) for seed in seeds)
    return Outcome(seeds, tuple((seed, how) for seed, how in ended if how is not None))


def _ended(simulate: Callable[[int], object], seed: int) -> str | None:
    """How a seed ended, if not well. Any exception belongs to the seed."""
    try:
        simulate(seed)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return None


def chunks(seeds: Iterable[int]) -> list[tuple[int, ...]]:
    """Seeds in groups, one for each turn of a process."""
    every = sorted(seeds)
    return [tuple(every[at : at + CHUNK]) for at in range(0, len(every), CHUNK)]


def main() -> int:
    """Run what has not run yet."""
    options = parse(sys.argv[1:])
    memory = Memory(ROOT / ".simulated", code_digest())
    wanted = set(options.seeds)
    done = set() if options.again else memory.ran() & wanted
    started, broken, count = time.monotonic(), 0, 0
    print(f"{len(wanted):,} seeds, of which {len(done):,} ran before with this code", flush=True)
    with multiprocessing.Pool(options.processes, initializer=os.nice, initargs=(19,)) as pool:
        for outcome in pool.imap_unordered(run, chunks(wanted - done)):
            memory.note(outcome)
            count += len(outcome.seeds)
            broken += len(outcome.broken)
            for seed, how in outcome.broken:
                print(f"seed {seed}: {how}", flush=True)
                print(f"  again: make simulate SEEDS={seed}:{seed + 1}", flush=True)
    spent = time.monotonic() - started
    print(f"{count:,} seeds in {spent:,.0f} s: {broken} broke a promise")
    return 1 if broken else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=_seeds, default=range(200), help="N or FROM:TO [200]")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="[one for each core]")
    parser.add_argument("--again", action="store_true", help="also seeds that ran before with this code")
    return parser.parse_args(arguments)


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    try:
        found = range(int(first), int(end)) if colon else range(int(text))
    except ValueError:
        found = range(0)
    if not found or found.start < 0:
        raise argparse.ArgumentTypeError(f"expected a number of seeds or FROM:TO, got {text!r}")
    return found


if __name__ == "__main__":
    sys.exit(main())
