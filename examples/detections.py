"""Predictions of the fleet as `supervision.Detections`, to filter, count, draw or store with its tools.

python examples/detections.py [KEY_FILE]

Of a fleet on this machine; STREAMFLEET_DATA_DIR names its folder. For one elsewhere, with a key of its own:
streamfleet keys subscriber NAME --to KEY_FILE
"""

import os
import signal
import sys

import streamfleet

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
    keys = sys.argv[1] if len(sys.argv) > 1 else None
    folder = os.environ.get("STREAMFLEET_DATA_DIR", "~/.streamfleet")
    try:
        predictions = streamfleet.subscribe(keys=keys, data_dir=folder)
    except streamfleet.StreamfleetError as exc:
        sys.exit(str(exc))
    for prediction in predictions:
        try:
            found = prediction.detections
        except (LookupError, ValueError, TypeError) as exc:  # a device may send anything
            print(f"{prediction.pipeline_id}: not a prediction, skipped: {exc!r}", file=sys.stderr)
            continue
        sure = found[found.confidence > 0.5]
        boxes = sure.xyxy.round().tolist()
        print(f"{prediction.pipeline_id}: {len(sure)} of {len(found)} above 0.5, at {boxes}", flush=True)
