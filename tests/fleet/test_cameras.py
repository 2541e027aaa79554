"""Cameras that come late, go, come back, change and lie: through a whole fleet, from RTSP to subscribers.

`STREAMFLEET_TEST_OUTAGE=15 STREAMFLEET_TEST_ROUNDS=5 pytest -s tests/fleet/test_cameras.py` is the long run,
which says how long each camera took from its return to its next prediction.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from streamfleet_worker.video.sources.retry_policy import LOGIN_PAUSE
from tests.fakes.rtsp import RtspServer
from tests.fleet.harness import LIMIT, LOADING, Fleet, Subscriber, rises, wait_for
from tests.fleet.said import files_below

OUTAGE = float(os.environ.get("STREAMFLEET_TEST_OUTAGE", "2"))  # seconds
ROUNDS = int(os.environ.get("STREAMFLEET_TEST_ROUNDS", "1"))
SIZE = (320, 240)
FPS = 10  # of a test pattern
PASSWORD = "c@nary/pass word"

pytestmark = pytest.mark.timeout(LIMIT + ROUNDS * (2 * OUTAGE + 30))


class Camera:
    """A pipeline on an RTSP server, as users see it."""

    def __init__(self, fleet: Fleet, subscriber: Subscriber, server: RtspServer, url: str = "") -> None:
        self._fleet = fleet
        self._subscriber = subscriber
        self.server = server
        self.pipeline_id = fleet.initialise(url or server.url, "shapes/1")

    @property
    def status(self) -> dict[str, Any]:
        """`GET /v2/pipelines/{id}/status`."""
        return dict(self._fleet.http.get(f"/v2/pipelines/{self.pipeline_id}/status").json())

    @property
    def source(self) -> dict[str, Any]:
        """Its one source in the status."""
        return dict(self.status["sources"][0])

    @property
    def size(self) -> tuple[int, int]:
        """Pixels, width and height of its picture."""
        source = self.source
        return source["width"], source["height"]

    @property
    def count(self) -> int:
        """Predictions until now."""
        return len(self._subscriber.of(self.pipeline_id))

    def plays(self) -> float:
        """The seconds until the next prediction comes."""
        began, known = time.monotonic(), self.count
        wait_for(lambda: self.count > known, lambda: f"a prediction; {self.source}")
        return time.monotonic() - began

    def is_lost(self, cause: str) -> dict[str, Any]:
        """Its source, once the status says that it is lost for this cause."""

        def lost() -> dict[str, Any] | None:
            status = self.status
            is_so = status["state"] == "reconnecting" and status["sources"][0]["cause"] == cause
            return dict(status["sources"][0]) if is_so else None

        return wait_for(lost, lambda: f"{cause} in {self.source}", every=0.1)

    def is_running(self) -> None:
        """Until the status shows no trouble any more, and the order of all that came is right."""

        def running() -> bool:
            status = self.status
            return status["state"] == "running" and status["sources"][0]["cause"] is None

        wait_for(running, lambda: f"running; {self.source}", every=0.1)
        assert rises(self._subscriber.keys(self.pipeline_id))


@pytest.fixture
def subscriber(subscribe: Callable[..., Subscriber]) -> Subscriber:
    """Hears all predictions."""
    return subscribe()


@pytest.fixture
def camera(clean: Fleet, subscriber: Subscriber) -> Callable[..., Camera]:
    """Makes pipelines of servers."""
    return lambda server, url="": Camera(clean, subscriber, server, url)


class Witnesses:
    """Two other cameras of the fleet, which notice nothing of what a test does."""

    def __init__(self, fleet: Fleet, subscriber: Subscriber) -> None:
        self._fleet = fleet
        self._subscriber = subscriber
        self._names = [fleet.initialise("TestPatternStreamProducer", "shapes/1") for _ in range(2)]
        for name in self._names:
            subscriber.wait_for(name, 10)

    def go_on(self) -> None:
        """An outage is time that passes: so many more frames of the others."""
        known = {name: len(self._subscriber.of(name)) for name in self._names}
        for name in self._names:
            self._subscriber.wait_for(name, known[name] + round(OUTAGE * FPS), timeout=LOADING + OUTAGE)

    def noticed_nothing(self) -> None:
        """They go on, and the status tells no trouble of theirs."""
        self.go_on()
        for name in self._names:
            ids = [body["inference_metadata"]["frame_id"] for _, body in self._subscriber.of(name)]
            print(f"a witness kept {len(ids)} of {ids[-1] - ids[0] + 1} frames")
            assert rises(self._subscriber.keys(name))
            status = self._fleet.http.get(f"/v2/pipelines/{name}/status").json()
            assert status["state"] == "running"
            assert (status["sources"][0]["failures"], status["sources"][0]["cause"]) == (0, None)


@pytest.fixture(autouse=True)
def witnesses(clean: Fleet, subscriber: Subscriber) -> Iterator[Witnesses]:
    """Those of a test."""
    witnesses = Witnesses(clean, subscriber)
    yield witnesses
    witnesses.noticed_nothing()


def told(what: str, seconds: list[float]) -> None:
    """The figures of a test, for whoever runs it with `-s`."""
    median, most = statistics.median(seconds), max(seconds)
    print(f"{what}: {median:.2f} s median, {most:.2f} s at most of {len(seconds)}")


def test_a_camera_that_is_absent_at_first_plays_when_it_comes(
    rtsp: Callable[..., RtspServer], camera: Callable[..., Camera], witnesses: Witnesses
) -> None:
    took = []
    for _ in range(ROUNDS):
        absent = camera(rtsp(size=SIZE))

        source = absent.is_lost("refused")
        witnesses.go_on()
        absent.server.start()
        took.append(absent.plays())

        assert source["reason"] == f"rtsp://{absent.server.place}: connection refused"
        absent.is_running()
        absent.server.stop()
    told("absent at first", took)


def test_a_camera_that_stops_and_comes_back_in_another_size_plays_on(
    rtsp: Callable[..., RtspServer], camera: Callable[..., Camera], witnesses: Witnesses
) -> None:
    stopped = camera(rtsp(size=SIZE).start())
    stopped.plays()

    took = []
    for number in range(ROUNDS):
        stopped.server.stop()
        stopped.is_lost("refused")
        witnesses.go_on()
        stopped.server.size = (640, 360) if number % 2 == 0 else SIZE
        stopped.server.start()
        took.append(stopped.plays())

        stopped.is_running()
        wait_for(lambda: stopped.size == stopped.server.size, "the new size", every=0.1)
        assert stopped.status["restarts"] == 0
    told("stopped", took)


def test_a_camera_whose_cable_was_pulled_is_noticed_and_plays_on(
    rtsp: Callable[..., RtspServer], camera: Callable[..., Camera], witnesses: Witnesses
) -> None:
    pulled = camera(rtsp(size=SIZE).start())
    pulled.plays()
    pulled.is_running()

    took = []
    for _ in range(ROUNDS):
        pulled.server.freeze()
        pulled.is_lost("timeout")
        witnesses.go_on()
        pulled.server.thaw()
        took.append(pulled.plays())

        pulled.is_running()
        assert pulled.status["restarts"] == 0
    told("half-open", took)


def test_a_wrong_password_is_tried_once_and_shown_nowhere(
    clean: Fleet,
    subscriber: Subscriber,
    rtsp: Callable[..., RtspServer],
    camera: Callable[..., Camera],
    witnesses: Witnesses,
) -> None:
    server = rtsp(size=SIZE, login=("viewer", PASSWORD)).start()

    right, began = camera(server), time.monotonic()
    wrong = camera(server, server.url_of("viewer", "canary"))
    query = camera(server, f"rtsp://{server.place}x?user=viewer&password={quote(PASSWORD, safe='')}")
    right.plays()
    source = wrong.is_lost("authentication")
    query.is_lost("not_found")
    witnesses.go_on()

    assert source["reason"] == f"rtsp://{server.place}: the user or the password is wrong"
    tried = (server.wrong_logins, wrong.source["attempts"])
    due = 1 + int((time.monotonic() - began) / LOGIN_PAUSE)  # attempts; one, unless the machine stood still
    assert max(tried) <= due, tried
    assert min(tried) >= 1, tried
    right.is_running()
    shows_no_secret(clean, subscriber)


def shows_no_secret(fleet: Fleet, subscriber: Subscriber) -> None:
    """Nothing that the fleet says, prints or logs. Its two databases keep references as they are."""
    paths = ["/list_pipelines", "/v2/pipelines", "/v2/events/recent", "/v2/devices", "/metrics"]
    for pipeline_id in fleet.pipelines():
        paths += [f"/status/{pipeline_id}", f"/v2/pipelines/{pipeline_id}"]
        paths += [f"/v2/pipelines/{pipeline_id}/status", f"/v2/pipelines/{pipeline_id}/predictions/last"]
    said = {path: fleet.http.get(path).text for path in paths}
    said["predictions"] = json.dumps([body for _, _, body in list(subscriber.received)])
    said["command line"] = fleet.cli("pipelines").stdout
    said |= {path: text for path, text in files_below(fleet.home).items() if ".db" not in Path(path).name}

    for where, text in said.items():
        for secret in ("canary", "c@nary", "c%40nary", quote(PASSWORD, safe="")):
            assert secret not in text, f"{secret} is in {where}"
