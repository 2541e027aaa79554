"""A subscriber that writes down all that it gets, with its checkpoint in a file.

python -m benchmarks.completeness.subscriber DATA_DIR CHECKPOINT_FILE PATIENCE PIPELINE...
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import msgspec

import streamfleet


def main(arguments: list[str]) -> None:
    """Print a line for each value: an array for a prediction, an object for a gap. It never ends."""
    data_dir, file, patience, *pipelines = arguments
    encode = msgspec.json.Encoder().encode
    with streamfleet.subscribe(
        *pipelines, since=file, start="oldest", patience=float(patience), data_dir=data_dir
    ) as predictions:
        for each in predictions:
            line: Any
            if isinstance(each, streamfleet.Gap):
                line = asdict(each)
            else:
                line = (each.pipeline_id, each.generation, each.incarnation, each.sequence)
            sys.stdout.buffer.write(encode(line) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
