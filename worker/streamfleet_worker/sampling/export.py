"""Exports the samples of a folder as a COCO data set for labelling tools and `supervision`."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfleet_core.datasets.coco import ANNOTATIONS, IMAGES, Coco, file_name
from streamfleet_core.datasets.spool import Spool


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    images: int
    annotations: int
    broken: int  # incomplete samples, which were left out


def export(folder: Path, target: Path, *, datasets: Collection[str] | None = None) -> Exported:
    """Export the samples of a spool's folder, oldest first; of these data sets, or of all.

    Raises: OSError.
    """
    spool, coco = Spool(folder), Coco()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    broken = 0
    (target / IMAGES).mkdir(parents=True, exist_ok=True)
    for entry in spool.entries():
        if datasets is not None and entry.dataset not in datasets:
            continue
        found = spool.read(entry.dataset, entry.name)
        if found is None:
            broken += 1
            continue
        sample, jpeg = found
        (target / IMAGES / file_name(sample)).write_bytes(jpeg)
        image, boxes = coco.add(sample)
        images.append(image)
        annotations.extend(boxes)
    document = {"images": images, "annotations": annotations, "categories": coco.categories()}
    (target / ANNOTATIONS).write_text(json.dumps(document))
    return Exported(len(images), len(annotations), broken)
