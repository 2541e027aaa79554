"""What is drawn of predictions of one source and of several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import supervision as sv
from supervision.annotators.base import BaseAnnotator

from streamfleet_worker.library import sink_resources
from streamfleet_worker.library.rendering import create_tiles, render_boxes
from tests.fakes.findings import classified, document, oriented, posed, segmented
from tests.fakes.patience import PATIENCE
from tests.fakes.predicted import GREY, box, coloured, frame, seen


@pytest.fixture
def rendered() -> list[Any]:
    """What was drawn."""
    return []


def test_boxes_are_drawn_where_they_are_and_the_frame_stays_as_it_is(rendered: list[Any]) -> None:
    given = frame(source_id=4)

    render_boxes(seen(box()), given, display_size=None, on_frame_rendered=rendered.append)

    ((source_id, picture),) = rendered
    assert source_id == 4
    assert picture.shape == (240, 320, 3)
    rows, columns = np.nonzero(coloured(picture)[50:])
    assert (columns.min(), columns.max()) == pytest.approx((80, 120), abs=3)
    assert rows.max() + 50 == pytest.approx(70, abs=3)
    assert (given.image == GREY).all()


def test_a_picture_is_made_to_fit_with_black_beside_it(rendered: list[Any]) -> None:
    render_boxes(seen(), frame(), display_size=(1280, 720), on_frame_rendered=rendered.append)

    picture = rendered[0][1]
    assert picture.shape == (720, 1280, 3)
    assert (picture[:, 160:1120] == GREY).all()
    assert not picture[:, :160].any()


def test_several_sources_are_drawn_by_their_place_and_an_absent_one_black(rendered: list[Any]) -> None:
    render_boxes([seen(box()), None], [frame(7), None], on_frame_rendered=rendered.append)

    ((first, second),) = rendered
    assert [first[0], second[0]] == [0, 1]
    assert coloured(first[1]).any()
    assert not second[1].any()


def test_the_users_annotators_are_used_in_their_order(rendered: list[Any]) -> None:
    blue, red = (sv.BoxAnnotator(sv.Color(*rgb), thickness=4) for rgb in ((0, 0, 255), (255, 0, 0)))

    annotators: tuple[BaseAnnotator | list[BaseAnnotator], ...] = (blue, [red, blue])
    for annotator in annotators:
        render_boxes(
            seen(box()),
            frame(),
            annotator=annotator,
            display_size=None,
            on_frame_rendered=rendered.append,
        )

    assert [tuple(picture[60, 80]) for _, picture in rendered] == [(255, 0, 0)] * 2


@pytest.mark.parametrize("make", [segmented, posed, oriented])
def test_what_a_task_adds_is_drawn_with_the_boxes(make: Callable[..., Any], rendered: list[Any]) -> None:
    whole = document(make(3, size=300))
    boxes = {**whole, "predictions": [{key: each[key] for key in box()} for each in whole["predictions"]]}

    for prediction in (whole, boxes):
        given = frame(size=(1000, 1000))
        render_boxes(prediction, given, display_size=None, on_frame_rendered=rendered.append)

    (_, drawn), (_, plain) = rendered
    assert (drawn != plain).any(axis=2).sum() > 500


def test_the_best_classes_are_written_into_a_classified_picture(rendered: list[Any]) -> None:
    render_boxes(document(classified(5)), frame(), display_size=None, on_frame_rendered=rendered.append)

    assert (rendered[0][1][:80, :80] != GREY).any()
    assert (rendered[0][1][80:] == GREY).all()


def test_annotators_of_the_user_get_masks_and_corners(rendered: list[Any]) -> None:
    annotators: tuple[BaseAnnotator, ...] = (sv.PolygonAnnotator(), sv.OrientedBoxAnnotator())

    for annotator, make in zip(annotators, (segmented, oriented), strict=True):
        render_boxes(
            document(make(3, size=300)),
            frame(size=(1920, 1080)),
            annotator=annotator,
            display_size=None,
            on_frame_rendered=rendered.append,
        )

    assert all(coloured(picture).any() for _, picture in rendered)


NO_WINDOW = """
import numpy
from streamfleet_worker.library.rendering import display_image

try:
    display_image((0, numpy.zeros((48, 64, 3), numpy.uint8)))
except OSError as exc:
    print(exc)
"""


def test_without_a_display_a_window_is_an_error_and_not_the_end_of_the_program() -> None:
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    environment = {name: value for name, value in os.environ.items() if name not in displays}

    done = subprocess.run(
        [sys.executable, "-c", NO_WINDOW],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "no display for a window: pass on_frame_rendered" in done.stdout


def test_figures_are_written_into_the_picture_when_asked_for(rendered: list[Any]) -> None:
    monitor = sv.FPSMonitor()
    draw = partial(render_boxes, fps_monitor=monitor, on_frame_rendered=rendered.append)

    draw([seen(), None], [frame(), None])
    draw([seen(), seen()], [frame(), frame()], display_statistics=True)

    assert not coloured(rendered[0][0][1]).any()
    assert coloured(rendered[1][0][1])[650:].any()
    assert len(monitor.all_timestamps) == 3


@pytest.mark.parametrize(
    "prediction", [{"predictions": [{"class": "cat", "confidence": 1.0}]}, {"top": "cat"}, [1], object()]
)
def test_what_cannot_be_drawn_is_told_once_and_the_frame_shown(
    prediction: Any, rendered: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_resources, "_made", {})

    for _ in range(3):
        render_boxes([prediction], [frame()], display_size=None, on_frame_rendered=rendered.append)

    assert (rendered[-1][0][1] == GREY).all()
    assert [record.message.split(":")[0] for record in caplog.records] == ["render_boxes"]


@pytest.mark.parametrize(
    ("count", "options", "shape"),
    [
        (1, {}, (20, 30, 3)),
        (3, {}, (40, 60, 3)),
        (3, {"grid_size": (1, None)}, (20, 90, 3)),
        (3, {"grid_size": (None, 1)}, (60, 30, 3)),
        (2, {"grid_size": (2, 2), "single_tile_size": (6, 4)}, (8, 12, 3)),
    ],
)
def test_pictures_are_put_together_as_tiles(
    count: int, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    pictures = [np.full((20, 30, 3), number + 1, np.uint8) for number in range(count)]

    tiles = create_tiles(pictures, **options)

    assert tiles.shape == shape
    assert set(np.unique(tiles)) - {0} == set(range(1, count + 1))


@pytest.mark.parametrize("grid", [(1, 1), (0, 1)])
def test_a_grid_without_room_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a grid_size for 2 pictures"):
        create_tiles([np.zeros((2, 2, 3), np.uint8)] * 2, grid_size=grid)
