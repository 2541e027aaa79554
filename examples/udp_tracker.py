"""Receive the datagrams of a pipeline's UDP sink, and track what is in them on this side.

python examples/udp_tracker.py [PORT]
"""

import json
import signal
import socket
import sys

import supervision as sv
from trackers import ByteTrackTracker

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", port))
trackers: dict[str, ByteTrackTracker] = {}  # one a pipeline: ids must not travel from camera to camera

while True:
    message = json.loads(receiver.recv(65_536))
    about = message["inference_metadata"]
    pipeline = about["pipeline_id"]
    if pipeline not in trackers:
        trackers[pipeline] = ByteTrackTracker(track_activation_threshold=0.4, high_conf_det_threshold=0.4)
    tracked = trackers[pipeline].update(sv.Detections.from_inference(message))
    tracked = tracked[tracked.tracker_id >= 0]  # -1 is a box that is not yet sure to be a track
    print(
        about["frame_id"],
        dict(zip(tracked.tracker_id.tolist(), tracked["class_name"], strict=True)),
        flush=True,
    )
