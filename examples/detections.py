"""Receive predictions as `supervision.Detections`, to filter, count, draw or store them with its tools.

python examples/detections.py [KEY_FILE]

Without KEY_FILE: the fleet on this machine, with the data directory STREAMFLEET_DATA_DIR. For a fleet on
another machine, create a key file: streamfleet keys subscriber NAME --to KEY_FILE
"""

import os
import signal
import sys

import streamfleet

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
    keys = sys.argv[1] if len(sys.argv) > 1 else None
    folder = os.environ.get("STREAMFLEET_DATA_DIR", "~/.streamfleet")
    try:
        predictions = streamfleet.subscribe(keys=keys, data_dir=folder)
    except streamfleet.StreamfleetError as exc:
        sys.exit(str(exc))
    for prediction in predictions:
        found = prediction.detections
        sure = found[found.confidence > 0.5]
        boxes = sure.xyxy.round().tolist()
        print(f"{prediction.pipeline_id}: {len(sure)} of {len(found)} above 0.5, at {boxes}", flush=True)
