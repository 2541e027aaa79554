"""Receive the datagrams of a UDP sink, and track their objects in this program.

python examples/udp_tracker.py [PORT]
"""

import json
import signal
import socket
import sys

import supervision as sv
from trackers import ByteTrackTracker

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", port))
trackers: dict[str, ByteTrackTracker] = {}  # one per pipeline, so that cameras do not share ids

while True:
    datagram, sender = receiver.recvfrom(65_536)
    try:
        message = json.loads(datagram)
        about = message["inference_metadata"]
        pipeline, frame = str(about["pipeline_id"]), about["frame_id"]
        found = sv.Detections.from_inference(message)
    except (LookupError, ValueError, TypeError, RecursionError) as exc:  # any program may send to this port
        print(f"{sender[0]}: not a prediction, skipped: {exc!r}", file=sys.stderr)
        continue
    if pipeline not in trackers:
        trackers[pipeline] = ByteTrackTracker(track_activation_threshold=0.4, high_conf_det_threshold=0.4)
    tracked = trackers[pipeline].update(found)
    tracked = tracked[tracked.tracker_id >= 0]  # -1: not confirmed as a track yet
    names = tracked.data.get("class_name", [])  # missing if the frame has no objects
    print(
        frame,
        dict(zip(tracked.tracker_id.tolist(), map(str, names), strict=True)),
        flush=True,
    )
