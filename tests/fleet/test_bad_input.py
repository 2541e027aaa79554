"""Bad input is answered at the door, with what was expected and what came, and disturbs nobody else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports
from tests.fakes.process_harness import write_video
from tests.fleet.harness import Fleet, Subscriber, UdpReceiver, rises, wait_for


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Longer than any test takes: ten frames of it are shown in a second."""
    return write_video(tmp_path_factory.mktemp("witness") / "long.avi", 1200)


@pytest.fixture
def witness(clean: Fleet, udp: UdpReceiver, long_film: Path) -> Iterator[UdpReceiver]:
    """A film that must go on without losing a frame, whatever the test does."""
    clean.initialise(str(long_film), "shapes/1", udp.port, max_fps=10)
    udp.wait_for(1)
    yield udp
    before = len(udp.messages)
    udp.wait_for(before + 5)
    ids = udp.frame_ids()
    assert ids == list(range(1, len(ids) + 1)), "the witness lost frames"


def request(**changes: Any) -> dict[str, Any]:
    """A legal body of `/initialise`, with changes."""
    sink = {"type": "udp_sink", "host": "127.0.0.1", "port": 9}
    body = {
        "video_reference": "TestPatternStreamProducer",
        "model_id": "shapes/1",
        "sink_configuration": sink,
    }
    return {**body, **changes}


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"model_id": "nobody/1"}, 404, "nobody/1"),
        ({"model_id": "../../etc/passwd"}, 400, "model_id"),
        ({"model_id": 7}, 422, "model_id"),
        ({"device": "nobody"}, 400, "local-1"),
        ({"tracker": "magic"}, 400, "bytetrack"),
        ({"video_reference": []}, 500, ""),
        ({"video_reference": ["a"] * 17}, 400, "at most 16"),
        ({"video_reference": {"a": 1}}, 422, "video_reference"),
        ({"sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": 70_000}}, 400, "65535"),
        ({"sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": 99.5}}, 422, "port"),
        ({"sink_configuration": {"type": "carrier_pigeon", "host": "127.0.0.1", "port": 9}}, 400, "udp"),
        ({"model_configuration": {"type": "object-detection", "confidence": 7}}, 400, "confidence"),
        ({"max_fps": "fast"}, 422, "max_fps"),
        ({"max_fps": -1}, 400, "max_fps"),
    ],
)
def test_a_wrong_request_is_answered_with_the_reason(
    clean: Fleet, changes: dict[str, Any], status: int, expected: str
) -> None:
    answer = clean.http.post("/initialise", json=request(**changes))

    assert answer.status_code == status, answer.text
    assert expected in answer.text
    assert clean.pipelines() == []


def test_a_body_of_ten_megabytes_is_refused(witness: UdpReceiver, clean: Fleet) -> None:
    answer = clean.http.post("/initialise", content=b'{"model_id": "' + b"x" * 10_000_000 + b'"}')

    assert answer.status_code == 413
    assert "1048576" in answer.text


@pytest.mark.parametrize("kind", ["missing", "directory", "text", "camera"])
def test_a_source_that_cannot_be_read_says_why(
    witness: UdpReceiver, clean: Fleet, tmp_path: Path, kind: str
) -> None:
    text = tmp_path / "notes.avi"
    text.write_text("this is no video\n" * 100)
    (port,) = free_ports(1)
    reference, expected = {
        "missing": (str(tmp_path / "gone.avi"), "there is no file"),
        "directory": (str(tmp_path), "directory"),
        "text": (str(text), "video"),
        "camera": (f"rtsp://user:hunter2@127.0.0.1:{port}/door", "refused"),
    }[kind]

    pipeline_id = clean.initialise(reference, "shapes/1")

    def error() -> dict[str, Any] | None:
        report = clean.report(pipeline_id)
        errors = [update for update in report["video_source_status_updates"] if update["severity"] == 40]
        return errors[-1] if errors else None

    update = wait_for(error, f"an error in the status of {reference}")
    assert expected in str(update["payload"]).lower()
    assert "hunter2" not in clean.http.get(f"/status/{pipeline_id}").text
    assert "hunter2" not in clean.http.get("/v2/pipelines").text
    assert "hunter2" not in clean.log()
    assert clean.command_pipeline("terminate", pipeline_id).status_code == 200


def graph(path: Path, *, external: bool = False) -> Path:
    """A tiny graph with a weight, inside the file or beside it."""
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, 32, 32])
    node = helper.make_node("Mul", ["images", "w"], ["output0"])
    parts = helper.make_graph([node], "g", [images], [output], [weight])
    model = helper.make_model(parts, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    if external:
        model = onnx.load(path)
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
            convert_attribute=True,
        )
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "gone.onnx", "gone.onnx"),
        (lambda folder: _write(folder / "text.onnx", b"this is no model\n" * 50), "ONNX"),
        (lambda folder: graph(folder / "rank.onnx"), "output"),
        (lambda folder: graph(folder / "external.onnx", external=True), "external"),
    ],
)
def test_a_model_that_cannot_work_is_refused_when_it_is_added(
    clean: Fleet, tmp_path: Path, make: Callable[[Path], Path], expected: str
) -> None:
    done = clean.cli("models", "add", "bad/1", str(make(tmp_path)), "--family", "ultralytics", check=False)

    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert clean.http.post("/initialise", json=request(model_id="bad/1")).status_code == 404


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_junk_on_every_port_disturbs_nobody(
    witness: UdpReceiver, clean: Fleet, subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    for port in (clean.port, *clean.broker_ports):
        for junk in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 64,
            b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",
            os.urandom(9000),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                connection.sendall(junk)

    pipeline_id = clean.pipelines()[0]
    subscriber.wait_for(pipeline_id, 10)
    assert rises(subscriber.keys(pipeline_id))
    wait_for(clean.ready, "that all of it answers")


def test_thousands_of_detections_are_truncated_and_counted(
    witness: UdpReceiver, clean: Fleet, tmp_path: Path, crowd: UdpReceiver, video: Path
) -> None:
    clean.add_model("crowd/1", crowd_model(tmp_path / "crowd.onnx"))
    thresholds = {"confidence": 0.01, "iou_threshold": 1.0, "max_candidates": 5000, "max_detections": 3000}

    clean.initialise(
        str(video),
        "crowd/1",
        crowd.port,
        model_configuration={"type": "object-detection", **thresholds},
    )
    crowd.wait_for(3)

    ids = crowd.frame_ids()
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    for message in crowd.messages:
        left_out = message["inference_metadata"]["truncated"]
        assert len(message["predictions"]) + left_out == 3000
        assert left_out > 0


@pytest.fixture
def crowd() -> Iterator[UdpReceiver]:
    """A receiver of large datagrams."""
    receiver = UdpReceiver()
    yield receiver
    receiver.close()


def crowd_model(path: Path) -> Path:
    """A model of one class that sees 4 096 things in every picture, each elsewhere."""
    # Inside the rows 56 to 200 that a picture of 16:9 fills of the square input.
    columns, rows = np.meshgrid(np.arange(64) * 4 + 2, np.arange(64) * 2.25 + 57)
    count = columns.size
    boxes = [*columns.ravel().tolist(), *rows.ravel().tolist()]
    constant = helper.make_tensor("boxes", TensorProto.FLOAT, [1, 4, count], [*boxes, *([3.0] * 2 * count)])
    scores = [0.5 + 0.4 * i / count for i in range(count)]
    score = helper.make_tensor("scores", TensorProto.FLOAT, [1, 1, count], scores)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["scores", "nothing"], ["seen"]),
        helper.make_node("Concat", ["boxes", "seen"], ["output0"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 256, 256])
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, count])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    model = helper.make_model(
        helper.make_graph(nodes, "crowd", [images], [output], [constant, score, zero]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(
        model, {"task": "detect", "names": "{0: 'thing'}", "stride": "32", "imgsz": "[256, 256]"}
    )
    onnx.save(model, path)
    return path
