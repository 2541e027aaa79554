"""A model on a film or a camera, drawn and filmed, in a program of a few lines: no fleet is needed.

python examples/library.py MODEL SOURCE [FILM]
"""

import contextlib
import sys
from typing import Any

from streamfleet import InferencePipeline, VideoFileSink, VideoFrame

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model, source, film = [*sys.argv[1:], "seen.avi"][:3]
    tracks: set[tuple[str, int]] = set()

    def count(predictions: dict[str, Any], frame: VideoFrame) -> None:
        """Note what has been seen, each thing once."""
        for one in predictions["predictions"]:
            if "tracker_id" in one:
                tracks.add((one["class"], one["tracker_id"]))

    with VideoFileSink.init(film) as sink, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: a shorter film
        InferencePipeline.init(source, model, [sink.on_prediction, count], tracker="bytetrack").start()
    print(f"{len(tracks)} things in {film}")
