"""`streamfleet-worker samples export FOLDER`: for a device whose samples are not sent to an API."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamfleet_core.datasets.coco import ANNOTATIONS, IMAGES
from streamfleet_worker.config import DEFAULT_DATA_DIR, SAMPLES
from streamfleet_worker.sampling.export import export


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command, and return the exit code. Ends the process for `--help` and unknown options."""
    options = _parser(environment).parse_args(arguments)
    folder = Path(options.data_dir).expanduser() / SAMPLES
    target = Path(options.folder).expanduser()
    try:
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(f"{target}: expected an empty or new folder, got one with content")
        done = export(folder, target, datasets=options.dataset)
    except OSError as exc:
        print(f"streamfleet-worker: {exc}", file=sys.stderr)
        return 1
    if done.broken:
        print(f"left out {done.broken} incomplete samples", file=sys.stderr)
    if not done.images:
        print(f"streamfleet-worker: {folder} contains no sample", file=sys.stderr)
        return 1
    pictures = "1 picture" if done.images == 1 else f"{done.images} pictures"
    boxes = "1 box" if done.annotations == 1 else f"{done.annotations} boxes"
    print(f"{pictures} with {boxes}: {target / ANNOTATIONS}, {target / IMAGES}/")
    return 0


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("streamfleet-worker samples")
    export_parser = parser.add_subparsers(required=True, metavar="export").add_parser(
        "export", help="write this device's samples as a COCO data set"
    )
    export_parser.add_argument("folder", metavar="FOLDER", help="target folder; created if missing")
    export_parser.add_argument(
        "--dataset", action="append", metavar="NAME", help="only samples of this data set; repeatable"
    )
    export_parser.add_argument(
        "--data-dir",
        default=environment.get("STREAMFLEET_DATA_DIR") or DEFAULT_DATA_DIR,
        help="the worker's data directory [%(default)s]",
    )
    return parser
