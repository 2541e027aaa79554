"""`Stream` and `UdpStream`: real films and models, and what users of the original do with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker import Stream, UdpStream
from streamfleet_worker.library import SourceConnectionError
from streamfleet_worker.video.synthetic.test_pattern import draw
from tests.fakes.library_parts import (
    found_at,
    many_boxes_model,
    nothing_left_behind,
    squares_model,
)
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT
from tests.fakes.process_harness import DATA, Receiver, wait_for
from tests.fakes.videos import write_pattern


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STREAM_ID", "MODEL_ID", "ENFORCE_FPS", "ENABLE_BYTE_TRACK", "IP_BROADCAST_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames."""
    return write_pattern(tmp_path_factory.mktemp("film") / "film.avi", 20)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def play(**options: Any) -> list[tuple[dict[str, Any], np.ndarray]]:
    """What a stream gives until its end."""
    came: list[tuple[dict[str, Any], np.ndarray]] = []

    Stream(on_prediction=lambda *both: came.append(both), use_main_thread=True, **options)

    return came


# Stream ---------------------------------------------------------------------------------------------------


def test_a_stream_gives_predictions_and_pictures(folder: Path, film: Path) -> None:
    model = str(squares_model(folder / "squares"))

    came = play(source=str(film), model=model, enforce_fps=True, api_key="not needed")

    assert len(came) == 20
    for predictions, image in came:
        assert image.shape == (270, 480, 3)
        assert len(sv.Detections.from_inference(predictions)) == 3


def test_a_stream_has_the_attributes_that_programs_read(film: Path) -> None:
    read: list[tuple[Any, ...]] = []

    def look(predictions: dict[str, Any], image: np.ndarray) -> None:
        stream = made[0]
        assert stream.frame is not None
        assert stream.frame_cv is not None
        np.testing.assert_array_equal(stream.frame, image)
        np.testing.assert_array_equal(stream.frame_cv, image[:, :, ::-1])
        assert stream.inference_response is predictions
        read.append((predictions["frame_id"], stream.frame_id, stream.frame_count, bool(stream.stop)))
        if len(read) == 3:
            stream.stop = True

    made: list[Stream] = []
    made.append(
        Stream(
            source=film,
            model=lambda _: found_at(30.0),
            enforce_fps=True,
            confidence=0.6,
            use_bytetrack=True,
            on_start=lambda: wait_for("the stream is there", lambda: made),
            on_prediction=look,
        )
    )
    (stream,) = made
    stream.run_thread()

    assert read == [(1, 1, 1, False), (2, 2, 2, False), (3, 3, 3, False)]
    asked: object = True  # programs compare with it
    assert (stream.stop == asked, repr(stream.stop)) == (True, "True")
    assert (stream.stream_id, stream.model_id, stream.task_type) == (film, None, "object-detection")
    assert (stream.confidence, stream.iou_threshold, stream.max_detections) == (0.6, 0.3, 300)
    assert (stream.use_bytetrack, stream.use_main_thread, stream.output_channel_order) == (True, False, "RGB")
    camera = stream.webcam_stream
    assert (camera.width, camera.height, camera.max_fps, camera.stopped) == (480, 270, 30.0, True)
    for name in (
        *(
            "api_key",
            "class_agnostic_nms",
            "max_candidates",
            "byte_tracker",
            "queue_control",
            "preproc_result",
        ),
        *("img_in", "img_dims", "active_learning_middleware", "inference_request_type", "model", "fps"),
    ):
        getattr(camera if name == "fps" else stream, name)
    for name in ("init_infer", "preprocess_thread", "inference_request_thread"):
        getattr(stream, name)()
    assert len(stream.on_prediction_callbacks) == len(stream.on_start_callbacks) == 1


@pytest.mark.parametrize("source", ["webcam", "0"])
def test_a_camera_that_is_not_there_is_named_by_its_device(source: str) -> None:
    with pytest.raises(SourceConnectionError, match=r"/dev/video0"):
        Stream(source=source, model=lambda _: found_at())


@pytest.mark.parametrize(("order", "channel"), [("RGB", 0), ("BGR", 2)])
def test_the_channels_are_in_the_order_that_is_asked_for(order: str, channel: int) -> None:
    came: list[np.ndarray] = []

    def keep(_: Any, image: np.ndarray) -> None:
        came.append(image)
        stream.stop()

    stream = Stream(
        source="TestPatternStreamProducer", model=lambda _: found_at(), output_channel_order=order
    )
    stream.on_prediction(keep)
    stream.join()

    red = came[0][84 + 96].max(axis=0)  # the row of pixels through the middle of the red square
    assert red[channel] == 255
    assert red[2 - channel] == draw(1)[0, 0, 0]


def test_callbacks_come_in_their_order_and_can_be_taken_back(film: Path) -> None:
    calls: list[str] = []
    made: list[Stream] = []
    take_back: list[Callable[[], None]] = []

    def first(*_: Any) -> None:
        calls.append("first")
        if calls.count("first") == 1:
            take_back.append(made[0].on_prediction(lambda *_: calls.append("second")))
            made[0].on_stop(lambda: calls.append("stop 2"))
        if calls.count("first") == 3:
            take_back[0]()
            take_back[0]()

    def start() -> None:
        calls.append("start")
        wait_for("the stream is there", lambda: made)

    made.append(
        Stream(
            source=film,
            model=lambda _: found_at(),
            enforce_fps=True,
            on_prediction=first,
            on_start=start,
            on_stop=lambda: calls.append("stop 1"),
        )
    )
    made[0].join()

    assert calls == [
        *("start", "first", "first", "second", "first"),
        *["first"] * 17,
        *("stop 2", "stop 1"),
    ]


def test_a_callback_that_raises_keeps_nobody_from_anything(film: Path) -> None:
    calls: list[str] = []

    def broken(*_: Any) -> None:
        raise LookupError("broken")

    def count(*_: Any) -> None:
        calls.append("frame")

    def subscribe() -> None:
        wait_for("the stream is there", lambda: made)
        made[0].on_prediction(count)
        made[0].on_stop(broken)
        raise LookupError("broken")

    made: list[Stream] = []
    made.append(
        Stream(
            source=film,
            model=lambda _: found_at(),
            enforce_fps=True,
            on_prediction=broken,
            on_start=subscribe,
            on_stop=lambda: calls.append("stop"),
        )
    )
    made[0].join()

    assert calls == ["frame"] * 20 + ["stop"]


def test_a_file_plays_at_its_own_pace_and_leaves_out_what_is_late(film: Path) -> None:
    def slow(_: np.ndarray) -> dict[str, Any]:
        time.sleep(0.08)
        return found_at()

    began = time.monotonic()
    came = play(source=film, model=slow)

    assert (
        time.monotonic() - began > 18 / 30
    )  # the film is 20 / 30 s long, and its last frame may be left out
    assert 1 <= len(came) < 15


def test_ids_are_on_the_right_boxes(folder: Path, film: Path) -> None:
    model = squares_model(folder / "squares")

    came = play(source=film, model=model, enforce_fps=True, use_bytetrack=True)
    without = play(source=film, model=model, enforce_fps=True)

    ids = [{one["class"]: one["tracker_id"] for one in found["predictions"]} for found, _ in came]
    assert len(ids[0]) == 3
    assert all(of_frame == ids[0] for of_frame in ids)
    assert not any("tracker_id" in one for found, _ in without for one in found["predictions"])


def test_what_is_not_said_is_taken_from_the_environment(
    folder: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares_model(folder / "cache" / "pattern" / "1")
    for name, value in {
        "MODEL_CACHE_DIR": str(folder / "cache"),
        "MODEL_ID": "pattern/1",
        "STREAM_ID": str(film),
        "ENFORCE_FPS": "True",
        "ENABLE_BYTE_TRACK": "True",
    }.items():
        monkeypatch.setenv(name, value)

    came = play()

    assert len(came) == 20
    assert all("tracker_id" in one for found, _ in came for one in found["predictions"])


def test_what_is_missing_is_named_as_the_original_does(film: Path) -> None:
    with pytest.raises(ValueError, match=r"^STREAM_ID is not defined$"):
        Stream(model=found_at)
    with pytest.raises(ValueError, match=r"^MODEL_ID is not defined$"):
        Stream(source=film)
    with pytest.raises(ValueError, match=r"^MODEL_ID is not defined$"):
        UdpStream(stream_id=0)
    with pytest.raises(ValueError, match="expected RGB or BGR, got 'HSV'"):
        Stream(source=film, model=found_at, output_channel_order="HSV")


def test_a_source_that_is_not_there_ends_no_program(folder: Path) -> None:
    with pytest.raises(SourceConnectionError, match="there is no file"):
        Stream(source=str(folder / "missing.avi"), model=found_at)


def test_the_webcam_is_the_first_camera() -> None:
    if Path("/dev/video0").exists():
        pytest.skip("there is a camera here")

    with pytest.raises(SourceConnectionError, match="there is no camera /dev/video0"):
        Stream(source="webcam", model=found_at)


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded data is not here")
def test_the_originals_example_draws_what_a_real_model_finds_in_a_real_film(folder: Path) -> None:
    cached = folder / "cache" / "people" / "1"
    cached.mkdir(parents=True)
    (cached / "weights.onnx").symlink_to(DATA / "yolox_nano.onnx")
    (cached / "labels.txt").write_text((DATA / "coco-labels.txt").read_text())
    (cached / "manifest.json").write_text('{"family": "yolox"}')
    annotator = sv.BoxAnnotator()
    drawn: list[np.ndarray] = []

    def on_prediction(predictions: dict[str, Any], image: np.ndarray) -> None:
        detections = sv.Detections.from_inference(predictions)
        drawn.append(annotator.annotate(scene=image, detections=detections))
        assert "person" in detections.data["class_name"]
        if len(drawn) == 20:
            stream.stop()

    stream = Stream(
        source=str(DATA / "vtest.avi"),
        model=str(cached),
        output_channel_order="BGR",
        enforce_fps=True,
        on_prediction=on_prediction,
    )
    stream.join()

    assert len(drawn) == 20


def test_the_example_films_what_it_sees(folder: Path, film: Path) -> None:
    seen, model = folder / "seen.avi", squares_model(folder / "squares")
    program = ROOT / "examples" / "library.py"

    done = subprocess.run(
        [sys.executable, str(program), str(model), str(film), str(seen)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )

    assert (done.stdout, done.returncode) == (f"3 objects in {seen}\n", 0), done.stderr
    assert seen.stat().st_size > 10_000


# UdpStream ------------------------------------------------------------------------------------------------


def test_a_udp_stream_sends_a_compact_datagram_a_frame(folder: Path, film: Path, receiver: Receiver) -> None:
    stream = UdpStream(
        model_id=str(squares_model(folder / "squares")),
        stream_id=str(film),
        enforce_fps=True,
        ip_broadcast_port=receiver.sink.port,
        use_bytetrack=True,
    )

    stream.run_thread()

    receiver.settle()
    documents = [json.loads(datagram) for datagram in receiver.datagrams]
    assert [document["frame_id"] for document in documents] == list(range(1, 21))
    for datagram, document in zip(receiver.datagrams, documents, strict=True):
        assert list(document) == ["frame_id", "image", "predictions"]
        assert b" " not in datagram
        assert sv.Detections.from_inference(document).tracker_id is not None


def test_a_frame_of_too_many_boxes_is_cut_to_one_datagram(folder: Path, receiver: Receiver) -> None:
    film = write_pattern(folder / "short.avi", 3)  # of which all may wait for the receiver
    stream = UdpStream(
        model_id=str(many_boxes_model(folder / "many", 1000)),
        stream_id=str(film),
        enforce_fps=True,
        max_detections=3000,
        ip_broadcast_addr="localhost",
        ip_broadcast_port=receiver.sink.port,
    )

    stream.run_thread()

    receiver.settle()
    assert len(receiver.datagrams) == 3
    for datagram in receiver.datagrams:
        document = json.loads(datagram)
        assert 60_000 < len(datagram) <= 65_507
        assert document["truncated"] == 1000 - len(document["predictions"]) > 0


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_is_none_is_refused_at_once(port: int) -> None:
    with pytest.raises(ValueError, match="ip_broadcast_port: expected a port"):
        UdpStream(model_id=found_at, stream_id=0, ip_broadcast_port=port)


def test_ctrl_c_ends_a_udp_stream_without_an_error(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    pressed: list[int] = []

    def press(_: np.ndarray) -> dict[str, Any]:
        if len(receiver.datagrams) > 2 and not pressed:
            pressed.append(len(receiver.datagrams))
            os.kill(os.getpid(), signal.SIGINT)
        return {"predictions": []}

    stream = UdpStream(
        model_id=press, stream_id="TestPatternStreamProducer", ip_broadcast_port=receiver.sink.port
    )
    try:
        stream.run_thread()
    except KeyboardInterrupt:
        pytest.fail("the program would end by an error")

    assert pressed
    assert capfd.readouterr() == ("", "")
