"""A model is tried on a device before a pipeline uses it, and nothing of it stays in the fleet."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.pictures import HEIGHT, WIDTH
from tests.fakes.videos import write_pattern
from tests.fleet.harness import BIN, Fleet, wait_for

DEVICE = "local-1"


def documents(text: str) -> list[dict[str, Any]]:
    """A document for each line."""
    return [json.loads(line) for line in text.splitlines()]


def remains(fleet: Fleet) -> tuple[list[str], set[str]]:
    """The pipelines of trials, and the content in the API that no model has."""
    blobs = {path.name for path in (fleet.data / "api/blobs").iterdir() if path.is_file()}
    models = fleet.http.get("/v2/models").json()["models"]
    known = {digest for model in models for digest in (model["digest"], model["weights"]["sha256"])}
    pipelines = fleet.http.get("/v2/pipelines").json()["pipelines"]
    trials = [each["pipeline_id"] for each in pipelines if each["pipeline_id"].startswith("try-")]
    return trials, blobs - known


def test_a_model_is_tried_on_ten_pictures_on_a_device(clean: Fleet, pictures: Path, tmp_path: Path) -> None:
    files = sorted(map(str, pictures.iterdir()))
    output = tmp_path / "tried"
    before = remains(clean)

    done = clean.cli(*("models", "try", "shapes/1", *files, "--device", DEVICE, "-o", str(output), "--json"))

    tried = {Path(each["file"]).name: each for each in documents(done.stdout)}
    assert sorted(tried) == sorted(Path(file).name for file in files)
    sizes = {name: (each["image"]["width"], each["image"]["height"]) for name, each in tried.items()}
    expected = dict.fromkeys(sizes, (WIDTH, HEIGHT)) | {
        "large.jpg": (4 * WIDTH, 4 * HEIGHT),
        "tall.png": (WIDTH, 3 * HEIGHT),
        "odd.bmp": (WIDTH - 3, HEIGHT - 1),
    }
    assert sizes == expected
    for name, each in tried.items():
        found = Counter(prediction["class"] for prediction in each["predictions"])
        assert found == ({} if name in ("grey.png", "tall.png") else {"red": 1, "green": 1, "blue": 1}), name
        assert each["seconds"]["inference"] > 0
        assert cv2.imread(each["picture"]) is not None
    assert remains(clean) == before


def test_the_first_frames_of_a_film_are_tried_on_a_device(clean: Fleet, tmp_path: Path) -> None:
    film = write_pattern(tmp_path / "film.avi", 30)

    some = clean.cli("models", "try", "shapes/1", str(film), "--device", DEVICE, "--frames", "5", "--json")
    whole = clean.cli("models", "try", "shapes/1", str(film), "--device", DEVICE, "--frames", "50", "--json")

    assert [each["frame"] for each in documents(some.stdout)] == [1, 2, 3, 4, 5]
    assert [each["frame"] for each in documents(whole.stdout)] == list(range(1, 31))
    assert remains(clean)[0] == []


def test_a_file_that_is_no_picture_is_told_beside_the_others(
    clean: Fleet, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [str(tmp_path / "broken.png"), str(pictures / "small.jpg")]

    both = clean.cli("models", "try", "shapes/1", *files, "--device", DEVICE, check=False)
    alone = clean.cli("models", "try", "shapes/1", files[0], "--device", DEVICE, check=False)

    assert (both.returncode, alone.returncode) == (1, 1)
    assert both.stdout.startswith(f"{files[1]}, {WIDTH}x{HEIGHT}: 3 objects\n")
    for done in (both, alone):
        assert done.stderr.startswith(f"error: {files[0]}: "), done.stderr
    assert remains(clean)[0] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("shapes/1", "--device", "local-9"), "no device local-9\n       did you mean local-"),
        (("shapes/9", "--device", DEVICE), "no model shapes/9"),
        (("./shapes.onnx", "--device", DEVICE), "expected a model of the fleet"),
    ],
)
def test_what_is_not_there_is_named(
    clean: Fleet, pictures: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = clean.cli("models", "try", *arguments, str(pictures / "small.jpg"), check=False)

    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trial_that_is_interrupted_leaves_nothing(clean: Fleet, tmp_path: Path, number: int) -> None:
    film = write_pattern(tmp_path / "film.avi", 300)
    before = remains(clean)
    command = [str(BIN / "streamfleet"), "models", "try", "shapes/1", str(film), "--device", DEVICE]
    process = subprocess.Popen(
        [*command, "--frames", "1000"],
        env=clean.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: remains(clean)[0], "the pipeline of the trial")

    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert "Traceback" not in told
    assert remains(clean) == before
