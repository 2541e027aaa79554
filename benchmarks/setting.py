"""The settings of a run: model, video and sizes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from benchmarks.heavy_model import SIDE, heavy_model
from benchmarks.scene import Scene
from streamfleet_api.local.demo import demo_model
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.values import Family, Manifest
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.videos import write_pattern

PATTERN = "TestPatternStreamProducer"
DEMO, HALF, HEAVY = "demo", "half", "heavy"  # models that are made here
FRAMES = 1200  # of the generated video
_QUICK_FRAMES = 60
_SIZE = (768, 432)  # pixels
_CONTENTS: dict[str, Callable[[], bytes]] = {
    DEMO: demo_model,
    HALF: lambda: heavy_model(side=SIDE // 2),
    HEAVY: heavy_model,
}
NAMES = {
    DEMO: "the demo's model",
    HALF: "a stand-in of YOLOv8n's size, for half the side",
    HEAVY: "a stand-in of YOLOv8n's size",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings of all benchmarks in a run."""

    quick: bool
    rounds: int | None  # None: the default of each benchmark
    model: Path
    model_options: tuple[str, ...]  # for `streamfleet models add`
    manifest: Manifest
    video: Path
    is_generated: bool  # whether the video is the test pattern
    model_name: str
    video_name: str
    is_heavy: bool = False  # whether the model is the stand-in of YOLOv8n's size
    is_chosen: bool = False  # whether the model was chosen for this run
    scenes: tuple[Scene, ...] = ()  # none: the default of each benchmark
    cameras: tuple[int, ...] = ()  # none: the default of each benchmark
    devices: tuple[int, ...] = ()  # none: the default of each benchmark
    faults: tuple[str, ...] = ()  # none: all
    seconds: float = math.inf  # after which no further round of a fault begins
    again: bool = False  # whether rounds of faults that were done before are forgotten
    memory: Path | None = None  # the file that remembers them

    def pick(self, usual: T, quick: T) -> T:
        """Return the size for this run."""
        return quick if self.quick else usual

    def rounds_of(self, usual: int) -> int:
        """Return the number of rounds."""
        return self.rounds or self.pick(usual, 1)

    @property
    def live(self) -> dict[str, Any]:
        """A camera: the test pattern, or the video played live."""
        return {"reference": PATTERN} if self.is_generated else {"reference": str(self.video), "mode": "live"}

    @property
    def live_name(self) -> str:
        """The name of the live camera."""
        return "test pattern, 1920x1080 at 10 fps" if self.is_generated else f"{self.video_name} played live"


@contextmanager
def prepared(
    *,
    quick: bool,
    rounds: int | None,
    model: str | None,
    family: str | None,
    labels: Path | None,
    video: Path | None,
    scenes: tuple[Scene, ...] = (),
    cameras: tuple[int, ...] = (),
    devices: tuple[int, ...] = (),
    faults: tuple[str, ...] = (),
    seconds: float = math.inf,
    again: bool = False,
    memory: Path | None = None,
) -> Iterator[Setting]:
    """Prepare the settings, with a generated model and video by default. Raises: BadModel, OSError.

    `model`: a file, `demo` or `heavy`; None: the demo's, unless a benchmark prefers another one.
    """
    with short_folder() as folder:
        options: list[str] = []
        if family is not None:
            options += ["--family", family]
        if labels is not None:
            options += ["--labels", str(labels.absolute())]
        weights = _model(folder, model or DEMO)
        names = tuple(labels.read_text().split("\n")) if labels is not None else None
        manifest = validate_model(
            weights,
            hashlib.sha256(weights.read_bytes()).hexdigest(),
            family=cast("Family | None", family),
            labels=names and tuple(name.strip() for name in names if name.strip()),
        )
        film = video or write_pattern(
            folder / "pattern.avi", _QUICK_FRAMES if quick else FRAMES, width=_SIZE[0], height=_SIZE[1]
        )
        yield Setting(
            quick=quick,
            rounds=rounds,
            model=weights.absolute(),
            model_options=tuple(options),
            manifest=manifest,
            video=film.absolute(),
            is_generated=video is None,
            model_name=NAMES.get(model or DEMO, weights.name),
            video_name=video.name if video else f"test pattern as MJPEG, {_SIZE[0]}x{_SIZE[1]}",
            is_heavy=model == HEAVY,
            is_chosen=model is not None,
            scenes=scenes,
            cameras=cameras,
            devices=devices,
            faults=faults,
            seconds=seconds,
            again=again,
            memory=memory,
        )


@contextmanager
def heavy_by_default(setting: Setting) -> Iterator[Setting]:
    """Use the heavy model instead of the demo's, unless a model was chosen for this run."""
    with with_model(setting, HEAVY) as chosen:
        yield chosen


@contextmanager
def with_model(setting: Setting, model: str) -> Iterator[Setting]:
    """Use a model that is made here, unless a model was chosen for this run."""
    if setting.is_chosen:
        yield setting
        return
    with short_folder() as folder:
        weights = _model(folder, model)
        yield replace(
            setting,
            model=weights,
            model_options=(),
            manifest=validate_model(weights, hashlib.sha256(weights.read_bytes()).hexdigest()),
            model_name=NAMES[model],
            is_heavy=model == HEAVY,
        )


def sizes_of(
    setting: Setting, scenes: Sequence[Scene], *, seconds: float, rounds: int, source: str
) -> dict[str, Any]:
    """Return what a report of live cameras names as its sizes."""
    return {
        "scenes": [str(scene) for scene in scenes],
        "seconds": seconds,
        "rounds": rounds,
        "model": setting.model_name,
        "source": source,
    }


def _model(folder: Path, model: str) -> Path:
    """Return the file of a model, which is written first if it is made here."""
    if model not in _CONTENTS:
        return Path(model)
    path = folder / f"{model}.onnx"
    path.write_bytes(_CONTENTS[model]())
    return path
