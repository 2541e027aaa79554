"""The outlines of masks as polygons with few enough points. Pure."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.detection.masks import BoxMask

LEAST_POINTS = 3  # of a polygon; supervision reads no masks at all of a frame in which one has less

Points = npt.NDArray[np.int32]  # (n, 2): x and y in pixels of the frame


def outline_of(mask: BoxMask, most: int) -> Points:
    """The outline of the largest part, with at most as many points; none if nothing is set."""
    points = simplified(mask.polygon(), most)
    if 0 < len(points) < LEAST_POINTS:  # a pixel, or a row of them
        points = np.concatenate([points, np.repeat(points[-1:], LEAST_POINTS - len(points), axis=0)])
    return points


def simplified(points: npt.NDArray[Any], most: int) -> Points:
    """A polygon with at most as many points, and at least `LEAST_POINTS`, that stays close."""
    most = max(most, LEAST_POINTS)
    whole: Points = np.ascontiguousarray(points, np.int32).reshape(-1, 2)
    if len(whole) <= most:
        return whole
    simple, distance = whole, 0.5
    while len(simple) > most:  # each time from what is left, as that is shorter
        simple = cv2.approxPolyDP(simple, distance, closed=True).reshape(-1, 2).astype(np.int32, copy=False)
        distance *= 1.5
    return simple if len(simple) >= LEAST_POINTS else _spread(whole, most)


def _spread(points: Points, most: int) -> Points:
    """Some of the points, evenly spread."""
    chosen: Points = points[np.linspace(0, len(points) - 1, most).astype(int)]
    return chosen
