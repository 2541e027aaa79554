"""Samples through a whole fleet: picked on two devices, kept by the api, taken away as a data set."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv

from tests.fakes.http_camera import HttpCamera
from tests.fleet.harness import Fleet, UdpReceiver, wait_for
from tests.fleet.said import files_below

PASSWORD = "canary-5up3r"
LIMIT = 40  # samples a minute of one pipeline
SAMPLING = {
    "dataset": "pattern",
    "strategies": [
        {
            "type": "random",
            "name": "any",
            "traffic_percentage": 1.0,
            "limits": [{"type": "minutely", "value": LIMIT}],
        }
    ],
    "max_image_size": [135, 240],
    "tags": ["test"],
}
SCALE = 0.5  # of the film, which has 480 x 270


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Its samples are counted, and its api is killed."""
    return own_fleet


@pytest.fixture
def camera(video: Path) -> Iterator[HttpCamera]:
    """A film behind a password."""
    login = "Basic " + b64encode(f"user:{PASSWORD}".encode()).decode()
    camera = HttpCamera(film=video, login=login)
    yield camera
    camera.close()


def plays(fleet: Fleet, pipeline_id: str, device: str, reference: str, **more: Any) -> None:
    """Create a pipeline that samples."""
    source = {"reference": reference, "mode": "file", "max_fps": 60}
    body = {"model": "shapes/1", "sources": [source], "device": device, "sampling": SAMPLING, **more}
    answer = fleet.http.put(f"/v2/pipelines/{pipeline_id}", json=body)
    assert answer.status_code == 201, answer.text


def kept(fleet: Fleet) -> dict[str, int]:
    """How many samples the api has, by pipeline."""
    found: dict[str, int] = {}
    after: str | None = ""
    while after is not None:
        query = {"limit": "1000", **({"after": after} if after else {})}
        page = fleet.http.get("/v2/samples/pattern", params=query)
        if page.status_code == 404:
            return {}
        for sample in page.json()["samples"]:
            found[sample["pipeline_id"]] = found.get(sample["pipeline_id"], 0) + 1
        after = page.json()["next"]
    return found


def written(fleet: Fleet, pipeline_id: str) -> int:
    """How many samples a pipeline wrote, once it has ended."""
    status = fleet.http.get(f"/v2/pipelines/{pipeline_id}/status").json()
    return int(status["samples"]["written"]) if status["status"] == "ended" and status["samples"] else 0


def boxes(document: dict[str, Any]) -> list[list[float]]:
    """The boxes of a prediction as x0, y0, x1, y1 in pixels of the sample."""
    return [
        [
            SCALE * (each["x"] - each["width"] / 2),
            SCALE * (each["y"] - each["height"] / 2),
            SCALE * (each["x"] + each["width"] / 2),
            SCALE * (each["y"] + each["height"] / 2),
        ]
        for each in document["predictions"]
    ]


def test_samples_of_two_devices_become_one_data_set_and_none_is_lost(
    clean: Fleet, udp: UdpReceiver, video: Path, camera: HttpCamera, tmp_path: Path
) -> None:
    fleet = clean
    sinks = [{"type": "udp", "host": "127.0.0.1", "port": udp.port}]
    spools = [fleet.data / f"workers/{device}/samples/pattern" for device in ("local-1", "local-2")]
    pipelines = {"disk": "local-1", "camera": "local-2"}
    references = {"disk": str(video), "camera": camera.url("/film", f"user:{PASSWORD}@")}
    for pipeline_id, device in pipelines.items():
        plays(fleet, pipeline_id, device, references[pipeline_id], sinks=sinks)

    wait_for(lambda: kept(fleet), "the first sample")
    fleet.kill("sf-api")
    wait_for(fleet.ready, "the api again")
    for name in pipelines:
        wait_for(lambda name=name: written(fleet, name), f"the end of {name}")  # type: ignore[misc]
    wait_for(lambda: not fleet.pids("camera"), "the end of the cameras, which write their last samples")
    wait_for(lambda: not any(map(files_below, spools)), "empty devices")
    fleet.cli("samples", "export", "pattern", str(tmp_path / "pattern"))

    wait_for(
        lambda: kept(fleet) == {name: written(fleet, name) for name in pipelines},
        lambda: f"the last status: {kept(fleet)} of {[written(fleet, name) for name in pipelines]}",
    )
    count = kept(fleet)
    assert min(count.values()) >= LIMIT
    check_data_set(tmp_path / "pattern", udp, sum(count.values()))
    check_secrecy(fleet.data, tmp_path / "pattern")
    (listed,) = json.loads(fleet.cli("samples", "--json").stdout)
    assert (listed["samples"], listed["devices"]) == (sum(count.values()), ["local-1", "local-2"])
    fleet.cli("samples", "remove", "pattern")
    assert kept(fleet) == {}


def check_data_set(folder: Path, udp: UdpReceiver, count: int) -> None:
    """Every picture has the boxes of the prediction that was received of its frame."""
    received = {
        (about["pipeline_id"], about["frame_id"]): boxes(message)
        for message in udp.messages
        for about in [message["inference_metadata"]]
    }
    written = json.loads((folder / "annotations.json").read_bytes())
    frames = {image["file_name"]: (image["pipeline_id"], image["frame_id"]) for image in written["images"]}

    data = sv.DetectionDataset.from_coco(str(folder / "images"), str(folder / "annotations.json"))

    assert len(data) == count
    found = 0
    for path, image, detections in data:
        expected = received[frames[Path(path).name]]
        assert image.shape == (135, 240, 3)
        assert np.allclose(detections.xyxy.reshape(-1, 4), np.reshape(expected, (-1, 4)), atol=0.02)
        found += len(detections)
    assert found > count / 2  # there was something to see


def check_secrecy(*folders: Path) -> None:
    """No file of a sample tells how its camera is opened."""
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and ({"samples", "pattern"} & set(path.parts))
    ]
    assert files
    for path in files:
        content = path.read_bytes()
        assert PASSWORD.encode() not in content, path
        assert b"http://" not in content, path
