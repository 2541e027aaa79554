"""`make bench`: each benchmark as a table, a chart and a file. Exits with 1 when a limit is not kept."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from benchmarks import commands, latency, machine, memory, recovery, relay, start, throughput
from benchmarks.report import Report, as_json, draw, text
from benchmarks.setting import Setting, prepared
from streamfleet_core.protocol.values import Family

BENCHMARKS: dict[str, Callable[[Setting], Report]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "memory": memory.run,
    "start": start.run,
    "commands": commands.run,
    "relay": relay.run,
    "recovery": recovery.run,
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run those that are named, or all."""
    asked = parse(sys.argv[1:])
    about = machine.about()
    kept = True
    asked.output.mkdir(parents=True, exist_ok=True)
    with prepared(
        quick=asked.quick,
        rounds=asked.rounds,
        model=asked.model,
        family=asked.family,
        labels=asked.labels,
        video=asked.video,
    ) as setting:
        for name in asked.names or BENCHMARKS:
            started = time.monotonic()
            report = BENCHMARKS[name](setting)
            save(report, asked.output, about)
            print(text(report, judged=not asked.quick))
            print(f"({time.monotonic() - started:.0f} s; {asked.output / name}.png, .json)\n", flush=True)
            kept = kept and all(check.kept for check in report.checks)
    return 0 if kept or asked.quick else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """Raises: SystemExit with a text that names the option."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: shows that it works")
    parser.add_argument("--rounds", type=int, help="how often to measure, instead of each benchmark's own")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder for charts and files [%(default)s]"
    )
    parser.add_argument("--model", type=Path, help="an ONNX file, instead of the demo's model")
    parser.add_argument("--family", choices=get_args(Family), help="of the model")
    parser.add_argument("--labels", type=Path, help="the model's class names, one a line")
    parser.add_argument("--video", type=Path, help="a video file, instead of the test pattern")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    return found


def save(report: Report, folder: Path, about: dict[str, Any]) -> None:
    """The chart and the file."""
    (folder / f"{report.name}.json").write_text(as_json(report, about))
    draw(report, folder / f"{report.name}.png", caption=machine.caption(about))


if __name__ == "__main__":
    sys.exit(main())
