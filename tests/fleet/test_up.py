"""`streamfleet up`: a first prediction without another word, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamfleet_api.local.demo import CAMERAS
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import BIN, READY, Fleet, Subscriber, wait_for

TRIES = 3


def left_behind(fleet: Fleet) -> str:
    """Processes and listening ports that should be gone."""
    ports = []
    for port in (fleet.port, fleet.manager_port, *fleet.broker_ports):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                ports.append(port)
    return f"{fleet.names()} {ports}" if fleet.pids() or ports else ""


def shared_memory() -> set[str]:
    """What lies in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_predicts_by_itself_and_leaves_nothing(home: Path, number: int) -> None:
    memory = shared_memory()
    fleet = Fleet(home, "--demo", workers=2).start()
    assert fleet.process is not None
    try:
        with closing(Subscriber(f"ipc://{fleet.data}/broker/predictions.ipc")) as subscriber:
            for pipeline_id in CAMERAS:
                subscriber.wait_for(pipeline_id, 5)
        placed = [each["device"] for each in fleet.http.get("/v2/pipelines").json()["pipelines"]]
        assert sorted(placed) == ["local-1", "local-1", "local-2", "local-2"]

        os.kill(fleet.process.pid, number)

        fleet.process.wait(PATIENCE)
        wait_for(lambda: not left_behind(fleet), lambda: f"all gone, but {left_behind(fleet)}")
        # Other programs of this machine may have something there for a moment.
        wait_for(lambda: shared_memory() <= memory, lambda: f"no {shared_memory() - memory}")
        if number != signal.SIGKILL:
            assert fleet.process.returncode == 0
            assert "Traceback" not in fleet.log()
    finally:
        fleet.stop()


def test_the_demo_waits_for_an_api_that_takes_its_time_with_the_model() -> None:
    for _ in range(TRIES):
        with short_folder() as home:
            fleet = Fleet(home, "--demo")
            try:
                fleet.launch()  # and by the time that it is ready, the trial is over
                api = stopped_in_trial(fleet)
                if api is None:
                    continue
                with pytest.raises(AssertionError, match="ready"):
                    wait_for(lambda: READY in fleet.log(), "ready", timeout=4)  # noqa: B023 - others get 3 s
                os.kill(api, signal.SIGCONT)
                wait_for(lambda: READY in fleet.log(), fleet.log)  # noqa: B023
                return
            finally:
                fleet.stop()
    pytest.fail("no trial of the model was seen")


def stopped_in_trial(fleet: Fleet) -> int | None:
    """The api, stopped while it tries the model; None: we stood still ourselves for as long as that took."""
    api = min(wait_for(lambda: fleet.pids("sf-api"), fleet.log, every=0.005))  # not a child of it
    children = Path(f"/proc/{api}/task/{api}/children")
    wait_for(lambda: children.read_text() or READY in fleet.log(), fleet.log, every=0.005)
    if not children.read_text():
        return None
    os.kill(api, signal.SIGSTOP)
    return api


def await_demo(fleet: Fleet, expected: dict[str, str]) -> None:
    """Until its pipelines have these statuses, and it has told its user that it is ready, running or not."""

    def statuses() -> dict[str, str]:
        pipelines = fleet.http.get("/v2/pipelines").json()["pipelines"]
        return {each["pipeline_id"]: each["status"] for each in pipelines}

    wait_for(lambda: statuses() == expected, lambda: f"{expected}: {statuses()}\n{fleet.log()}")
    wait_for(lambda: READY in fleet.log(), fleet.log)


@pytest.fixture(scope="module")
def stopped_demo() -> Iterator[Fleet]:
    """A demo that was stopped when one of its pipelines was paused and another one was gone."""
    with short_folder() as folder:
        fleet = Fleet(folder, "--demo")
        try:
            fleet.start()
            await_demo(fleet, dict.fromkeys(CAMERAS, "running"))
            wait_for(lambda: fleet.http.post("/v2/pipelines/belt-1/pause").is_success, "a pause")
            assert fleet.command_pipeline("terminate", "belt-2").status_code == 200
            assert fleet.process is not None
            fleet.process.send_signal(signal.SIGINT)
            assert fleet.process.wait(PATIENCE) == 0
            yield fleet
        finally:
            fleet.stop()


def test_all_parts_log_when_how_grave_who_and_what(stopped_demo: Fleet) -> None:
    events = [line for line in stopped_demo.log().splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]
    shape = r"\S+ \d\d:\d\d:\d\d,\d{3} (?:INFO|WARNING|ERROR) ([a-z]+(?: [\w./-]+)?): \S.*"
    found = [re.fullmatch(shape, line) for line in events]
    assert [line for line, match in zip(events, found, strict=True) if match is None] == []
    assert {"api", "broker", "agent"} <= {match[1] for match in found if match is not None}


def test_the_demo_makes_again_what_is_missing_and_leaves_the_rest_as_it_is(stopped_demo: Fleet) -> None:
    fleet = stopped_demo.start()

    await_demo(fleet, {name: "paused" if name == "belt-1" else "running" for name in CAMERAS})


def test_pipelines_survive_a_restart_of_everything(home: Path, demo_file: Path) -> None:
    first = Fleet(home).start()
    try:
        first.add_model("shapes/1", demo_file)
        running = first.initialise("TestPatternStreamProducer", "shapes/1")
        paused = first.initialise("TestPatternStreamProducer", "shapes/1")
        pause = f"/v2/pipelines/{paused}/pause"  # 503 if a device that is busy has not done so in time
        wait_for(lambda: first.http.post(pause).is_success, "a pause")
    finally:
        first.stop()

    second = Fleet(home).start()
    try:
        with closing(Subscriber(f"ipc://{second.data}/broker/predictions.ipc")) as subscriber:
            subscriber.wait_for(running, 5)
        assert set(second.pipelines()) == {running, paused}
        assert not subscriber.of(paused)
    finally:
        second.stop()


def test_a_stop_of_the_fleets_own_host_moves_nothing(home: Path, demo_file: Path) -> None:
    fleet = Fleet(home)
    elsewhere = None
    try:
        fleet.start()
        fleet.add_model("shapes/1", demo_file)
        pipeline_id = fleet.initialise("TestPatternStreamProducer", "shapes/1")
        elsewhere = start_worker(fleet, "edge-1", home / "edge")
        wait_for(lambda: devices(fleet) == {"local-1": "ready", "edge-1": "ready"}, "both devices")
        assert fleet.process is not None

        fleet.process.send_signal(signal.SIGINT)
        assert fleet.process.wait(PATIENCE) == 0
        assert "Traceback" not in fleet.log()
        assert "ERROR" not in fleet.log()
        fleet.start()
        wait_for(lambda: set(devices(fleet).values()) == {"ready"}, "both devices")

        [pipeline] = fleet.http.get("/v2/pipelines").json()["pipelines"]
        assert (pipeline["pipeline_id"], pipeline["device"]) == (pipeline_id, "local-1")
    finally:
        fleet.stop()
        if elsewhere is not None:
            elsewhere.terminate()
            elsewhere.wait(PATIENCE)


def start_worker(fleet: Fleet, device: str, folder: Path) -> subprocess.Popen[bytes]:
    """A worker that was started by hand, and is ready."""
    token = fleet.http.post("/v2/devices", json={"name": device}).json()["token"]
    with (fleet.home / f"{device}.log").open("wb") as log:
        worker = subprocess.Popen(
            [str(BIN / "streamfleet-worker"), "--data-dir", str(folder)],
            env={**os.environ, "STREAMFLEET_JOIN": token},
            stdout=log,
            stderr=log,
        )
    wait_for(lambda: devices(fleet).get(device) == "ready", f"{device} ready")
    return worker


def devices(fleet: Fleet) -> dict[str, str]:
    """Device → state."""
    return {each["device"]: each["state"] for each in fleet.http.get("/v2/devices").json()["devices"]}


def test_a_taken_port_is_named_by_its_option(home: Path) -> None:
    fleet = Fleet(home)
    with socket.create_server(("127.0.0.1", fleet.port)):
        done = fleet.cli(*fleet.command[1:], check=False)

    assert done.returncode == 1
    assert "--port" in done.stderr
    assert not fleet.pids()
