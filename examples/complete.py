"""Print every prediction once, whatever fails meanwhile. Start it again, and it continues where it was.

python examples/complete.py PIPELINE CHECKPOINT_FILE
"""

import os
import sys

import streamfleet

pipeline, file = sys.argv[1:]
folder = os.environ.get("STREAMFLEET_DATA_DIR", "~/.streamfleet")
with streamfleet.subscribe(pipeline, since=file, data_dir=folder) as predictions:
    for each in predictions:
        if isinstance(each, streamfleet.Gap):
            line = f"gone: {each}"
        else:
            line = f"{each.generation} {each.incarnation} {each.sequence}"
        sys.stdout.write(f"{line}\n")  # one write: a kill leaves no part of a line
        sys.stdout.flush()
