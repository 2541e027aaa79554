"""Trying a model on this machine, and two models against each other: what is printed and what is saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamfleet_core.datasets.picked_sample import PICKED, Picked
from streamfleet_core.protocol.requests import DeviceState
from streamfleet_worker.video.synthetic.test_pattern import draw
from tests.api.conftest import Api, Command, until
from tests.core.models.test_model_validation import save
from tests.fakes.broker import Peer, device
from tests.fakes.library_parts import many_boxes_model, squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.pictures import HEIGHT, WIDTH
from tests.fakes.samples import path_of, picked
from tests.fakes.task_models import (
    write_classifying_model,
    write_oriented_model,
    write_pose_model,
    write_segmenting_model,
)
from tests.fakes.videos import write_pattern


@pytest.fixture
def squares(run: Command, peer: Peer, tmp_path: Path) -> Path:
    """The folder of the model shapes/1 of the fleet, which finds the squares of the test pattern."""
    folder = squares_model(tmp_path / "squares")
    run("models", "add", "shapes/1", str(folder))
    return folder


def documents(text: str) -> list[dict[str, Any]]:
    """A document for each line."""
    return [json.loads(line) for line in text.splitlines()]


# try ------------------------------------------------------------------------------------------------------


def test_a_model_is_tried_on_ten_pictures(
    run: Command, squares: Path, pictures: Path, tmp_path: Path
) -> None:
    files = sorted(map(str, pictures.iterdir()))
    output = tmp_path / "tried"

    done = run("models", "try", "shapes/1", *files, "-o", str(output), "--json")

    tried = documents(done.stdout)
    assert [each["file"] for each in tried] == files
    assert all(each["seconds"].keys() == {"decode", "scale", "inference", "read"} for each in tried)
    counts = {Path(each["file"]).name: len(each["predictions"]) for each in tried}
    assert counts == dict.fromkeys(counts, 3) | {"grey.png": 0, "tall.png": 0}
    for each in tried:
        drawn = cv2.imread(each["picture"])
        assert drawn is not None
        assert drawn.shape[1::-1] == (each["image"]["width"], each["image"]["height"])
    assert len(list(output.iterdir())) == 10


def test_what_was_found_is_told_in_lines(run: Command, squares: Path, pictures: Path) -> None:
    files = [str(pictures / "small.jpg"), str(pictures / "deep.png")]

    lines = run("models", "try", str(squares / "weights.onnx"), *files).stdout.splitlines()

    assert lines[0] == f"{files[0]}, {WIDTH}x{HEIGHT}: 3 objects"
    assert sorted(line.split()[0] for line in lines[1:4]) == ["blue", "green", "red"]
    assert all(" at " in line for line in lines[1:4])
    assert [part.split()[0] for part in lines[4].split(", ")] == ["decode", "scale", "inference", "read"]
    assert lines[5].startswith(files[1])
    assert lines[-1].startswith("mean of 2: decode ")


def test_of_a_film_the_first_frames_are_tried(run: Command, squares: Path, tmp_path: Path) -> None:
    film = write_pattern(tmp_path / "film.avi", 20)

    done = run("models", "try", "shapes/1", str(film), "--frames", "3", "-o", str(tmp_path / "tried"))

    assert [line for line in done.stdout.splitlines() if line.startswith(str(film))] == [
        f"{film} frame {number}, {WIDTH}x{HEIGHT}: 3 objects" for number in (1, 2, 3)
    ]
    assert sorted(path.name for path in (tmp_path / "tried").iterdir()) == [
        f"film-0000{number}-found.jpg" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (write_segmenting_model, ["2 objects", "bolt 0.90 at ", "nut 0.70 at "]),
        (write_oriented_model, ["2 objects", "bolt 0.90 at ", "turned by 30°"]),
        (write_pose_model, ["2 objects", "bolt 0.90 at ", "bolt 0.70 at "]),
        (write_classifying_model, ["1 class\n", "nut 0.80\n"]),
    ],
)
def test_models_of_all_tasks_are_tried_and_compared(
    run: Command,
    peer: Peer,
    pictures: Path,
    tmp_path: Path,
    write: Callable[[Path], None],
    found: list[str],
) -> None:
    write(tmp_path / "model.onnx")
    file, output = pictures / "small.jpg", tmp_path / "tried"
    run("models", "add", "parts/1", str(tmp_path / "model.onnx"))

    told = run("models", "try", "parts/1", str(file), "-o", str(output)).stdout
    same = run("models", "diff", "parts/1", "parts/1", "--samples", str(pictures), "--json").stdout

    assert all(part in told for part in found), told
    drawn = cv2.imread(str(output / "small-found.jpg"))
    assert drawn is not None
    assert np.abs(drawn.astype(int) - cv2.imread(str(file))).max() > 50
    assert json.loads(same)["f1"] == 1


def test_a_file_that_is_no_picture_does_not_keep_others_from_being_tried(
    run: Command, squares: Path, pictures: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")

    done = run("models", "try", "shapes/1", str(broken), str(pictures / "small.jpg"), code=1)

    assert done.stdout.startswith(str(pictures / "small.jpg"))
    assert done.stderr.startswith("error: ")
    assert "broken.png" in done.stderr


def test_the_pictures_of_files_of_one_name_are_both_saved(
    run: Command, squares: Path, pictures: Path, tmp_path: Path
) -> None:
    files = [str(pictures / "deep.png"), str(pictures / "deep.tiff")]

    run("models", "try", "shapes/1", *files, "-o", str(pictures))

    assert {"deep-found.jpg", "deep-2-found.jpg", "deep.png", "deep.tiff"} <= {
        path.name for path in pictures.iterdir()
    }


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("shapes/2", "no model shapes/2"),
        ("./gone.onnx", "there is no such file"),
        ("broken.onnx", "ONNX file"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(
    run: Command, squares: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, model: str, reason: str
) -> None:
    monkeypatch.chdir(pictures)
    Path("broken.onnx").write_bytes(b"no model")

    failed = run("models", "try", model, str(pictures / "small.jpg"), code=1)

    assert model in failed.stderr
    assert reason in failed.stderr


def test_without_the_worker_it_says_what_is_missing(
    run: Command, squares: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("streamfleet_worker.library")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "supervision", None)

    failed = run("models", "try", "shapes/1", str(pictures / "small.jpg"), code=1)

    assert "supervision is not installed" in failed.stderr
    assert "--device" in failed.stderr


@pytest.mark.parametrize("state", ["lost", "quarantined"])
def test_a_device_that_is_not_ready_tries_nothing(
    run: Command, peer: Peer, squares: Path, pictures: Path, state: DeviceState
) -> None:
    peer.devices["edge-1"] = replace(device("edge-1"), state=state)

    failed = run("models", "try", "shapes/1", str(pictures / "small.jpg"), "--device", "edge-1", code=1)

    assert failed.stderr.splitlines() == [
        f"error: edge-1 is {state}, expected a device that is ready",
        "       'streamfleet doctor edge-1' tells what is wrong",
    ]
    assert not peer.pipelines


def test_a_model_that_a_device_refuses_is_told_with_the_reason(
    run: Command, api: Api, peer: Peer, squares: Path, pictures: Path
) -> None:
    peer.devices["edge-1"] = device("edge-1")
    process = run.start("models", "try", "shapes/1", str(pictures / "small.jpg"), "--device", "edge-1")
    until(lambda: bool(peer.pipelines))
    ((pipeline_id, view),) = peer.pipelines.items()
    digest = str(view.spec.sources[0].reference).removeprefix("blob:")

    peer.pipelines[pipeline_id] = replace(view, status="failed", reason="ONNX Runtime refuses the model")
    _, told = process.communicate(timeout=PATIENCE)

    assert process.returncode == 3
    assert told == "error: edge-1: ONNX Runtime refuses the model\n"
    assert not peer.pipelines
    assert api.http.head(f"/v2/blobs/{digest}").status_code == 404


# diff -----------------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(squares: Path, tmp_path: Path) -> Path:
    """The same model, with two of its class names exchanged."""
    folder = squares_model(tmp_path / "renamed")
    red, green, blue = (squares / "labels.txt").read_text().split()
    (folder / "labels.txt").write_text(f"{red}\n{blue}\n{green}\n")
    return folder


def test_a_model_agrees_with_itself(run: Command, squares: Path, pictures: Path) -> None:
    done = run("models", "diff", "shapes/1", "shapes/1", "--samples", str(pictures), "--json")

    found = json.loads(done.stdout)
    assert (found["frames"], found["first_boxes"], found["matched"]) == (10, 24, 24)
    assert (found["f1"], found["mean_shift"], found["pictures"]) == (1, 0, [])


def test_pictures_with_other_classes_are_shown_side_by_side(
    run: Command, squares: Path, renamed: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "differences"

    done = run(
        *("models", "diff", "shapes/1", str(renamed), "--samples", str(pictures)),
        *("--worst", "2", "-o", str(output)),
    )

    lines = done.stdout.splitlines()
    assert lines[:6] == [
        "10 pictures",
        "  A           shapes/1: 24 objects",
        f"  B           {renamed}: 24 objects",
        "  B finds     100.0 % of the objects of A",
        "  A finds     100.0 % of the objects of B",
        "  same class  33.3 % of those that both find",
    ]
    assert len([line for line in lines if line.startswith(str(pictures))]) == 2
    assert len([line for line in lines if line.startswith("  other class: ")]) == 4
    saved = sorted(output.iterdir())
    assert [path.name[:4] for path in saved] == ["001-", "002-"]
    drawn = cv2.imread(str(saved[0]))
    assert drawn is not None
    assert drawn.shape[1] > 2 * drawn.shape[0]


def test_a_model_that_is_blind_comes_first(
    run: Command, squares: Path, pictures: Path, tmp_path: Path
) -> None:
    blind = many_boxes_model(tmp_path / "blind", 0)

    found = json.loads(
        run("models", "diff", "shapes/1", str(blind), "--samples", str(pictures), "--json").stdout
    )

    assert (found["blind_frames"], found["matched"], found["second_boxes"]) == (8, 0, 0)
    assert found["matched_share"] == 0
    worst = [each["disagreement"] for each in found["pictures"]]
    assert worst == sorted(worst, reverse=True)
    assert len(found["pictures"][0]["only_first"]) == 3


@pytest.fixture
def dataset(api: Api) -> Iterator[str]:
    """Three samples of the test pattern."""
    _, jpeg = cv2.imencode(".jpg", np.asarray(draw(1)), [cv2.IMWRITE_JPEG_QUALITY, 100])
    for number in range(3):
        height, width = draw(1).shape[:2]
        item = picked(number, size=len(jpeg), width=width, height=height)
        content = Picked(item.sample, jpeg.tobytes()).encode()
        answer = api.http.put(path_of(item), content=content, headers={"content-type": PICKED})
        assert answer.status_code == 201, answer.text
    yield "parts"
    api.http.delete("/v2/samples/parts")


def test_samples_of_the_fleet_are_compared_up_to_a_number(
    run: Command, squares: Path, renamed: Path, dataset: str
) -> None:
    compare = ("models", "diff", "shapes/1", str(renamed), "--json", "--samples", dataset)

    some = json.loads(run(*compare, "-n", "2").stdout)
    all_of_them = json.loads(run(*compare).stdout)

    assert (some["frames"], all_of_them["frames"]) == (2, 3)
    assert [Path(each["file"]).parent for each in all_of_them["pictures"]] == [Path()] * 3
    assert all_of_them["class_agreement"] == pytest.approx(1 / 3)


def test_a_file_that_needs_options_is_tried_after_it_was_added(
    run: Command, pictures: Path, tmp_path: Path
) -> None:
    save(tmp_path / "unnamed.onnx", metadata={})

    done = run("models", "try", str(tmp_path / "unnamed.onnx"), str(pictures / "small.jpg"), code=1)

    assert "pass them with --labels" in done.stderr
    assert done.stderr.endswith("then pass the id instead of the file\n")


def test_a_detector_is_not_compared_with_a_classifier(
    run: Command, squares: Path, pictures: Path, tmp_path: Path
) -> None:
    write_classifying_model(tmp_path / "model.onnx")

    compare = ("models", "diff", "shapes/1", str(tmp_path / "model.onnx"), "--samples", str(pictures))
    done = run(*compare, code=1)

    assert done.stderr.endswith("or two that classify pictures, got object-detection and classification\n")


def test_pictures_that_cannot_be_read_are_skipped(run: Command, squares: Path, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")

    done = run("models", "diff", "shapes/1", "shapes/1", "--samples", str(pictures))

    assert done.stdout.startswith("10 pictures\n")
    assert done.stderr.startswith("skipped: ")
    assert "broken.png" in done.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [("cats", "no dataset cats"), ("./cats", "no such folder"), ("empty", "expected pictures")],
)
def test_samples_that_are_not_there_are_named(
    run: Command, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()

    failed = run("models", "diff", "shapes/1", "shapes/1", "--samples", source, code=1)

    assert reason in failed.stderr
