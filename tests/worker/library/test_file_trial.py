"""A model on the frames of a file: pictures of any kind, films, and what is neither."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfleet_worker.library import get_model
from streamfleet_worker.library.execution.file_trial import captioned
from streamfleet_worker.library.loaded_model import LoadedModel
from tests.fakes.library_parts import squares_model
from tests.fakes.pictures import write_pictures
from tests.fakes.videos import write_pattern


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    """Finds the three squares of the test pattern."""
    squares_model(tmp_path / "model")
    return get_model(tmp_path / "model")


def classes(document: dict[str, object]) -> Counter[str]:
    """How many objects of each class there are."""
    predictions = document["predictions"]
    assert isinstance(predictions, list)
    return Counter(each["class"] for each in predictions)


def test_pictures_of_ten_kinds_are_read_upright_and_in_colour(tmp_path: Path, model: LoadedModel) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    sizes = write_pictures(folder)

    tried = {name: list(model.try_file(folder / name, frames=5)) for name in sizes}

    assert len(sizes) == 10
    assert {name: len(frames) for name, frames in tried.items()} == dict.fromkeys(sizes, 1)
    for name, size in sizes.items():
        (frame,) = tried[name]
        assert frame.image.shape == (size[1], size[0], 3), name
        assert frame.document["image"] == {"width": size[0], "height": size[1]}
        expected = {} if name in ("grey.png", "tall.png") else {"red": 1, "green": 1, "blue": 1}
        assert classes(frame.document) == expected, name
        assert min(frame.decode, frame.steps.scale, frame.steps.inference, frame.steps.read) > 0


def test_what_is_found_is_drawn_in_the_size_of_the_picture(tmp_path: Path, model: LoadedModel) -> None:
    write_pictures(tmp_path)

    (frame,) = model.try_file(tmp_path / "deep.png")
    drawn = cv2.imdecode(np.frombuffer(frame.jpeg(), np.uint8), cv2.IMREAD_COLOR)

    assert drawn is not None
    assert drawn.shape == frame.image.shape
    assert np.abs(drawn.astype(int) - frame.image).max() > 100


def test_of_a_film_the_first_frames_are_tried(tmp_path: Path, model: LoadedModel) -> None:
    film = write_pattern(tmp_path / "film.avi", 20)

    some = list(model.try_file(film, frames=7))
    whole = list(model.try_file(film, frames=100))

    assert [frame.number for frame in some] == list(range(1, 8))
    assert len(whole) == 20
    assert all(classes(frame.document) for frame in some)


def test_rules_apply(tmp_path: Path, model: LoadedModel) -> None:
    write_pictures(tmp_path)

    (frame,) = model.try_file(tmp_path / "small.jpg", max_detections=2)

    assert len(frame.document["predictions"]) == 2
    with pytest.raises(ValueError, match="confidence"):
        model.try_file(tmp_path / "small.jpg", confidence=2)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_file_without_a_picture_is_refused(tmp_path: Path, model: LoadedModel, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"broken\.png"):
        list(model.try_file(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path, model: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"no file .*gone\.png"):
        list(model.try_file(tmp_path / "gone.png"))


def test_a_model_that_fails_says_so(
    tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path)

    def fail(_slots: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model._context._runner, "run", fail)

    with pytest.raises(RuntimeError, match="the model fails: out of memory"):
        list(model.try_file(tmp_path / "small.jpg"))


def test_boxes_are_written_with_their_confidence_and_classes_of_pictures_as_they_are() -> None:
    box = {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0, "class": "bolt", "confidence": 0.876}
    whole = {"class": "nut", "confidence": 0.5}

    shown = captioned({"image": {"width": 8, "height": 8}, "predictions": [box, whole]})

    assert [each["class"] for each in shown["predictions"]] == ["bolt 0.88", "nut"]
    assert box["class"] == "bolt"
