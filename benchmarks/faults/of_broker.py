"""Faults of the broker, of its store, and of the API."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import SLOW, Stage
from benchmarks.fleets import MODEL_ID
from tests.fakes.disks import fill_up
from tests.fakes.patience import PATIENCE
from tests.fleet.harness import BIN, UdpReceiver, wait_for

WRITERS = 4
WRITING = 2.0  # seconds of writes before and after the fault
AWAY = 30.0  # seconds


@dataclass(slots=True)
class Writer:
    """Puts pipelines as fast as it is answered. They run nowhere."""

    stage: Stage
    number: int
    accepted: set[str] = field(default_factory=set)  # answered with success
    closing: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self.thread = threading.Thread(target=self._run, name=f"writer {self.number}")
        self.thread.start()

    def stop(self) -> None:
        """End."""
        self.closing.set()
        assert self.thread is not None
        self.thread.join(PATIENCE)

    def _run(self) -> None:
        with httpx.Client(base_url=self.stage.fleet.url, timeout=PATIENCE, trust_env=False) as http:
            count = 0
            while not self.closing.is_set():
                name = f"w-{self.number}-{count}"
                with contextlib.suppress(httpx.HTTPError):
                    if http.put(f"/v2/pipelines/{name}", json=_nowhere()).is_success:
                        self.accepted.add(name)
                count += 1


def _nowhere() -> dict[str, object]:
    source = {"reference": "rtsp://127.0.0.1:9/none"}
    return {"model": MODEL_ID, "sources": [source], "selector": {"none": "such"}, "paused": True}


@contextlib.contextmanager
def writers(stage: Stage) -> Iterator[list[Writer]]:
    """Writers at work. What they wrote is deleted afterwards."""
    made = [Writer(stage, number) for number in range(WRITERS)]
    for writer in made:
        writer.start()
    try:
        yield made
    finally:
        for writer in made:
            writer.stop()


def broker_killed(stage: Stage) -> Figures:
    """kill -9 of the broker, while no client writes."""
    with stage.predicting() as scene:
        moment = time.time()
        stage.fleet.kill("sf-broker")
        answered = _answers(stage) - moment
        predicted = scene.predicted(scene.pipeline_id, moment) - moment
        ready = max(stage.await_event(edge.name, ("ready",), moment) for edge in stage.edges) - moment
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {"answers": answered, "ready": ready, "predicts": predicted, "moved": float(moved)}


def broker_killed_among_writes(stage: Stage) -> Figures:
    """kill -9 of the broker, while four programs write as fast as they are answered."""
    with writers(stage) as made:
        time.sleep(WRITING)
        before = sum(len(writer.accepted) for writer in made)
        moment = time.time()
        stage.fleet.kill("sf-broker")
        answered = _answers(stage) - moment
        time.sleep(WRITING)
    accepted = {name for writer in made for name in writer.accepted}
    there = set(_pipelines(stage))
    lost = len(accepted - there)
    for name in there:
        assert stage.fleet.http.delete(f"/v2/pipelines/{name}").is_success
    return {"answers among writes": answered, "writes lost": float(lost), "writes/s before": before / WRITING}


def _pipelines(stage: Stage) -> list[str]:
    return [each["pipeline_id"] for each in stage.fleet.http.get("/v2/pipelines").json()["pipelines"]]


def _answers(stage: Stage) -> float:
    """Wait until the broker answers a request through the API. Unix seconds."""

    def asked() -> bool:
        try:
            return stage.fleet.http.get("/v2/devices", timeout=1.0).is_success
        except httpx.HTTPError:
            return False

    wait_for(asked, "an answer", every=0.02)
    return time.time()


def broker_away(stage: Stage) -> Figures:
    """The broker is away for half a minute: it is not started again."""
    receivers = [UdpReceiver(), UdpReceiver()]
    sinks = [{"type": "udp", "host": "127.0.0.1", "port": each.port} for each in receivers]
    with stage.predicting(sinks=sinks[:1]) as scene:
        pinned = f"pinned-{time.monotonic_ns() % 10**9}"
        body = {"model": MODEL_ID, "sources": [stage.setting.live], "max_fps": SLOW, "sinks": sinks[1:]}
        put = stage.fleet.http.put(f"/v2/pipelines/{pinned}", json={**body, "device": scene.holder.name})
        assert put.is_success, put.text
        receivers[1].wait_for(3)
        (supervisor,) = stage.fleet.pids("streamfleet")
        moment = time.time()
        os.kill(supervisor, signal.SIGSTOP)
        stage.fleet.kill("sf-broker")
        counts, last = len(receivers[0].messages), time.time()
        while time.time() < moment + AWAY:
            time.sleep(0.02)
            if (now := len(receivers[0].messages)) > counts:
                counts, last = now, time.time()
        went_on = len(receivers[1].messages)
        time.sleep(1.0)
        continues = len(receivers[1].messages) > went_on
        back = time.time()
        os.kill(supervisor, signal.SIGCONT)
        predicted = scene.predicted(scene.pipeline_id, back)
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    for receiver in receivers:
        receiver.close()
    return {
        "movable stops": last - moment,
        "pinned stopped": float(not continues),
        "predicts after return": predicted - back,
        "moved": float(moved),
    }


def api_killed(stage: Stage) -> Figures:
    """kill -9 of the API, while a client creates a pipeline with a key of its own, again and again."""
    key, name = {"Idempotency-Key": secrets.token_hex(8)}, f"once-{secrets.token_hex(4)}"
    body = {"id": name, **_nowhere()}
    first = stage.fleet.http.post("/v2/pipelines", json=body, headers=key)
    assert first.is_success, first.text
    moment = time.time()
    stage.fleet.kill("sf-api")

    def retried() -> httpx.Response | None:
        try:
            answer = stage.fleet.http.post("/v2/pipelines", json=body, headers=key, timeout=1.0)
        except httpx.HTTPError:
            return None
        return answer if answer.is_success else None

    again = wait_for(retried, "the same answer", every=0.02)
    answered = time.time() - moment
    same = [first.json()[each] == again.json()[each] for each in ("pipeline_id", "generation")]
    count = sum(each == name for each in _pipelines(stage))
    assert stage.fleet.http.delete(f"/v2/pipelines/{name}").is_success
    return {"API answers": answered, "other answers": float(not all(same)), "doubles": float(count - 1)}


def disk_full(stage: Stage) -> Figures:
    """The disk of the store is full, and later there is room again. Its folder is a small disk."""
    disk = stage.fleet.data / "broker"
    with stage.predicting() as scene:
        filler = fill_up(disk)
        wait_for(lambda: not _writes(stage), "a refused write")
        moment = time.time()
        scene.predicted(scene.pipeline_id, moment)
        filler.unlink()
        moment = time.time()
        wait_for(lambda: _writes(stage), "a write", every=0.02)
        took = time.time() - moment
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {"writes again": took, "moved": float(moved)}


def _writes(stage: Stage) -> bool:
    """Whether a new row is stored."""
    name = f"row-{secrets.token_hex(4)}"
    answer = stage.fleet.http.put(f"/v2/pipelines/{name}", json=_nowhere())
    if answer.is_success:
        assert stage.fleet.http.delete(f"/v2/pipelines/{name}").is_success
    else:
        assert answer.status_code in (503, 507), answer.text
    return answer.is_success


def store_corrupt(stage: Stage) -> Figures:
    """The store is damaged: a start is refused with the command that helps, and a backup is restored."""
    folder, archive = stage.fleet.data / "broker", stage.fleet.home / f"backup-{secrets.token_hex(4)}.tar"
    broker = [str(BIN / "streamfleet-broker"), "--data-dir", str(folder)]
    subprocess.run([*broker, "--backup", str(archive)], check=True, timeout=PATIENCE, capture_output=True)
    (supervisor,) = stage.fleet.pids("streamfleet")
    os.kill(supervisor, signal.SIGSTOP)
    stage.fleet.kill("sf-broker")
    store = folder / "store.db"
    store.write_bytes(os.urandom(store.stat().st_size))
    refused = subprocess.run(broker, check=False, timeout=PATIENCE, capture_output=True, text=True)
    told = refused.returncode != 0 and "--restore" in refused.stderr and str(folder) in refused.stderr
    moment = time.time()
    command = [*broker, "--restore", str(archive), "--replace"]
    subprocess.run(command, check=True, timeout=PATIENCE, capture_output=True)
    os.kill(supervisor, signal.SIGCONT)
    _answers(stage)
    for edge in stage.edges:
        stage.await_event(edge.name, ("ready",), moment)
    return {"restored and ready": time.time() - moment, "start not refused": float(not told)}
