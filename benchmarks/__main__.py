"""`make bench`: run benchmarks, each with a table, a chart and a file. Exits with 1 on a broken limit."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from benchmarks import (
    batches,
    capacity,
    cascade,
    commands,
    complete,
    devices,
    faults,
    gate,
    latency,
    live_age,
    machine,
    memory,
    own_work,
    paced,
    precision,
    recovery,
    relay,
    start,
    throughput,
)
from benchmarks.faults import catalogue
from benchmarks.report import Report, as_json, draw, text
from benchmarks.scene import Scene
from benchmarks.setting import Setting, prepared
from streamfleet_core.protocol.values import Family
from tests.fleet.harness import unwind_on_sigterm

BENCHMARKS: dict[str, Callable[[Setting], Report]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "live-age": live_age.run,
    "paced": paced.run,
    "own-work": own_work.run,
    "precision": precision.run,
    "memory": memory.run,
    "start": start.run,
    "commands": commands.run,
    "relay": relay.run,
    "recovery": recovery.run,
    "faults": faults.run,
    "batches": batches.run,
    "cascade": cascade.run,
    "gate": gate.run,
    "complete": complete.run,
    "devices": devices.run,
    "capacity": capacity.run,
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run the named benchmarks, or all of them."""
    options = parse(sys.argv[1:])
    unwind_on_sigterm()
    about = machine.about()
    kept = True
    options.output.mkdir(parents=True, exist_ok=True)
    with prepared(
        quick=options.quick,
        rounds=options.rounds,
        model=options.model,
        family=options.family,
        labels=options.labels,
        video=options.video,
        scenes=options.scenes,
        cameras=options.cameras,
        devices=options.devices,
        faults=options.faults,
        seconds=options.seconds,
        again=options.again,
        memory=options.output / faults.ROUNDS,
    ) as setting:
        for name in options.names or BENCHMARKS:
            started = time.monotonic()
            report = BENCHMARKS[name](setting)
            save(report, options.output, about)
            print(text(report, judged=not options.quick))
            print(f"({time.monotonic() - started:.0f} s; {options.output / name}.png, .json)\n", flush=True)
            kept = kept and all(check.kept for check in report.checks)
    return 0 if kept or options.quick else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} [all]")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and one round, to check that it works"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds [depends on the benchmark]")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of charts and files [%(default)s]"
    )
    parser.add_argument(
        "--model",
        help="an ONNX file; demo: the model of the demo; heavy: a stand-in of YOLOv8n's size "
        "[depends on the benchmark]",
    )
    parser.add_argument("--family", choices=get_args(Family), help="family of the model")
    parser.add_argument("--labels", type=Path, help="class names of the model, one per line")
    parser.add_argument("--video", type=Path, help="a video file [the test pattern]")
    parser.add_argument(
        "--scenes",
        type=_scenes,
        default=(),
        help="of live-age and paced: cameras x frames/s, as 4x10,64x0.5 [all]",
    )
    parser.add_argument(
        "--cameras", type=_counts, default=(), help="of throughput: numbers of cameras, as 1,16 [all]"
    )
    parser.add_argument(
        "--devices", type=_counts, default=(), help="of devices: numbers of devices, as 10,300 [all]"
    )
    parser.add_argument("--faults", type=_faults, default=(), help="of faults: which ones, as F1,F2 [all]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="of faults: begin no further round after so many [all]",
    )
    parser.add_argument("--again", action="store_true", help="of faults: forget the rounds of earlier runs")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"expected one of {', '.join(BENCHMARKS)}, got {unknown[0]!r}")
    return found


def _scenes(text: str) -> tuple[Scene, ...]:
    try:
        return tuple(map(Scene.parse, text.split(",")))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", text):
        raise argparse.ArgumentTypeError(f"expected numbers from 1 to 9999, as 1,16, got {text!r}")
    return tuple(map(int, text.split(",")))


def _faults(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    known = [each.name for each in catalogue.FAULTS]
    if unknown := set(found) - set(known):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return found


def save(report: Report, folder: Path, about: dict[str, Any]) -> None:
    """Write the chart and the file."""
    (folder / f"{report.name}.json").write_text(as_json(report, about))
    draw(report, folder / f"{report.name}.png", caption=machine.caption(about))


if __name__ == "__main__":
    sys.exit(main())
