"""Runs one step: python -m tests.gpu NAME --outcome FILE --folder DIR --seconds N [--quick]."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path

from streamfleet_worker.host.machine_probe import MachineProbe
from tests.gpu.machine import has_gpu
from tests.gpu.outcome import Outcome, failed, write
from tests.gpu.setting import Setting, large_model, small_model

# Step → its module, where the function has the step's name. It alone is loaded.
MODULES = {
    **dict.fromkeys(("driver", "doctor", "tensorrt"), "machine"),
    **dict.fromkeys(("cuda", "batches"), "inference"),
    **dict.fromkeys(("require", "prefer", "memory", "plan"), "engines"),
    "files": "fleet",
}


def main() -> None:
    """Run the step, and write its outcome."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("name", choices=MODULES)
    parser.add_argument("--outcome", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("the time of this step is over")
    )  # ends what it started
    deadline = time.monotonic() + options.seconds
    gpu = has_gpu(MachineProbe().read())
    model = large_model(options.folder) if gpu and not options.quick else small_model(options.folder)
    setting = Setting(options.folder, gpu=gpu, model=model, quick=options.quick, deadline=deadline)
    try:
        module = importlib.import_module(f"tests.gpu.{MODULES[options.name]}")
        outcome: Outcome = getattr(module, options.name)(setting)
    except Exception as exc:
        traceback.print_exc()
        outcome = failed(f"{type(exc).__name__}: {exc}"[:500])
    write(options.outcome, outcome)


if __name__ == "__main__":
    main()
