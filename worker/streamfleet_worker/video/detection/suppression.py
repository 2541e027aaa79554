"""Non-maximum suppression: which of overlapping boxes remain. Pure."""

from __future__ import annotations

import cv2
import numpy as np

from streamfleet_worker.families.adapter import Candidates, Floats, Integers
from streamfleet_worker.ipc.child_messages import PostProcessing

_TINY = 1e-7
_MOST_ROTATED = 3000  # boxes that are compared with each other, whose square is the number of overlaps
_BLOCK = 128  # of them at once: all overlaps would take a gigabyte


def suppress(found: Candidates, rules: PostProcessing) -> Integers:
    """The candidates to keep, most confident first. Their boxes must be finite."""
    if len(found.scores) == 0:
        return np.empty(0, np.int64)
    if found.rotated is not None:
        return _suppress_rotated(found.rotated, found, rules)
    xywh = found.boxes.astype(np.float64)
    xywh[2:] -= xywh[:2]
    # OpenCV reads boxes from lists, and classes from its own kind of integers, faster than otherwise.
    rows, kinds = xywh.T.tolist(), found.classes.astype(np.int32)
    scores = found.scores.astype(np.float32, copy=False)
    if rules.class_agnostic_nms:
        kept = cv2.dnn.NMSBoxes(rows, scores, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    else:
        kept = cv2.dnn.NMSBoxesBatched(rows, scores, kinds, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    return np.asarray(kept, np.int64).reshape(-1)


def _suppress_rotated(rotated: Floats, found: Candidates, rules: PostProcessing) -> Integers:
    """Drop a box that overlaps a more confident one, even if that one is dropped too.

    This is what the reference of oriented boxes does, with the overlap of their Gaussian distributions.
    """
    order = np.argsort(-found.scores, kind="stable")[:_MOST_ROTATED]
    boxes, classes = rotated[:, order].astype(np.float64), found.classes[order]
    highest = np.zeros(len(order))
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        # With those that are more confident, and among themselves.
        overlaps = np.triu(gaussian_overlaps(boxes[:, :end], boxes[:, start:end]), k=1 - start)
        if not rules.class_agnostic_nms:
            overlaps[classes[:end, None] != classes[start:end]] = 0
        highest[start:end] = overlaps.max(axis=0)
    kept: Integers = order[highest < rules.iou_threshold].astype(np.int64)
    return kept


def gaussian_overlaps(first: Floats, second: Floats) -> Floats:
    """The overlap (n, m) of rotated boxes (5, n) and (5, m): 1 less the Hellinger distance of their
    distributions.

    A box is the normal distribution with its center as mean, and a twelfth of its squared sides as variances
    along them: Llerena et al., Gaussian Bounding Boxes and Probabilistic Intersection-over-Union
    (arXiv 2106.06072), equations 2 to 4.
    """
    a, b, c = (
        one[:, None] + other for one, other in zip(_covariance(first), _covariance(second), strict=True)
    )
    dx, dy = first[0][:, None] - second[0], first[1][:, None] - second[1]
    determinant = a * b - c**2 + _TINY
    shift = (a * dy**2 + b * dx**2) / determinant / 4 - c * dx * dy / determinant / 2
    own = _determinant(first)[:, None] * _determinant(second)
    form = np.log(determinant / (4 * np.sqrt(own) + _TINY) + _TINY) / 2
    distance = np.clip(shift + form, _TINY, 100)
    overlaps: Floats = 1 - np.sqrt(1 - np.exp(-distance) + _TINY)
    return np.nan_to_num(overlaps, nan=0.0)


def _covariance(rotated: Floats) -> tuple[Floats, Floats, Floats]:
    """The variances along x and y, and the covariance, of rotated boxes (5, n)."""
    _, _, width, height, angle = rotated
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = width**2 / 12, height**2 / 12
    return along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin


def _determinant(rotated: Floats) -> Floats:
    a, b, c = _covariance(rotated)
    determinant: Floats = np.maximum(a * b - c**2, 0)
    return determinant
