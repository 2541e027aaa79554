"""A second model on what the first one has found, through a whole fleet."""

from __future__ import annotations

from pathlib import Path

from onnx import helper, load, save

from streamfleet import Client, Connection
from tests.fakes.models import write_colour_classifier
from tests.fleet.harness import LOADING, Fleet, UdpReceiver, wait_for

NAMES = "{0: 'red', 1: 'green', 2: 'blue'}"


def write_described(path: Path) -> Path:
    """The classifier of colours, which says itself what it is, as Ultralytics' exports do."""
    write_colour_classifier(path)
    model = load(str(path))
    helper.set_model_props(model, {"task": "classify", "names": NAMES, "stride": "1", "imgsz": "[32, 32]"})
    save(model, str(path))
    return path


def test_each_object_gets_what_the_second_model_says_of_it(
    clean: Fleet, udp: UdpReceiver, short_video: Path, tmp_path: Path
) -> None:
    clean.add_model("colours/1", write_described(tmp_path / "colours.onnx"))
    stage = {"name": "colour", "model": "colours/1", "confidence": 0.0}
    body = {
        "model": "shapes/1",
        "sources": [str(short_video)],
        "sinks": [{"type": "udp", "host": "127.0.0.1", "port": udp.port}],
        "stages": [stage],
    }

    answer = clean.http.put("/v2/pipelines/belt", json=body)
    udp.wait_for(100)

    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["stages"][0]["model"]["id"] == "colours/1"
    found = [each for message in udp.messages for each in message["predictions"]]
    assert len(found) > 100
    assert all(each["stages"]["colour"]["top"] == each["class"] for each in found)
    (stat,) = wait_for(
        lambda: (
            (stages := clean.http.get("/v2/pipelines/belt").json()["stages"])
            and stages[0]["inferred"] == len(found)
            and stages
        ),
        "the counters of the stage",
    )
    assert (stat["late"], stat["failed"]) == (0, 0)


def test_a_subscriber_finds_the_results_of_stages_in_the_objects(clean: Fleet, tmp_path: Path) -> None:
    clean.add_model("colours/1", write_described(tmp_path / "colours.onnx"))
    with Client(Connection(url=clean.url)) as client:
        client.put_pipeline(
            "belt",
            model="shapes/1",
            sources=["TestPatternStreamProducer"],
            stages=[{"name": "colour", "model": "colours/1", "classes": ["red"]}],
        )
        predictions = client.predictions("belt", timeout=LOADING)
        prediction = next(each for each in predictions if each.objects)

    with_results = {each["class"] for each in prediction.objects if "stages" in each}
    assert with_results == {"red"}
    assert len(prediction.detections) == len(prediction.objects) == 3


def test_a_model_that_a_stage_needs_is_in_use(clean: Fleet, tmp_path: Path) -> None:
    clean.add_model("colours/1", write_described(tmp_path / "colours.onnx"))
    body = {
        "model": "shapes/1",
        "sources": ["TestPatternStreamProducer"],
        "stages": [{"name": "colour", "model": "colours/1"}],
    }
    clean.http.put("/v2/pipelines/belt", json=body)

    answer = clean.http.delete("/v2/models/colours/1")

    assert (answer.status_code, "belt" in answer.text) == (409, True)
