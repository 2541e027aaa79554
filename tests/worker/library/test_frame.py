"""The frame that users get: when its image is converted, and that it is an ordinary value otherwise."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfleet_worker import InferencePipeline, VideoFrame
from streamfleet_worker.library.frame import frame_of_picture, picture_of
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Image
from tests.fakes.conversions import recorded_conversions
from tests.fakes.library_parts import Taker, nothing_left_behind, squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.predicted import AT
from tests.fakes.videos import write_pattern

IMAGE = np.full((4, 6, 3), 90, np.uint8)


class CountingPicture(ArrayPicture):
    """Counts its conversions."""

    def __init__(self) -> None:
        super().__init__(IMAGE)
        self.conversions = 0

    def bgr(self) -> Image:
        self.conversions += 1
        return super().bgr()


def frame_of(picture: CountingPicture) -> VideoFrame:
    return frame_of_picture(
        picture,
        frame_id=3,
        frame_timestamp=AT,
        source_id=0,
        fps=25.0,
        measured_fps=None,
        comes_from_video_file=True,
    )


def test_an_image_is_converted_when_it_is_first_read() -> None:
    picture = CountingPicture()
    frame = frame_of(picture)

    assert picture_of(frame) is picture
    assert (frame.frame_id, frame.frame_timestamp, frame.fps) == (3, AT, 25.0)
    assert picture.conversions == 0
    assert frame.image is IMAGE
    assert frame.image is IMAGE
    assert picture.conversions == 1
    assert picture_of(frame).bgr() is IMAGE, "a function may have drawn on it"


def test_many_threads_may_read_an_image_first() -> None:
    for _ in range(50):
        frame = frame_of(CountingPicture())
        barrier = threading.Barrier(4)
        read: list[Image] = []

        def look(frame: VideoFrame = frame, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(PATIENCE)
            read.append(frame.image)  # noqa: B023

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert len(read) == 4
        assert all(image is IMAGE for image in read)


def test_a_frame_can_be_copied_printed_and_sent_to_a_process() -> None:
    changed = replace(frame_of(CountingPicture()), source_id=7)
    sent = pickle.loads(pickle.dumps(frame_of(CountingPicture())))

    assert changed.source_id == 7
    assert changed.image is IMAGE
    np.testing.assert_array_equal(sent.image, IMAGE)
    assert "frame_id=3" in repr(frame_of(CountingPicture()))
    assert "picture" not in repr(frame_of(CountingPicture()))


def test_what_a_frame_does_not_have_is_an_error() -> None:
    frame = frame_of(CountingPicture())

    with pytest.raises(AttributeError, match="'VideoFrame' object has no attribute 'imagee'"):
        frame.imagee  # type: ignore[attr-defined]  # noqa: B018


def test_a_film_is_not_converted_for_a_model_and_a_sink_that_look_at_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = recorded_conversions(monkeypatch)
    film = write_pattern(tmp_path / "film.avi", 10)
    taker = Taker()

    with nothing_left_behind():
        InferencePipeline.init(film, squares_model(tmp_path / "squares"), taker).start()

    predictions: list[dict[str, Any]] = [prediction for prediction, _ in taker.calls]
    assert [len(prediction["predictions"]) for prediction in predictions] == [3] * 10
    assert converted.count((480, 270)) == 1, "the first one, to know that FFmpeg can"
    assert len(converted) == 11
