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
            print(f"gone: {each}", flush=True)
        else:
            print(each.generation, each.incarnation, each.sequence, flush=True)
