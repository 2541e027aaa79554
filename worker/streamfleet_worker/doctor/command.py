"""`streamfleet-worker doctor`: the checks of this machine, as text or JSON.

It needs none of a worker's packages: they are what it checks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from streamfleet_core.runtime.finding import encode, has_error, lines
from streamfleet_worker.doctor.checks import check_machine

_DEFAULT_DATA_DIR = "~/.streamfleet/worker"


def run(arguments: Sequence[str]) -> int:
    """Print the findings, and return the exit code: 1 if anything does not work."""
    parser = argparse.ArgumentParser("streamfleet-worker doctor", description="Check this machine.")
    parser.add_argument("--data-dir", default=_DEFAULT_DATA_DIR, help="data directory of the worker")
    parser.add_argument("--model", type=Path, help="ONNX file to run, to measure an inference")
    parser.add_argument("--json", action="store_true", help="for programs: JSON on stdout")
    options = parser.parse_args(arguments)
    findings = list(check_machine(Path(options.data_dir).expanduser().absolute(), model=options.model))
    if options.json:
        sys.stdout.buffer.write(encode(findings) + b"\n")
    else:
        print("\n".join(lines(findings)))
    return int(has_error(findings))
