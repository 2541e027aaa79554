"""Which of the objects that a model finds a source keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamfleet_core.models.kept_classes import expected_class, kept_indices, unknown_names
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.families.adapter import Candidates, Floats, Integers

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Selection:
    """What is kept of the objects of one source."""

    classes: Integers | None = None  # (n,): the indices of their labels; None: all
    region: Doubles | None = None  # (2, corners): x, y as parts of the frame; None: all of it

    def keeps_classes(self, classes: Integers) -> npt.NDArray[np.bool_]:
        """Which of these classes (n,) are kept."""
        if self.classes is None:
            return np.ones(len(classes), np.bool_)
        return np.isin(classes, self.classes)

    def of_kept_classes(self, found: Candidates) -> Candidates:
        """The candidates of the kept classes.

        They are selected before suppression, so that no box of another class displaces one of them.
        """
        return found if self.classes is None else found.take(self.keeps_classes(found.classes))

    def keeps_places(self, boxes: Floats, *, width: int, height: int) -> npt.NDArray[np.bool_]:
        """Which boxes (4, n) have their center in the region. All are in pixels of the frame.

        They are selected after suppression: of two boxes around one object on the edge, the better one
        decides whether it is inside.
        """
        if self.region is None:
            return np.ones(boxes.shape[1], np.bool_)
        centers = (boxes[:2].astype(np.float64) + boxes[2:]) / 2
        return in_polygon(centers / [[width], [height]], self.region)


def in_polygon(points: Doubles, corners: Doubles) -> npt.NDArray[np.bool_]:
    """Which points (2, n) are in a polygon (2, corners): a ray from them crosses an odd number of its sides.

    Of a polygon that crosses itself, parts that it goes around twice are outside.
    """
    x, y = points
    from_x, from_y = corners[:, :, None]
    to_x, to_y = np.roll(corners, -1, axis=1)[:, :, None]
    spans = (from_y > y) != (to_y > y)
    height = np.where(spans, to_y - from_y, 1)  # of the sides that count, it is never 0
    crossed = spans & (x < from_x + (to_x - from_x) * (y - from_y) / height)
    inside: npt.NDArray[np.bool_] = np.logical_xor.reduce(crossed, axis=0)
    return inside


ALL = Selection()


def selection_of(spec: SourceSpec, labels: tuple[str, ...]) -> Selection:
    """What a source keeps of the objects of a model with these labels."""
    classes, region = spec.classes, spec.region
    if classes is None and region is None:
        return ALL
    return Selection(
        classes=None if classes is None else np.array(kept_indices(classes, labels), np.int64),
        region=None if region is None else np.array(region, np.float64).T,
    )


def selection_problem(spec: SourceSpec, labels: tuple[str, ...]) -> str:
    """What is wrong with the classes that a source keeps, for users; "" if nothing is."""
    names = spec.classes or ()
    unknown = unknown_names(names, labels)
    if not unknown:
        return ""
    first = names[unknown[0]]
    more = f", nor of {len(unknown) - 1} more names" if len(unknown) > 1 else ""
    return f"classes: expected {expected_class(first, labels)}; nothing is found of {first!r}{more}"
