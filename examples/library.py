"""Run a model on a video file or a camera, and record a video with the boxes. It needs no fleet.

python examples/library.py MODEL SOURCE [VIDEO]
"""

import contextlib
import sys
from typing import Any

from streamfleet import InferencePipeline, VideoFileSink, VideoFrame

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model, source, video = [*sys.argv[1:], "seen.avi"][:3]
    tracks: set[tuple[str, int]] = set()

    def count(predictions: dict[str, Any], frame: VideoFrame) -> None:
        """Count each tracked object once."""
        for one in predictions["predictions"]:
            if "tracker_id" in one:
                tracks.add((one["class"], one["tracker_id"]))

    with VideoFileSink.init(video) as sink, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: a shorter video
        InferencePipeline.init(source, model, [sink.on_prediction, count], tracker="bytetrack").start()
    print(f"{len(tracks)} objects in {video}")
