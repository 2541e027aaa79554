"""Fleets for tests: real processes, started as users start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamfleet_api.local.demo import demo_model
from tests.fakes.ports_and_folders import SHARED, short_folder
from tests.fakes.videos import write_pattern
from tests.fleet.harness import LIMIT, Fleet, Subscriber, UdpReceiver, wait_for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of a fleet may take longer than others: it starts the fleet, too."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A real video and a real model, where there are any."""
    if not (SHARED / "data/vtest.avi").exists():
        pytest.skip("there is no real video here (../shared/data)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model as a file."""
    path = tmp_path_factory.mktemp("model") / "demo.onnx"
    path.write_bytes(demo_model())
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 frames of the test pattern as a file."""
    return write_pattern(tmp_path_factory.mktemp("video") / "pattern.avi", 300)


@pytest.fixture(scope="session")
def short_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames of it: no queue on the way is too short for them, whichever process stands still."""
    return write_pattern(tmp_path_factory.mktemp("video") / "short.avi", 100)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory of one's own."""
    with short_folder() as folder:
        yield folder


@contextmanager
def two_workers(demo_file: Path) -> Iterator[Fleet]:
    """A fleet of two workers with the demo's model."""
    with short_folder() as folder:
        fleet = Fleet(folder, workers=2)
        try:
            fleet.start()
            fleet.add_model("shapes/1", demo_file)
            yield fleet
        finally:
            fleet.stop()


@pytest.fixture(scope="package")
def fleet(demo_file: Path) -> Iterator[Fleet]:
    """For tests that harm nothing but their own pipelines. Modules of others have an `own_fleet` instead."""
    with two_workers(demo_file) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def own_fleet(demo_file: Path) -> Iterator[Fleet]:
    """For all tests of a module."""
    with two_workers(demo_file) as fleet:
        yield fleet


@pytest.fixture
def clean(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet: no pipeline before and after, and no camera that a test would take for its own."""
    fleet.terminate_all()
    wait_for(lambda: not fleet.pids("camera"), lambda: f"the end of all cameras; {fleet.names()}")
    yield fleet
    fleet.terminate_all()


@pytest.fixture
def udp() -> Iterator[UdpReceiver]:
    """A receiver of datagrams."""
    receiver = UdpReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def subscribe(fleet: Fleet) -> Iterator[Callable[..., Subscriber]]:
    """Makes subscribers on the fleet, through the relay on this host unless told otherwise."""
    made: list[Subscriber] = []

    def make(topic: str = "v1/pred/", endpoint: str | None = None, **options: object) -> Subscriber:
        local = f"ipc://{fleet.data}/broker/predictions.ipc"
        made.append(Subscriber(endpoint or local, topic, **options))  # type: ignore[arg-type]
        made[-1].await_connection()
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.close()
