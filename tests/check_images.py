"""The container images, made and run without Docker: from a bare Debian to a first prediction.

It takes minutes and the package registries, so `make images-check` runs it, and a plain `pytest` does not.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_worker.video.hardware.pipelines import candidates
from tests.fakes import apt_repository, compose
from tests.fakes.apt_repository import Package
from tests.fakes.images import TOOLS, Container, Images, NoBase, ended, until
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports, short_folder

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot and mount"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}: make debian"),
]

PORTS = (
    "STREAM_MANAGEMENT_API_PORT",
    "STREAM_MANAGER_PORT",
    "STREAMFLEET_DEVICES_PORT",
    "STREAMFLEET_RELAY_IN_PORT",
    "STREAMFLEET_RELAY_OUT_PORT",
    "STREAMFLEET_PICTURES_IN_PORT",
    "STREAMFLEET_PICTURES_OUT_PORT",
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as path:
        path.chmod(0o755)
        yield path
        # A hundred thousand files: Python itself takes a minute for them.
        subprocess.run(["rm", "-rf", str(path / "images")], timeout=300)


JETSON = compose.load(compose.FOLDER / "compose.jetpack-7.2.yaml").services["worker"]
L4T = {key: value for key, value in JETSON.keys["build"]["args"].items() if not key.startswith("WORKER_")}


@pytest.fixture(scope="module")
def repository(folder: Path) -> Iterator[str]:
    """Stands for NVIDIA's: packages with the names and versions of JetPack 7.2, and next to no content."""
    if not all(map(shutil.which, apt_repository.TOOLS)):
        yield ""
        return
    python, module = "/usr/lib/python3/dist-packages", f"__version__ = '{L4T['TENSORRT']}.2'\n"
    common = [
        Package(
            name="python3-libnvinfer",
            version=f"{L4T['TENSORRT']}.2.10-1+cuda",
            files={f"{python}/tensorrt/__init__.py": module, f"{python}/of_the_system.py": ""},
        ),
        Package(name=f"cuda-cudart-{L4T['CUDA']}", version="1"),
    ]
    board = [
        Package(name=each, version="39.2", files={f"/usr/share/{each}": ""}, preinst="#!/bin/sh\nexit 1\n")
        for each in L4T["L4T_PACKAGES"].split()
    ]
    parts = {"common": common, L4T["L4T_BOARD"]: board}
    with apt_repository.served(folder / "apt", L4T["L4T_RELEASE"], parts) as address:
        yield address


@pytest.fixture(scope="module")
def images(folder: Path, repository: str) -> Images:
    """The stages of the Dockerfile, each built when it is wanted."""
    images = Images(folder / "images", **{**L4T, "L4T_APT": repository})
    try:
        images.build("broker")
    except NoBase as exc:
        pytest.skip(f"no base image: {exc}")
    return images


def test_compose_brings_a_first_prediction_and_it_comes_back(folder: Path, images: Images) -> None:
    numbers = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    fleet = compose.load(compose.FOLDER / "compose.cpu.yaml", numbers)
    containers = {
        name: Container(images.build(service.target), service, folder / "volumes", folder / f"{name}.log")
        for name, service in fleet.services.items()
    }

    with ended(list(containers.values())), receiver() as datagrams:
        bring_up(containers)
        answer = initialise(numbers["STREAM_MANAGEMENT_API_PORT"], datagrams.getsockname()[1])
        first = json.loads(datagrams.recv(65_536))
        codes = {name: containers[name].stop() for name in ("worker", "api", "broker")}
        bring_up(containers)
        drain(datagrams)
        again = json.loads(datagrams.recv(65_536))

    assert answer["status"] == "success"
    assert {each["class"] for each in first["predictions"]} <= {"bolt", "nut", "washer"}
    assert first["predictions"]
    assert codes == {"worker": 0, "api": 0, "broker": 0}
    assert again["predictions"]


def test_a_second_device_joins_with_a_token_of_its_own(folder: Path, images: Images) -> None:
    numbers = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    fleet = compose.load(compose.FOLDER / "compose.cpu.yaml", numbers)
    hub = {
        name: Container(images.build(fleet.services[name].target), fleet.services[name], folder / "hub", log)
        for name in ("broker", "api")
        for log in [folder / f"hub-{name}.log"]
    }

    with ended(list(hub.values())):
        hub["broker"].start()
        until(hub["broker"].is_healthy, "the broker")
        hub["api"].start()
        until(lambda: token(hub["api"]), "the api")
        service = compose.load(
            compose.FOLDER / "compose.cpu.yaml", {"STREAMFLEET_JOIN": token(hub["api"])}
        ).services["worker"]
        device = Container(images.build("worker"), service, folder / "edge", folder / "edge.log")
        with ended([device]):
            device.start()
            until(device.is_healthy, "the device")
            healthy = hub["api"].is_healthy()
            code = device.stop()
            unhealthy = device.execute(
                "streamfleet-worker", "--data-dir", "/var/lib/streamfleet/worker", "--check"
            )

    assert healthy
    assert code == 0
    assert (unhealthy.returncode, "no worker has responded" in unhealthy.stderr) == (1, True)


def test_the_image_of_a_jetson_has_what_decodes_and_sees_tensorrt_alone(
    folder: Path, images: Images, repository: str
) -> None:
    """Its base is Debian's here, and the packages are stand-ins: those of NVIDIA need a Jetson."""
    if not repository:
        pytest.skip(f"needs {', '.join(apt_repository.TOOLS)}")
    image = images.build("worker-jetson")
    container = Container(image, JETSON, folder / "jetson", folder / "jetson.log")
    (decoder, *_) = candidates("nv", "h264")
    shared = [each for each in decoder.needs if not each.startswith("nv")]

    version = container.execute("python", "-c", "import tensorrt; print(tensorrt.__version__)")
    other = container.execute("python", "-c", "import of_the_system")
    missing = [each for each in shared if container.execute("gst-inspect-1.0", each).returncode != 0]
    unpacked = [each for each in L4T["L4T_PACKAGES"].split() if (image.root / "usr/share" / each).exists()]

    assert version.stdout == f"{L4T['TENSORRT']}.2\n", version.stderr
    assert "ModuleNotFoundError" in other.stderr
    assert missing == []
    assert container.execute("sh", "-c", "command -v lsmod").returncode == 0  # some kernels have no modules
    assert unpacked == L4T["L4T_PACKAGES"].split()


def bring_up(containers: dict[str, Container]) -> None:
    """In the order of `depends_on`, until the api is healthy."""
    containers["broker"].start()
    until(containers["broker"].is_healthy, "the broker")
    containers["api"].start()
    containers["join"].start()
    assert containers["join"].wait(2 * PATIENCE) == 0, containers["join"].log
    containers["worker"].start()
    until(containers["api"].is_healthy, "a ready device")
    until(containers["worker"].is_healthy, "the worker's own word")


def initialise(port: str, sink: int) -> dict[str, str]:
    """What a program of the original says."""
    body = {
        "model_id": "conveyor/1",
        "video_reference": "scene://conveyor/1",
        "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": sink},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/initialise", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        content: dict[str, str] = json.load(answer)
        return content


def token(api: Container) -> str:
    """One for a device `edge-1`, nothing while the api is not there."""
    return api.execute("streamfleet", "devices", "add", "edge-1", "--token-only").stdout.strip()


def receiver() -> socket.socket:
    """Where datagrams arrive."""
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind(("127.0.0.1", 0))
    found.settimeout(PATIENCE)
    return found


def drain(datagrams: socket.socket) -> None:
    """Leave out what was sent before."""
    datagrams.setblocking(False)
    try:
        while datagrams.recv(65_536):
            pass
    except BlockingIOError:
        datagrams.settimeout(PATIENCE)
