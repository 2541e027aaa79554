"""Which of the objects that a model finds a source keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamfleet_core.models.kept_classes import expected_class, kept_indices, unknown_names
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.families.adapter import Candidates, Integers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Selection:
    """What is kept of the objects of one source."""

    classes: Integers | None = None  # (n,): the indices of their labels; None: all

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


ALL = Selection()


def selection_of(spec: SourceSpec, labels: tuple[str, ...]) -> Selection:
    """What a source keeps of the objects of a model with these labels."""
    if spec.classes is None:
        return ALL
    return Selection(classes=np.array(kept_indices(spec.classes, labels), np.int64))


def selection_problem(spec: SourceSpec, labels: tuple[str, ...]) -> str:
    """What is wrong with the classes that a source keeps, for users; "" if nothing is."""
    names = spec.classes or ()
    unknown = unknown_names(names, labels)
    if not unknown:
        return ""
    first = names[unknown[0]]
    more = f", nor of {len(unknown) - 1} more names" if len(unknown) > 1 else ""
    return f"classes: expected {expected_class(first, labels)}; nothing is found of {first!r}{more}"
