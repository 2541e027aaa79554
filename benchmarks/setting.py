"""What to measure with: the model, the video, how much of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from streamfleet_api.local.demo import demo_model
from streamfleet_api.storage.onnx_file import inspect
from streamfleet_core.protocol.values import Family, Manifest
from tests.fakes.places import short_folder
from tests.fakes.videos import write_pattern

PATTERN = "TestPatternStreamProducer"
_FRAMES = 1200  # of the video that is made
_QUICK_FRAMES = 60
_SIZE = (768, 432)  # pixels

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The same for every benchmark of a run."""

    quick: bool
    rounds: int | None  # None: as many as each benchmark thinks right
    model: Path
    model_options: tuple[str, ...]  # of `streamfleet models add`
    manifest: Manifest
    video: Path
    made: bool  # model and video were made for this run
    model_name: str
    video_name: str

    def pick(self, usual: T, quick: T) -> T:
        """The size for this run."""
        return quick if self.quick else usual

    def rounds_of(self, usual: int) -> int:
        """How often to measure."""
        return self.rounds or self.pick(usual, 1)

    @property
    def live(self) -> dict[str, Any]:
        """A camera that never ends: the test pattern, or the video played as if it were one."""
        return {"reference": PATTERN} if self.made else {"reference": str(self.video), "mode": "live"}

    @property
    def live_name(self) -> str:
        """What the live camera shows."""
        return "test pattern, 1920x1080 at 10 fps" if self.made else f"{self.video_name} played live"


@contextmanager
def prepared(
    *,
    quick: bool,
    rounds: int | None,
    model: Path | None,
    family: str | None,
    labels: Path | None,
    video: Path | None,
) -> Iterator[Setting]:
    """The setting, with a model and a video made where none were given. Raises: BadModel, OSError."""
    with short_folder() as folder:
        options: list[str] = []
        if family is not None:
            options += ["--family", family]
        if labels is not None:
            options += ["--labels", str(labels.absolute())]
        weights = model or _made_model(folder)
        names = tuple(labels.read_text().split("\n")) if labels is not None else None
        manifest = inspect(
            weights,
            hashlib.sha256(weights.read_bytes()).hexdigest(),
            family=cast("Family | None", family),
            labels=names and tuple(name.strip() for name in names if name.strip()),
        )
        film = video or write_pattern(
            folder / "pattern.avi", _QUICK_FRAMES if quick else _FRAMES, width=_SIZE[0], height=_SIZE[1]
        )
        yield Setting(
            quick=quick,
            rounds=rounds,
            model=weights.absolute(),
            model_options=tuple(options),
            manifest=manifest,
            video=film.absolute(),
            made=video is None,
            model_name=model.name if model else "the demo's model",
            video_name=video.name if video else f"test pattern as MJPEG, {_SIZE[0]}x{_SIZE[1]}",
        )


def _made_model(folder: Path) -> Path:
    path = folder / "demo.onnx"
    path.write_bytes(demo_model())
    return path
