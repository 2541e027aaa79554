"""What the sinks of the library do with predictions of one source and of several."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.library import sink_resources
from streamfleet_worker.library.sinks import (
    InMemoryBufferSink,
    UDPSink,
    VideoFileSink,
    multi_sink,
)
from tests.fakes.predicted import GREY, box, frame, seen
from tests.fakes.process_harness import Receiver

# datagrams ------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A port that keeps what comes."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def udp(receiver: Receiver) -> Iterator[UDPSink]:
    """A sink that sends to it."""
    sink = UDPSink.init(ip_address=receiver.sink.host, port=receiver.sink.port)
    yield sink
    sink.close()


def test_a_datagram_is_the_originals_byte_for_byte(udp: UDPSink, receiver: Receiver) -> None:
    prediction = seen(box())

    udp.send_predictions(prediction, frame(source_id=2, frame_id=7))

    (document,) = receiver.documents
    emitted = document["inference_metadata"]["emission_time"]
    assert receiver.datagrams[0].decode() == (
        '{"image": {"width": 320, "height": 240}, "predictions": [{"x": 100.0, "y": 60.0, "width": 40.0, '
        '"height": 20.0, "confidence": 0.9, "class": "car", "class_id": 3, "detection_id": "cdf8"}], '
        '"inference_metadata": {"source_id": 2, "frame_id": 7, "frame_decoding_time": '
        f'"2026-11-20T08:22:43.893326", "emission_time": "{emitted}"}}}}'
    )
    assert abs((datetime.now() - datetime.fromisoformat(emitted)).total_seconds()) < 60
    assert prediction == seen(box())  # the next sink gets it as it came


def test_nothing_found_is_sent_too(udp: UDPSink, receiver: Receiver) -> None:
    udp.send_predictions(seen(), frame())

    assert [document["predictions"] for document in receiver.documents] == [[]]


def test_of_several_sources_each_that_gave_something_sends_one(udp: UDPSink, receiver: Receiver) -> None:
    udp.send_predictions([seen(box()), None, seen()], [frame(0, 5), None, frame(2, 9)])

    assert [(each["source_id"], each["frame_id"]) for each in receiver.metadata] == [(0, 5), (2, 9)]


def test_the_constructor_does_as_the_documentation_of_the_original_says(receiver: Receiver) -> None:
    sink = UDPSink(ip_address="localhost", port=receiver.sink.port)

    sink.send_predictions(seen(), frame())
    sink.close()

    assert receiver.frame_ids == [1]


def test_too_large_a_datagram_loses_the_least_confident_and_says_so(udp: UDPSink, receiver: Receiver) -> None:
    boxes = [box(x=index / 3, confidence=1 - index / 1000) for index in range(900)]

    udp.send_predictions(seen(*boxes), frame())

    (document,) = receiver.documents
    kept = document["predictions"]
    assert len(receiver.datagrams[0]) <= 65_507
    assert len(kept) + document["inference_metadata"]["truncated"] == 900
    assert min(each["confidence"] for each in kept) > 0.5
    assert len(sv.Detections.from_inference(document)) == len(kept)


def test_a_datagram_that_cannot_leave_is_an_error_and_counted(udp: UDPSink) -> None:
    udp.close()

    with pytest.raises(OSError, match=r"udp://127\.0\.0\.1:"):
        udp.send_predictions([seen(), seen()], [frame(0), frame(1)])

    assert udp.dropped == 2


@pytest.mark.parametrize("port", [0, 65_536, "http"])
def test_a_port_that_is_none_is_refused_at_once(port: Any) -> None:
    with pytest.raises(ValueError, match=r"\$\.port"):
        UDPSink.init("127.0.0.1", port)


# files ----------------------------------------------------------------------------------------------------


def film(path: Path) -> list[np.ndarray]:
    """All pictures of a file."""
    video = cv2.VideoCapture(str(path))
    pictures: list[np.ndarray] = []
    while True:
        there, picture = video.read()
        if not there:
            video.release()
            return pictures
        pictures.append(picture)


@pytest.mark.parametrize("name", ["seen.avi", "seen.mp4"])
def test_a_film_has_each_frame_with_what_was_found(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    sink = VideoFileSink.init(
        str(file), display_size=(320, 240), output_fps=10, quiet=True, video_frame_size=(320, 240)
    )

    for number in range(12):
        sink.on_prediction(seen(box()) if number >= 6 else seen(), frame(frame_id=number + 1))
    sink.release()

    pictures = film(file)
    changed = [int((np.abs(picture.astype(int) - GREY) > 60).sum()) for picture in pictures]
    assert [picture.shape for picture in pictures] == [(240, 320, 3)] * 12
    assert max(changed[:6]) == 0
    assert min(changed[6:]) > 100
    video = cv2.VideoCapture(str(file))
    assert video.get(cv2.CAP_PROP_FPS) == 10
    video.release()


def test_several_sources_are_tiles_of_one_film(tmp_path: Path) -> None:
    file = tmp_path / "tiles.avi"

    with VideoFileSink.init(
        str(file), display_size=(160, 120), quiet=True, video_frame_size=(320, 240)
    ) as sink:
        sink.on_prediction([seen(), None, seen()], [frame(0), None, frame(2)])

    (picture,) = film(file)
    tiles = [picture[:120, :160], picture[:120, 160:], picture[120:, :160], picture[120:, 160:]]
    assert [round(float(tile.mean()) / GREY) for tile in tiles] == [1, 0, 1, 0]


def test_it_says_how_many_frames_were_written_unless_it_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    for quiet in (False, True):
        with VideoFileSink.init(str(tmp_path / "seen.avi"), quiet=quiet) as sink:
            sink.on_prediction(seen(), frame())
            sink.on_prediction(seen(), frame())

    assert caplog.messages == [f"{tmp_path / 'seen.avi'}: 2 frames written"]


@pytest.mark.parametrize("name", ["nowhere/seen.avi", "nowhere/seen.mp4", "seen"])
def test_a_film_that_cannot_be_written_is_an_error_at_once_and_nothing_else(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)  # OpenCV's own

    with pytest.raises(OSError, match=rf"{name}: expected a name such as seen.avi"):
        VideoFileSink.init(str(tmp_path / name))

    restored = cv2.utils.logging.setLogLevel(level)
    assert capfd.readouterr() == ("", "")
    assert restored == cv2.utils.logging.LOG_LEVEL_WARNING


def test_a_frame_after_the_release_is_refused(tmp_path: Path) -> None:
    sink = VideoFileSink.init(str(tmp_path / "seen.avi"), quiet=True)
    sink.release()
    sink.release()

    with pytest.raises(ValueError, match="expected no frame after release"):
        sink.on_prediction(seen(), frame())


# memory ---------------------------------------------------------------------------------------------------


def test_a_buffer_gives_back_what_came_oldest_first_and_keeps_the_newest() -> None:
    sink = InMemoryBufferSink.init(queue_size=2)
    first, second, third = frame(0, 1), frame(0, 2), frame(1, 3)

    assert sink.empty()
    sink.on_prediction(seen(), first)
    sink.on_prediction(seen(box()), second)
    sink.on_prediction([None, seen()], [None, third])

    assert sink.consume_prediction() == ([seen(box())], [second])
    assert sink.consume_prediction() == ([None, seen()], [None, third])
    assert sink.empty()
    with pytest.raises(IndexError):
        sink.consume_prediction()


# several --------------------------------------------------------------------------------------------------


def test_one_sink_that_fails_takes_nothing_from_the_others(
    udp: UDPSink, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_resources, "_made", {})
    kept = InMemoryBufferSink.init(queue_size=8)

    def fails(_predictions: Any, _frames: Any) -> None:
        raise RuntimeError("the disk is full")

    on_prediction = partial(multi_sink, sinks=[fails, udp.send_predictions, fails, kept.on_prediction])
    for number in (1, 2):
        on_prediction(seen(box()), frame(frame_id=number))

    assert receiver.frame_ids == [1, 2]
    assert "inference_metadata" not in json.dumps(kept.consume_prediction()[0])
    assert len(caplog.records) == 1
    assert "fails failed: RuntimeError: the disk is full" in caplog.text
    assert "Traceback" in caplog.text


def test_the_sockets_of_sinks_can_broadcast(udp: UDPSink) -> None:
    ours = udp._sender._sockets[socket.AF_INET]

    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
