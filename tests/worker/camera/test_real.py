"""A real film and a real model, where there are any: what comes out is what a ten-line loop finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import supervision as sv

from tests.fakes.models import manifest_of
from tests.fakes.process_harness import DATA, Child, ProcessHarness, until_ended

FRAMES = 795
CONFIDENCE = 0.3
# The picture is scaled before its colours are converted, and the loop does it the other way round. That moves
# confidences by 0.004 in the mean, and by up to 0.06, as much as another method of scaling does.
MARGIN = 0.06
SAMPLE = (1, 2, 100, 333, 500, 794, 795)

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the checkout"),
    pytest.mark.timeout(600),  # half a minute of computing, where nobody else computes
]


def reference() -> Iterator[tuple[int, list[list[float]]]]:
    """Frame ids of the sample, and what is found there: score, class, x1, y1, x2, y2; best first."""
    session = ort.InferenceSession(DATA / "yolox_nano.onnx", providers=["CPUExecutionProvider"])
    points = np.array([(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)])
    film = cv2.VideoCapture(str(DATA / "vtest.avi"))
    for frame_id in range(1, FRAMES + 1):
        assert film.grab()
        if frame_id not in SAMPLE:
            continue
        picture = np.full((416, 416, 3), 114, np.uint8)
        picture[:312] = cv2.resize(film.retrieve()[1], (416, 312))
        blob = picture.transpose(2, 0, 1)[None].astype(np.float32)
        raw = session.run(None, {"images": blob})[0][0]
        scores = raw[:, 4:5] * raw[:, 5:]
        best, classes = scores.max(axis=1), scores.argmax(axis=1)
        centre = (raw[:, :2] + points[:, :2]) * points[:, 2:] * 768 / 416
        half = np.exp(raw[:, 2:4]) * points[:, 2:] * 384 / 416
        limits = [768, 576, 768, 576]
        boxes = np.clip(np.hstack([centre - half, centre + half]), 0, limits)
        sure = best >= CONFIDENCE
        boxes, best, classes = boxes[sure], best[sure], classes[sure]
        sides = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), best.tolist(), classes.tolist(), 0.0, 0.3)
        yield frame_id, [[best[row], classes[row], *boxes[row]] for row in kept]
    film.release()


def pair(one: list[list[float]], others: list[list[float]]) -> list[tuple[list[float], list[float] | None]]:
    """Each row, and the one of the others at the same place and of the same class, if there is one."""
    overlaps = sv.box_iou_batch(np.array(one)[:, 2:], np.array(others)[:, 2:])
    return [
        (row, next((o for o, iou in zip(others, ious, strict=True) if iou > 0.85 and o[1] == row[1]), None))
        for row, ious in zip(one, overlaps, strict=True)
    ]


def found(document: dict[str, Any]) -> list[list[float]]:
    rows = []
    for one in document["predictions"]:
        left, top = one["x"] - one["width"] / 2, one["y"] - one["height"] / 2
        rows.append([one["confidence"], one["class_id"], left, top, left + one["width"], top + one["height"]])
    return rows


def until_over(stand: ProcessHarness, camera: Child, frames: int) -> None:
    """Wait for a film to end, which goes on all the time."""
    for count in range(0, frames, 50):
        stand.receiver.until(count)
    until_ended(camera)


def test_a_real_film_gives_what_a_plain_loop_finds(stand: ProcessHarness) -> None:
    labels = tuple((DATA / "coco-labels.txt").read_text().split("\n")[:80])
    weights = DATA / "yolox_nano.onnx"
    manifest = manifest_of(weights, labels=labels, family="yolox", width=416, height=416)
    stand.engine(weights, manifest)
    camera = stand.camera(manifest, str(DATA / "vtest.avi"), confidence=CONFIDENCE, iou_threshold=0.3)

    until_over(stand, camera, FRAMES)

    documents = {one["inference_metadata"]["frame_id"]: one for one in stand.receiver.documents}
    assert stand.receiver.frame_ids == list(range(1, FRAMES + 1))
    for frame_id, expected in reference():
        came = found(documents[frame_id])
        assert len(came) > 3
        for one, others in ((came, expected), (expected, came)):
            pairs = pair(one, others)
            assert all(other is not None for row, other in pairs if row[0] >= CONFIDENCE + MARGIN)
            shifts = [row[0] - other[0] for row, other in pairs if other is not None]
            assert max(map(abs, shifts)) < MARGIN
            assert abs(np.mean(shifts)) < MARGIN / 5
    assert {one["class"] for one in documents[100]["predictions"]} >= {"person"}


def test_people_keep_their_ids_from_frame_to_frame(stand: ProcessHarness, tmp_path: Path) -> None:
    # The first hundred frames are enough: 9 to 12 people who walk.
    film = cv2.VideoCapture(str(DATA / "vtest.avi"))
    short = cv2.VideoWriter(str(tmp_path / "short.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (768, 576))
    for _ in range(100):
        short.write(film.read()[1])
    film.release()
    short.release()
    labels = tuple((DATA / "coco-labels.txt").read_text().split("\n")[:80])
    weights = DATA / "yolox_nano.onnx"
    manifest = manifest_of(weights, labels=labels, family="yolox", width=416, height=416)
    stand.engine(weights, manifest)

    camera = stand.camera(manifest, str(tmp_path / "short.avi"), confidence=CONFIDENCE, tracker="bytetrack")
    until_over(stand, camera, 100)

    lengths: dict[int, int] = {}
    last: dict[int, tuple[float, float]] = {}
    for document in stand.receiver.documents:
        tracked = ["tracker_id" in one for one in document["predictions"]]
        assert all(tracked) or not any(tracked)
        for one in document["predictions"]:
            name, place = one.get("tracker_id"), (one["x"], one["y"])
            if name in last:
                assert np.hypot(*np.subtract(place, last[name])) < 60  # pixels, in a tenth of a second or so
            last[name] = place
            lengths[name] = lengths.get(name, 0) + 1
    assert sorted(lengths.values())[-5] >= 80
