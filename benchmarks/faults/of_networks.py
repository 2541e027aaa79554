"""Faults of the network between devices and the broker, by proxies that forward their connections."""

from __future__ import annotations

import time

from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import Stage
from tests.fakes.chaos_proxy import Weather

CUT = 30.0  # seconds
UP, DOWN = 2.0, 2.0  # seconds of a link that flaps
FLAPPING = 60.0  # seconds
BAD = 30.0  # seconds of a bad link


def partitioned(stage: Stage, weather: Weather) -> Figures:
    """A device is cut off for half a minute, in one direction or in both."""
    with stage.predicting() as scene:
        other = stage.other(scene.holder).name
        moment = time.time()
        stage.proxy_of(scene.holder).weather = weather
        predicted = scene.predicted(scene.pipeline_id, moment, other)
        lost = stage.await_event(scene.holder.name, ("lost",), moment)
        received = scene.subscriber.of(scene.pipeline_id)
        old = max(
            header.captured_wall_ns / 1e9
            for header, body in received
            if body["inference_metadata"]["device"] == scene.holder.name
        )
        time.sleep(max(0.0, moment + CUT - time.time()))
        healed = time.time()
        stage.proxy_of(scene.holder).heal()
        ready = stage.await_event(scene.holder.name, ("ready",), healed)
        moved_back = stage.device_of(scene.pipeline_id) != other
    return {
        "lost": lost - moment,
        "predicts elsewhere": predicted - moment,
        "old one stops": old - moment,
        "ready again": ready - healed,
        "moved back": float(moved_back),
    }


def most_partitioned(stage: Stage) -> Figures:
    """Three of four devices are cut off at once: nothing may move."""
    with stage.predicting(len(stage.edges)) as scene:
        at = {each: stage.device_of(each) for each in scene.pipelines}
        cut = stage.edges[1:]
        moment = time.time()
        for edge in cut:
            stage.proxy_of(edge).weather = Weather(up=False, down=False)
        for edge in cut:
            stage.await_event(edge.name, ("lost", "suspect"), moment)
        time.sleep(max(0.0, moment + CUT - time.time()))
        moved = sum(stage.device_of(each) != at[each] for each in scene.pipelines)
        healed = time.time()
        for edge in cut:
            stage.proxy_of(edge).heal()
        ready = max(stage.await_event(edge.name, ("ready",), healed) for edge in cut)
    return {"moved": float(moved), "ready again": ready - healed}


def flapping(stage: Stage) -> Figures:
    """The link of a device is cut for 2 s of each 4 s, for a minute."""
    with stage.predicting() as scene:
        moment, proxy = time.time(), stage.proxy_of(scene.holder)
        while time.time() < moment + FLAPPING:
            proxy.weather = Weather(up=False, down=False)
            time.sleep(DOWN)
            proxy.weather = Weather()
            time.sleep(UP)
        proxy.heal()
        stage.await_state(scene.holder.name, "ready")
        moves = sum(
            each["id"] == scene.pipeline_id and each["state"] == "starting" for each in stage.events(moment)
        )
        lost = stage.lost_since(moment)
    return {"moves in 60 s": float(moves), "lost devices": float(lost)}


def bad_link(stage: Stage, weather: Weather) -> Figures:
    """The link of a device is slow for half a minute. It must not count as lost."""
    with stage.predicting() as scene:
        moment, proxy = time.time(), stage.proxy_of(scene.holder)
        proxy.weather = weather
        time.sleep(BAD)
        lost = stage.lost_since(moment)
        proxy.heal()
        stage.await_state(scene.holder.name, "ready")
        moved = stage.device_of(scene.pipeline_id) != scene.holder.name
    return {"lost devices": float(lost), "moved": float(moved)}
