"""Each family and task against the code that it is from. Not among the tests: it installs seven gigabytes.

python -m tests.check_families [--output DIR] [NAME...]

Models get random weights, so that none is downloaded. Each is exported to ONNX and run by its own package in
`.venv-references`, which is made from requirements-references.lock. Streamfleet reads the same file and finds
objects in the same picture. Exit code: 0; 1 if something was found by one of them only, or elsewhere.

The columns: detections of both, from the same outputs of the model, and how many are the same; the largest
differences of their places in pixels, of their scores, the mean and the least overlap of their masks, the
largest difference of key points in pixels; how the input differs on average, in steps of a pixel, of 255;
and, the whole way from the picture, our detections, and how many of them are where the reference has them.
Random transformers answer so differently to the last bit of a pixel that the last column says little of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_worker.engine import onnx_session
from tests.fakes.ports_and_folders import ROOT
from tests.references.case import load
from tests.references.comparison import Difference, compare
from tools.create_environment import environment

LOCK = ROOT / "requirements-references.lock"
OLDEST = (3, 11)  # Python, for the packages of the lock
ENVIRONMENT = ROOT / ".venv-references"
_HEAD = (
    "model",
    "family",
    "task",
    "ours",
    "theirs",
    "same",
    "px",
    "score",
    "mask",
    "least",
    "points",
    "input",
    "whole",
)
_WIDTHS = (24, 14, 9, 5, 7, 5, 8, 8, 8, 8, 8, 8, 9)


def main() -> int:
    """Install, export, compare, and tell."""
    options = parse(sys.argv[1:])
    python = install()
    with tempfile.TemporaryDirectory(prefix="families-") as folder:
        output = options.output or Path(folder)
        command = [str(python), "-m", "tests.references.export", str(output), *options.names]
        made = subprocess.run(command, cwd=ROOT, check=False).returncode
        differ = [name for name in _names(output) if not tell(name, output)]
    print(f"{len(differ)} differ{': ' if differ else ''}{', '.join(differ)}")
    return 1 if made or differ else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit."""
    parser = argparse.ArgumentParser(prog="python -m tests.check_families", description=__doc__)
    parser.add_argument("--output", type=Path, help="folder of models and results [a temporary one]")
    parser.add_argument("names", nargs="*", help="parts of names: only those models")
    return parser.parse_args(arguments)


def install() -> Path:
    """Create the environment if it is missing or its lock has changed. Return its Python."""
    python, mark = ENVIRONMENT / "bin/python", ENVIRONMENT / "lock"
    if mark.exists() and mark.read_text() == LOCK.read_text():
        return python
    if tuple(sys.version_info) < OLDEST:
        sys.exit(f"error: expected Python 3.11 or newer for {LOCK.name}, got {sys.version.split()[0]}")
    print(f"installing {LOCK.name} into {ENVIRONMENT.name}, which takes minutes …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--requirement", str(LOCK)], env=environment(), check=True)
    mark.write_text(LOCK.read_text())
    return python


def _names(folder: Path) -> list[str]:
    print("".join(f"{word:{width}}" for word, width in zip(_HEAD, _WIDTHS, strict=True)))
    return sorted(path.stem for path in folder.glob("*.npz"))


def tell(name: str, folder: Path) -> bool:
    """Print a line of the table. Returns whether both agree."""
    try:
        difference = compare(folder / f"{name}.onnx", load(folder / f"{name}.npz"))
    except (BadModel, onnx_session.BadModel) as exc:
        print(f"{name:{_WIDTHS[0]}}refused: {exc}", flush=True)
        return False
    print(f"{name:{_WIDTHS[0]}}{line(difference)}{'' if difference.agree else '  DIFFERS'}", flush=True)
    return difference.agree


def line(found: Difference) -> str:
    """The cells of a line after its first one."""
    numbers = (found.pixels, found.score, found.mask, found.least, found.keypoints, found.input)
    cells = [
        *(found.family, found.task, str(found.ours), str(found.theirs), str(found.matched)),
        *("-" if number is None else f"{number:.4f}" for number in numbers),
        found.whole,
    ]
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, _WIDTHS[1:], strict=True))


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main())
