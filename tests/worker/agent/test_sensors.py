"""The real agent tells what the sensors of its machine show."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from streamfleet_core.protocol.data_plane import device_topic
from streamfleet_core.protocol.requests import Events, FleetEvent, GetEvents
from streamfleet_core.protocol.values import from_plain
from tests.fakes.kernel_files import lay
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Worker, wait_for

COUNTER = "sys/class/hwmon/hwmon3/oc1_event_cnt"
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"
REASON = "throttled: the power supply is too weak for the load (over-current)"


def test_throttling_is_an_event_when_it_begins_and_when_it_ends(folder: Path, broker: Broker) -> None:
    worker = Worker(folder, "w", "--join", broker.token("cam-1"), program="tests.fakes.agent_with_sensors")
    lay(worker.data / "machine", {COUNTER: "4", TEMPERATURE: "61500"})

    def event_after(number: int, reason: str) -> FleetEvent | None:
        told = from_plain(broker.ask(GetEvents()), Events).events
        return next((each for each in told if each.n > number and each.reason == reason), None)

    worker.start()
    try:
        wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
        with worker.subscribed(device_topic("cam-1")) as receive:
            cool = wait_for(lambda: _with_heat(receive(PATIENCE)), "a status with the temperature")
        counts = itertools.count(5)

        def begins() -> FleetEvent | None:
            # Again and again: an agent that stands still misses what is over so soon.
            lay(worker.data / "machine", {COUNTER: str(next(counts))})
            return event_after(0, REASON)

        began = wait_for(begins, "the event that it begins")
        ended = wait_for(lambda: event_after(began.n, f"ended: {REASON}"), "the event that it ends")
    finally:
        worker.kill()
        wait_for(lambda: not worker.family(), "no process is left")

    assert (cool["temperature"], cool["throttled"], cool["throttle_reason"]) == (61.5, False, "")
    assert cool["disk"] > 0
    changes = [(each.id, each.previous, each.state) for each in (began, ended)]
    assert changes == [("cam-1", "ready", "ready")] * 2


def _with_heat(document: dict[str, Any] | None) -> dict[str, Any] | None:
    return document if document is not None and document.get("temperature") is not None else None
