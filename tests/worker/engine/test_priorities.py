"""Camera processes of different priorities at one engine process, as a busy device has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.fakes.process_harness import ProcessHarness, wait_for
from tests.fakes.standin_engine import StandInFigures, runs_of, standin_engine

BLACK, WHITE = 0, 255
FRAMES = 4000


def write_plain_video(path: Path, value: int) -> str:
    """A film in which every pixel of every picture has this value."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for _ in range(FRAMES):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    return str(path)


def test_a_busy_engine_runs_the_higher_priority_first_also_after_a_change(stand: ProcessHarness) -> None:
    model = stand.folder / "standin"
    manifest = StandInFigures(each=0.01, max_batch=1).write(model)
    stand.engine(model, manifest, entry=standin_engine, threads=1)
    films = {value: write_plain_video(stand.folder / f"{value}.avi", value) for value in (BLACK, WHITE)}
    stand.camera(manifest, films[BLACK], progress_path=str(stand.folder / "black"))
    white = stand.camera(
        manifest, films[WHITE], progress_path=str(stand.folder / "white"), priority="low", sinks=()
    )

    def is_first(value: int) -> bool:
        """Whether the last ten frames are nine of this film, and one of the other."""
        last = [run.pixels[0] for run in runs_of(model)[-10:]]
        return len(last) == 10 and sum(abs(pixel - value) < 64 for pixel in last) == 9

    wait_for("the low priority has every tenth turn", lambda: is_first(BLACK))
    white.change(2, priority="high")

    wait_for("the high priority has nine of ten", lambda: is_first(WHITE))
