"""Faults of devices and their processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator

from benchmarks.faults.stage import LABEL, Stage, processes_of
from benchmarks.fleets import delete_all, names, put
from tests.fakes.patience import PATIENCE
from tests.fleet.edge import Edge
from tests.fleet.harness import wait_for

Figures = dict[str, float]

STOPPED, LONG = 5.0, 60.0  # seconds
NAME_LENGTH = 15  # characters that the kernel keeps of the name of a process
WINDOW = 10.0  # seconds in which a rate is measured


def agent_killed(stage: Stage) -> Figures:
    """kill -9 of the agent; its supervisor starts it again."""
    with stage.predicting() as scene:
        moment = time.time()
        scene.holder.signal_agent(signal.SIGKILL)
        known = stage.await_event(scene.holder.name, ("suspect", "syncing", "ready"), moment)
        predicted = scene.predicted(scene.pipeline_id, moment)
        ready = stage.await_event(scene.holder.name, ("ready",), moment)
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {
        "known": known - moment,
        "ready": ready - moment,
        "predicts": predicted - moment,
        "moved": float(moved),
    }


def device_dead(stage: Stage) -> Figures:
    """kill -9 of all processes of a device, as by a cut of its power."""
    with stage.predicting() as scene:
        moment = time.time()
        scene.holder.kill()
        predicted = scene.predicted(scene.pipeline_id, moment, stage.other(scene.holder).name)
        lost = stage.await_event(scene.holder.name, ("lost",), moment)
    scene.holder.start()
    stage.await_ready()
    return {"lost": lost - moment, "predicts elsewhere": predicted - moment}


def stopped_shortly(stage: Stage) -> Figures:
    """SIGSTOP of an agent for less than its lease."""
    with stage.predicting() as scene:
        moment = time.time()
        scene.holder.signal_agent(signal.SIGSTOP)
        time.sleep(STOPPED)  # the fault itself
        scene.holder.signal_agent(signal.SIGCONT)
        suspect = stage.await_event(scene.holder.name, ("suspect",), moment)
        stage.await_ready()
        scene.predicted(scene.pipeline_id, time.time())
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {"suspect": suspect - moment, "moved": float(moved)}


def stopped_long(stage: Stage) -> Figures:
    """SIGSTOP of an agent and of its supervisor, which would start it again, for a minute."""
    with stage.predicting() as scene:
        moment = time.time()
        stopped = processes_of(scene.holder, "sf-agent", "sf-worker")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        cameras = processes_of(scene.holder, "camera")
        predicted = scene.predicted(scene.pipeline_id, moment, stage.other(scene.holder).name)
        time.sleep(max(0.0, moment + LONG - time.time()))  # the fault itself
        woken = time.time()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not set(cameras) & set(processes_of(scene.holder, "camera")), "the end", every=0.01)
        ended = time.time()
        stage.await_ready()
    return {"predicts elsewhere": predicted - moment, "old camera ends": ended - woken}


def agent_hangs(stage: Stage) -> Figures:
    """SIGSTOP of an agent that is not continued. Its supervisor must notice."""
    with stage.predicting() as scene:
        moment = time.time()
        (agent,) = processes_of(scene.holder, "sf-agent")
        os.kill(agent, signal.SIGSTOP)
        suspect = stage.await_event(scene.holder.name, ("suspect",), moment)
        lost = stage.await_event(scene.holder.name, ("lost",), moment)
        wait_for(lambda: agent not in processes_of(scene.holder, "sf-agent"), "the end", every=0.01)
        ended = time.time()
        stage.await_ready()
    return {"suspect": suspect - moment, "lost": lost - moment, "restarted": ended - moment}


def camera_stopped(stage: Stage) -> Figures:
    """SIGSTOP of one camera process, beside another pipeline of the same device."""
    name = stage.edges[0].name
    with stage.predicting(2, device=name) as scene:
        started = time.time()
        time.sleep(WINDOW)  # the rate before
        moment = time.time()
        (victim,) = processes_of(scene.holder, f"camera {scene.pipeline_id}"[:NAME_LENGTH])
        os.kill(victim, signal.SIGSTOP)
        predicted = scene.predicted(scene.pipeline_id, moment + 1)
        time.sleep(max(0.0, moment + WINDOW - time.time()))
        other = scene.pipelines[1]
        before, during = scene.rate(other, started, moment), scene.rate(other, moment, moment + WINDOW)
    return {"predicts": predicted - moment, "change of the other rate": abs(1 - during / before)}


def segfault(stage: Stage, process: str) -> Figures:
    """SIGSEGV in a process of a device."""
    with stage.predicting() as scene:
        moment = time.time()
        (pid, *_) = processes_of(scene.holder, process)
        os.kill(pid, signal.SIGSEGV)
        wait_for(lambda: pid not in processes_of(scene.holder, process), "its end", every=0.005)
        predicted = scene.predicted(scene.pipeline_id, time.time())
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {f"predicts after {process}": predicted - moment, "moved": float(moved)}


def room(stage: Stage) -> Figures:
    """A pipeline waits for a device, and one joins."""
    for edge in stage.edges:
        assert edge.process is not None
        edge.process.terminate()
        edge.process.wait(PATIENCE)
        stage.await_state(edge.name, "left")
    (pipeline_id,) = names(1)
    put(stage.fleet, pipeline_id, stage.setting.live, selector=LABEL)
    assert stage.device_of(pipeline_id) is None
    moment = time.time()
    for edge in stage.edges:
        edge.start()
    ready = min(stage.await_event(edge.name, ("ready",), moment) for edge in stage.edges)
    placed = stage.await_event(pipeline_id, ("starting", "running"), moment)
    stage.await_ready()
    delete_all(stage.fleet)
    return {"placed": max(0.0, placed - ready)}


def cloned(stage: Stage) -> Figures:
    """Two machines use one key: a copy of a device's data directory is started, too."""
    edge = stage.edges[0]
    with copied(edge) as copy:
        moment = time.time()
        copy.start()
        quarantined = stage.await_event(edge.name, ("quarantined",), moment)
    edge.kill()
    edge.start("--join", stage.fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip())
    stage.await_state(edge.name, "ready")
    return {"quarantined": quarantined - moment}


@contextlib.contextmanager
def copied(edge: Edge) -> Iterator[Edge]:
    """A copy of a device, not started yet."""
    copy = Edge(edge.fleet, f"{edge.name}-copy", edge.home.parent / f"{edge.name}-copy")
    shutil.copytree(edge.home, copy.home, ignore=shutil.ignore_patterns("run", "lock"))
    try:
        yield copy
    finally:
        copy.kill()
        shutil.rmtree(copy.home, ignore_errors=True)


def drained(stage: Stage) -> Figures:
    """A device with eight pipelines is drained; the other one takes them."""
    first, second = stage.edges
    stage.fleet.cli("devices", "cordon", second.name)
    with stage.predicting(8) as scene:
        stage.fleet.cli("devices", "uncordon", second.name)
        moment = time.time()
        stage.fleet.cli("devices", "drain", first.name, "--wait", check=False)
        done = time.time()
        for pipeline_id in scene.pipelines:
            scene.predicted(pipeline_id, done, second.name)
        gaps = []
        for pipeline_id in scene.pipelines:
            stamps = [header.captured_wall_ns / 1e9 for header, _ in scene.subscriber.of(pipeline_id)]
            around = [each for each in stamps if each > moment - 1]
            gaps.append(max(later - each for each, later in itertools.pairwise(around)))
        stage.fleet.cli("devices", "uncordon", first.name)
    return {"drained": done - moment, "longest gap": max(gaps)}
