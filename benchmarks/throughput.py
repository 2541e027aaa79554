"""Frames a second of one camera through a whole fleet, beside the bare loop of the same run.

The bare loop does what a program without a fleet would do in one process: decode, letterbox, run, suppress
overlapping boxes. It has the better of two arrangements: one frame after the other with all of ONNX Runtime's
threads, or as many frames side by side as there are cores with one thread each.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from streamfleet_api.demo import demo_model
from tests.fleet.harness import Fleet, UdpReceiver, short_folder
from tests.videos import write_pattern

FRAMES = 600
ROUNDS = 5
SIDE = 320  # pixels of the model's input


def run() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as folder, short_folder() as home:
        model, video = Path(folder) / "demo.onnx", Path(folder) / "pattern.avi"
        model.write_bytes(demo_model())
        write_pattern(video, FRAMES, width=768, height=576)
        fleet = Fleet(home)
        try:
            fleet.start()
            fleet.add_model("shapes/1", model)
            measured = [(bare(model, video), of_fleet(fleet, video)) for _ in range(ROUNDS)]
        finally:
            fleet.stop()
    best, ours = (statistics.median(column) for column in zip(*measured, strict=True))
    ratio = statistics.median(fleet / bare for bare, fleet in measured)
    return "\n".join(
        [
            f"throughput of one camera, {FRAMES} frames of 768x576, demo model, median of {ROUNDS} rounds",
            f"{'bare loop, better arrangement':32} {best:8.1f} frames/s",
            f"{'through the fleet, as datagrams':32} {ours:8.1f} frames/s",
            f"{'ratio, pair by pair':32} {ratio:8.2f}",
        ]
    )


def of_fleet(fleet: Fleet, video: Path) -> float:
    """Frames a second between the first datagram and the last."""
    receiver = UdpReceiver()
    try:
        pipeline_id = fleet.initialise(str(video), "shapes/1", receiver.port)
        receiver.wait_for(FRAMES, timeout=120)
        fleet.command_pipeline("terminate", pipeline_id)
        return (FRAMES - 1) / (receiver.times[FRAMES - 1] - receiver.times[0])
    finally:
        receiver.close()


def bare(model: Path, video: Path) -> float:
    """Frames a second of the better arrangement."""
    return max(one_by_one(model, video), side_by_side(model, video))


def one_by_one(model: Path, video: Path) -> float:
    """One frame after the other."""
    session = onnxruntime.InferenceSession(model.read_bytes())
    started = time.monotonic()
    for blob in blobs(video):
        boxes(session.run(None, {"images": blob})[0])
    return FRAMES / (time.monotonic() - started)


def side_by_side(model: Path, video: Path) -> float:
    """As many frames at once as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.read_bytes(), options)
    cores = os.cpu_count() or 1
    started = time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        pending = []
        for blob in blobs(video):
            pending.append(pool.submit(lambda blob: boxes(session.run(None, {"images": blob})[0]), blob))
            if len(pending) > cores:
                pending.pop(0).result()
        for each in pending:
            each.result()
    return FRAMES / (time.monotonic() - started)


def blobs(video: Path) -> Iterator[npt.NDArray[np.float32]]:
    """The frames as the model takes them."""
    capture = cv2.VideoCapture(str(video))
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        scale = SIDE / max(frame.shape[:2])
        small = cv2.resize(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)))
        canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
        top = (SIDE - small.shape[0]) // 2
        canvas[top : top + small.shape[0], : small.shape[1]] = small
        yield cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True).astype(np.float32)


def boxes(output: npt.NDArray[np.float32]) -> int:
    """How many boxes stay."""
    rows = output[0].T
    rows = rows[rows[:, 4:].max(1) > 0.4]
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1).astype(float)
    return len(cv2.dnn.NMSBoxesBatched(corners, rows[:, 4:].max(1), rows[:, 4:].argmax(1), 0.4, 0.3))
