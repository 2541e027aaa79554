"""Makes the models, and what the references find with them. It runs in the environment of the references.

python -m tests.references.export FOLDER [NAME...]
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.references import grid_models, rfdetr_models, ultralytics_models
from tests.references.case import Case, save
from tests.references.detr_models import Detr
from tests.references.grid_models import Grids


def jobs() -> dict[str, Callable[[Path], Case]]:
    """All cases by name."""
    found: dict[str, Callable[[Path], Case]] = {
        name: partial(ultralytics_models.case_of, made) for name, made in ultralytics_models.models().items()
    }
    for kind in ("rtdetr", "rtdetr-v2", "dfine"):
        found[f"transformers-{kind}"] = partial(_detr, kind, "plain", False)
        found[f"deploy-{kind}"] = partial(_detr, kind, "deployed", False)
    found["transformers-rtdetr-odd"] = partial(_detr, "rtdetr", "plain", True)
    found["deploy-rtdetr-odd"] = partial(_detr, "rtdetr", "deployed", True)
    found["rtdetr-scores"] = partial(_detr, "rtdetr-v2", "scored", False)
    found["rfdetr-detect"] = partial(rfdetr_models.case_of, "RFDETRNano")
    found["rfdetr-segment"] = partial(rfdetr_models.case_of, "RFDETRSegNano")
    for family in ("yolox", "yolox-decoded", "yolov5"):
        found[family] = partial(grid_models.case_of, Grids(family=family))
        found[f"{family}-odd"] = partial(grid_models.case_of, Grids(family=family, odd=True))
    found["yolov5-segment"] = partial(grid_models.case_of, Grids(family="yolov5", masks=8))
    return found


def _detr(kind: str, form: str, odd: bool, path: Path) -> Case:
    model = Detr(kind, odd=odd)
    case: Case = getattr(model, form)(path)
    return case


def main(folder: Path, *names: str) -> int:
    """Make those whose names contain one of these, or all. Returns how many could not be made."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # packages write beside what they export
    failures = 0
    for name, make in jobs().items():
        if names and not any(each in name for each in names):
            continue
        began = time.monotonic()
        try:
            save(folder / f"{name}.npz", make(folder / f"{name}.onnx"))
            print(f"made {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:  # the others are to be made all the same
            failures += 1
            print(f"NOT made: {name}\n{traceback.format_exc()}", flush=True)
    return failures


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    sys.exit(min(main(Path(sys.argv[1]), *sys.argv[2:]), 100))
