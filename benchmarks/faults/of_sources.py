"""Faults of a camera: an RTSP server that dies, hangs, and refuses a login."""

from __future__ import annotations

import time

from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import LABEL, WAIT, Stage
from benchmarks.fleets import names, put
from tests.fakes.rtsp import RtspServer
from tests.fleet.harness import wait_for

FROZEN = 20.0  # seconds
LOGINS = 60.0  # seconds in which wrong logins are counted


def camera_dies(stage: Stage, away: float) -> Figures:
    """The camera ends and starts again after some seconds."""
    server = RtspServer().start()
    (name,) = names(1)
    try:
        with stage.subscriber() as subscriber:
            put(stage.fleet, name, server.url, selector=LABEL)
            subscriber.wait_for(name, 3, timeout=WAIT)
            moment = time.time()
            server.stop()
            told = stage.await_event(name, ("reconnecting",), moment)
            time.sleep(max(0.0, moment + away - time.time()))
            server.start()
            back, count = time.time(), len(subscriber.of(name))
            wait_for(lambda: len(subscriber.of(name)) > count, "a prediction", timeout=WAIT, every=0.01)
            predicted = time.time()
            runs = {header.key[:2] for header, _ in subscriber.of(name)}
        return {
            "told": told - moment,
            f"predicts after {away:g} s": predicted - back,
            "new runs": len(runs) - 1.0,
        }
    finally:
        server.close()


def camera_hangs(stage: Stage) -> Figures:
    """The camera keeps its connection and sends nothing for a while."""
    server = RtspServer().start()
    (name,) = names(1)
    try:
        with stage.subscriber() as subscriber:
            put(stage.fleet, name, server.url, selector=LABEL)
            subscriber.wait_for(name, 3, timeout=WAIT)
            moment = time.time()
            server.freeze()
            told = stage.await_event(name, ("reconnecting",), moment)
            time.sleep(max(0.0, moment + FROZEN - time.time()))
            server.thaw()
            back, count = time.time(), len(subscriber.of(name))
            wait_for(lambda: len(subscriber.of(name)) > count, "a prediction", timeout=WAIT, every=0.01)
            return {"told of silence": told - moment, "predicts after silence": time.time() - back}
    finally:
        server.close()


def wrong_password(stage: Stage) -> Figures:
    """A camera refuses the login. It must not lock us out for too many of them."""
    server = RtspServer(login=("viewer", "right")).start()
    (name,) = names(1)
    try:
        with stage.subscriber():
            put(stage.fleet, name, server.url_of("viewer", "wrong"), selector=LABEL)
            wait_for(lambda: server.wrong_logins > 0, "a wrong login", timeout=WAIT)
            before = server.wrong_logins
            time.sleep(LOGINS)
            return {"wrong logins in 30 s": (server.wrong_logins - before) / (LOGINS / 30)}
    finally:
        server.close()
