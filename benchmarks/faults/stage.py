"""What faults happen to: a fleet of real processes, with further devices as on other machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleets import MODEL_ID, delete_all, put, relay_of
from benchmarks.setting import Setting
from tests.fakes.chaos_proxy import ChaosProxy
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.edge import Edge
from tests.fleet.harness import Fleet, Subscriber, marked_processes, process_name, rises, wait_for

WAIT = 120.0  # seconds
LABEL = {"kind": "edge"}
JOINING = "127.0.0.2"  # where devices join, and what they then know beside their proxy
SLOW = 5.0  # frames/s of pipelines that are not measured by their rate


@dataclass(frozen=True, slots=True)
class Stage:
    """A fleet, and devices with a label. Each reaches the broker through its proxy, if there are proxies."""

    setting: Setting
    fleet: Fleet
    edges: tuple[Edge, ...] = ()
    proxies: tuple[ChaosProxy, ...] = ()

    def proxy_of(self, edge: Edge) -> ChaosProxy:
        """The proxy of a device."""
        return self.proxies[self.edges.index(edge)]

    def other(self, edge: Edge) -> Edge:
        """Another device."""
        return next(each for each in self.edges if each is not edge)

    def named(self, name: str | None) -> Edge:
        """The device of this name."""
        return next(each for each in self.edges if each.name == name)

    def await_state(self, name: str, state: str) -> None:
        """Wait until a device is in a state."""
        path = f"/v2/devices/{name}"
        wait_for(
            lambda: self.fleet.http.get(path).json().get("state") == state, f"{name} {state}", timeout=WAIT
        )

    def await_ready(self) -> None:
        """Wait until all devices are ready, for the next round."""
        for edge in self.edges:
            self.await_state(edge.name, "ready")

    def events(self, since: float) -> list[dict[str, Any]]:
        """The events after a moment, in Unix seconds."""
        events: list[dict[str, Any]] = self.fleet.http.get("/v2/events/recent?limit=1000").json()["events"]
        return [each for each in events if each["at"] > since]

    def await_event(self, subject: str, states: tuple[str, ...], since: float) -> float:
        """Wait for the first event of a device or a pipeline after a moment. Unix seconds."""

        def found() -> float | None:
            about = (each for each in self.events(since) if each["id"] == subject)
            return next((each["at"] for each in about if each["state"] in states), None)

        look: Callable[[], float | None] = found
        return wait_for(look, f"{subject} {states}", timeout=WAIT)

    def lost_since(self, moment: float) -> int:
        """How many devices were lost since then."""
        names = {each.name for each in self.edges}
        return sum(each["id"] in names and each["state"] == "lost" for each in self.events(moment))

    def device_of(self, pipeline_id: str) -> str | None:
        """The device of a pipeline."""
        device: str | None = self.fleet.http.get(f"/v2/pipelines/{pipeline_id}").json()["device"]
        return device

    @contextmanager
    def subscriber(self) -> Iterator[Subscriber]:
        """A subscriber to all predictions. All pipelines are deleted afterwards."""
        subscriber = Subscriber(relay_of(self.fleet))
        try:
            yield subscriber
        finally:
            subscriber.close()
            delete_all(self.fleet)

    @contextmanager
    def predicting(self, count: int = 1, **more: Any) -> Iterator[Scene]:
        """Pipelines that predict on the devices with the label. Keys must rise, whatever happens to them."""
        ids = [f"cam-{number}-{time.monotonic_ns() % 10**9}" for number in range(1, count + 1)]
        with self.subscriber() as subscriber:
            for pipeline_id in ids:
                put(self.fleet, pipeline_id, self.setting.live, max_fps=SLOW, selector=LABEL, **more)
            for pipeline_id in ids:
                subscriber.wait_for(pipeline_id, 3, timeout=WAIT)
            yield Scene(self, subscriber, tuple(ids), self.named(self.device_of(ids[0])))
            for pipeline_id in ids:
                assert rises(subscriber.keys(pipeline_id)), f"keys of {pipeline_id} fell"


@dataclass(frozen=True, slots=True)
class Scene:
    """Pipelines that predict, and the device of the first one."""

    stage: Stage
    subscriber: Subscriber
    pipelines: tuple[str, ...]
    holder: Edge

    @property
    def pipeline_id(self) -> str:
        """The first one."""
        return self.pipelines[0]

    def predicted(self, pipeline_id: str, since: float, device: str | None = None) -> float:
        """Wait for a prediction that was captured after a moment, on this device if one is named.

        Returns: the Unix seconds at which it was seen.
        """

        def seen() -> float | None:
            received = self.subscriber.of(pipeline_id)
            if not received or received[-1][0].captured_wall_ns < since * 1e9:
                return None
            there = received[-1][1]["inference_metadata"]["device"]
            return time.time() if device in (None, there) else None

        look: Callable[[], float | None] = seen
        return wait_for(look, f"{pipeline_id} on {device or 'any device'}", timeout=WAIT, every=0.01)

    def rate(self, pipeline_id: str, begin: float, end: float) -> float:
        """Predictions a second that were captured between two moments."""
        stamps = [header.captured_wall_ns / 1e9 for header, _ in self.subscriber.of(pipeline_id)]
        return sum(begin <= each < end for each in stamps) / (end - begin)


@contextmanager
def staged(
    setting: Setting, *, devices: int = 2, proxied: bool = False, data: Path | None = None, **environment: str
) -> Iterator[Stage]:
    """Run a fleet with so many devices until the block ends. `data`: where its data directory is."""
    with ExitStack() as stack:
        home = data or stack.enter_context(short_folder())
        fleet = Fleet(home, *(("--advertise", JOINING) if proxied else ()))
        fleet.environment.update(
            {f"STREAMFLEET_{name.upper()}": value for name, value in environment.items()}
        )
        stack.callback(fleet.stop)
        # Once all have joined, no way leads around the proxies.
        broker = "127.0.0.1", fleet.broker_ports[0]
        joining = ChaosProxy(broker, listen=(JOINING, broker[1]))
        stack.enter_context(joining)
        fleet.start()
        fleet.add_model(MODEL_ID, setting.model, *setting.model_options)
        edges, proxies = [], []
        folder = stack.enter_context(short_folder())
        for number in range(1, devices + 1):
            edge = Edge(fleet, f"edge-{number}", folder / str(number))
            options = ["--join", fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip()]
            if proxied:
                proxy = stack.enter_context(ChaosProxy(broker, number))
                proxies.append(proxy)
                options += ["--broker", f"tcp://127.0.0.1:{proxy.port}"]
            stack.callback(edge.kill)
            edge.start(*options)
            edges.append(edge)
        stage = Stage(setting, fleet, tuple(edges), tuple(proxies))
        for edge in edges:
            stage.await_state(edge.name, "ready")
            answer = fleet.http.patch(f"/v2/devices/{edge.name}", json={"labels": LABEL})
            assert answer.is_success, answer.text
        joining.close()
        yield stage


def processes_of(edge: Edge, *names: str) -> list[int]:
    """The living processes of a device whose names begin so."""
    return [pid for pid in marked_processes(edge.mark) if process_name(pid).startswith(names)]
