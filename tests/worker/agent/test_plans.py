"""The real agent on a Jetson: it replaces an engine by one that runs the plan, which is built once.

The module `tensorrt`, the GPU and the cameras are fakes.
"""

from __future__ import annotations

from pathlib import Path

from streamfleet_core.protocol.data_plane import device_topic
from streamfleet_core.protocol.requests import CreatePipeline
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from tests.fakes.models import write_squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Worker, wait_for


def await_tensorrt(worker: Worker) -> int:
    """Wait until TensorRT runs the model. Returns the number of restarts of its engine."""
    with worker.subscribed(device_topic("cam-1")) as receive:

        def engine() -> dict[str, object] | None:
            document = receive(PATIENCE)
            engines = document["engines"] if document is not None else []
            return next((each for each in engines if each["provider"] == "TensorRT"), None)

        restarts = wait_for(engine, "TensorRT runs the model")["restarts"]
        assert isinstance(restarts, int)
        return restarts


def test_an_engine_is_replaced_when_its_plan_is_built_and_a_restart_builds_none(
    folder: Path, broker: Broker
) -> None:
    manifest = write_squares_model(folder / "model.onnx", batch="batch")
    worker = Worker(folder, "w", "--join", broker.token("cam-1"), program="tests.fakes.agent_on_jetson")
    worker.lay_model(manifest, (folder / "model.onnx").read_bytes())
    worker.start()
    try:
        wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
        model = ModelRef("squares/1", manifest.digest)
        spec = PipelineSpec(model=model, sources=(SourceSpec("rtsp://h/door"),))
        broker.ask(CreatePipeline(pipeline_id="door", spec=spec))
        first = await_tensorrt(worker)
        broker.await_status("door", "running")
        worker.kill()
        worker.start()
        again = await_tensorrt(worker)
    finally:
        worker.kill()
        wait_for(lambda: not worker.family(), "no process is left")

    assert (first, again) == (0, 0)
    assert (worker.data / "builds").read_text().split() == ["10.3.0"]
