"""Evaluate a detector: accuracy on scenes held out from training, and time per frame on one core.

It uses the letterbox and the decoding of the worker, in the project's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

# ONNX Runtime reads this when it is loaded. Disable telemetry, as the worker's engine does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import cv2
import numpy as np
import onnxruntime
import supervision as sv
from supervision.metrics import MeanAveragePrecision

from streamfleet_core.models.model_validation import validate_model
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.synthetic.conveyor import Scene

HELD_OUT = range(900, 950)  # scene numbers


class Clock:
    """Measures the steps of each frame."""

    names = ("draw", "letterbox", "infer", "decode")

    def __init__(self) -> None:
        self._laps: list[list[float]] = []

    def start(self) -> None:
        """Start a frame."""
        self._laps.append([time.perf_counter()])

    def lap(self) -> None:
        """Finish a step."""
        self._laps[-1].append(time.perf_counter())

    def medians(self) -> dict[str, float]:
        """Return the median of each step in milliseconds."""
        steps = np.median(np.diff(self._laps, axis=1), axis=0) * 1000
        return dict(zip(self.names, steps.tolist(), strict=True))


def main() -> None:
    """Evaluate the model and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--frames", type=int, default=20, help="frames per scene [%(default)s]")
    parser.add_argument(
        "--scenes", type=int, default=len(HELD_OUT), help="scenes, of those held out [%(default)s]"
    )
    parser.add_argument("--confidence", type=float, default=PostProcessing().confidence)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    content = options.model.read_bytes()
    manifest = validate_model(options.model, hashlib.sha256(content).hexdigest())
    session = _session(content)
    letterbox, clock, metric = Letterbox(manifest), Clock(), MeanAveragePrecision()
    pixels = np.empty((1, 3, manifest.input_height, manifest.input_width), np.uint8)
    blob = np.empty(pixels.shape, np.float32)
    rules = PostProcessing(confidence=options.confidence)
    rng = np.random.default_rng(0)
    scenes = HELD_OUT[: options.scenes]
    for number in scenes:
        scene = Scene(number)
        for frame_id in rng.integers(1, 100_000, size=options.frames).tolist():
            clock.start()
            image = scene.draw(frame_id)
            clock.lap()
            geometry = letterbox.write(ArrayPicture(image), pixels)
            clock.lap()
            normalize(pixels, input_format_of(manifest).scale, blob)
            (output,) = session.run(None, {"images": blob})
            clock.lap()
            found = decode([output], geometry, manifest=manifest, rules=rules)
            clock.lap()
            boxes, class_ids = scene.truth(frame_id)
            metric.update(found, sv.Detections(xyxy=boxes, class_id=class_ids))
    result = metric.compute()
    print(f"{len(scenes) * options.frames} frames of {len(scenes)} scenes")
    print(f"mAP50 {result.map50:.4f}, mAP50:95 {result.map50_95:.4f}, at confidence {options.confidence}")
    print(", ".join(f"{name} {value:.2f} ms" for name, value in clock.medians().items()))


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
