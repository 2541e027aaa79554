"""The metrics of the fleet in Prometheus' text format, from the last known state. Devices are never queried.

Counters are counted by devices: they start at 0 with each start of a pipeline's process, which is what
`rate()` expects of a counter. A label for the start would make a new series each time, without limit. Within
one start a figure never falls, as outdated statuses are dropped (`zmq_subscription.Order`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, get_args

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient, BrokerClientError, Refused
from streamfleet_api.feeds.status_summary import PipelineSummary, SourceSummary
from streamfleet_api.feeds.statuses import STALE, Seen, Statuses
from streamfleet_api.monitoring.exposition import Family, merge, quoted, text_of
from streamfleet_api.monitoring.rollout_families import rollout_families
from streamfleet_api.web.connections import Connections
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_core.protocol.requests import DeviceFigures, FleetView, PipelineFigures, Plane
from streamfleet_core.protocol.status import DeviceStat, PipelineStat, SourceStat
from streamfleet_core.protocol.tasks.rollouts import ListRollouts, RolloutView
from streamfleet_core.runtime.file_descriptors import DescriptorWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PART = 50  # pipelines or devices that are collected at once
_LATENCIES = ("frame_decoding_latency", "inference_latency", "e2e_latency")  # of a report
_ASK = 2.0  # seconds that the broker has
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
T = TypeVar("T", PipelineSummary, DeviceStat)
_SeenPipeline = Seen[PipelineStat] | Seen[PipelineSummary]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Latest(Generic[T]):
    """The statuses, each decoded when it is asked for: at one time, there are few of a large fleet."""

    get: Callable[[str], Seen[T] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the fleet. `fleet` is None if the broker does not answer."""

    fleet: FleetView | None
    pipelines: tuple[PipelineFigures, ...]
    devices: tuple[DeviceFigures, ...]
    of_pipelines: Mapping[str, _SeenPipeline] | Latest[PipelineSummary]
    of_devices: Mapping[str, Seen[DeviceStat]] | Latest[DeviceStat]
    rollouts: tuple[RolloutView, ...] = ()


class Metrics:
    """The metrics of the fleet and of this process."""

    def __init__(self, broker: BrokerClient, statuses: Statuses, own: OwnFigures) -> None:
        self._broker = broker
        self._statuses = statuses
        self._known = Known(fleet=None, pipelines=(), devices=(), of_pipelines={}, of_devices={})
        self.requests = Requests()
        self.requests.registry.register(own)

    async def text(self) -> bytes:
        """The whole text. Without a broker it is what was known last."""
        self._known = await self._refresh()
        families = {family.name: family for family in totals(self._known)}
        for part in parts_of(self._known):
            merge(families, collected(part))
            await asyncio.sleep(0)  # the whole text of a large fleet would take hundreds of milliseconds
        return text_of(families) + generate_latest(self.requests.registry)

    async def _refresh(self) -> Known:
        try:
            figures, rollouts = await asyncio.gather(self._broker.figures(timeout=_ASK), self._rollouts())
            fleet, pipelines, devices = figures.fleet, figures.pipelines, figures.devices
        except BrokerClientError:
            known = self._known
            fleet, pipelines, devices, rollouts = None, known.pipelines, known.devices, known.rollouts
        statuses = self._statuses
        return Known(
            fleet=fleet,
            pipelines=pipelines,
            devices=devices,
            of_pipelines=Latest(statuses.summary),
            of_devices=Latest(lambda name: statuses.device(name, keep=False)),
            rollouts=rollouts,
        )

    async def _rollouts(self) -> tuple[RolloutView, ...]:
        """The last roll-outs. Raises: BrokerClientError."""
        try:
            return await self._broker.ask(ListRollouts(), tuple[RolloutView, ...], timeout=_ASK)
        except Refused as exc:
            if exc.code != "bad_message":
                raise
            return ()  # an older broker knows none


def parts_of(known: Known, *, size: int = _PART) -> Iterator[Known]:
    """What is known in parts, each of which is collected within milliseconds."""
    nothing = replace(known, pipelines=(), devices=(), of_pipelines={}, of_devices={})
    yield nothing
    for first in range(0, len(known.pipelines), size):
        pipelines = known.pipelines[first : first + size]
        found = {view.pipeline_id: known.of_pipelines.get(view.pipeline_id) for view in pipelines}
        seen = {name: each for name, each in found.items() if each is not None}
        yield replace(nothing, pipelines=pipelines, of_pipelines=seen)
    for first in range(0, len(known.devices), size):
        devices = known.devices[first : first + size]
        machines = {view.device: known.of_devices.get(view.device) for view in devices}
        yield replace(
            nothing, devices=devices, of_devices={name: each for name, each in machines.items() if each}
        )


def collected(known: Known) -> Iterator[Family]:
    """Every family about pipelines and devices, with all of its series."""
    yield from _pipeline_families(known)
    yield from _source_families(filter(None, map(known.of_pipelines.get, _ids(known))))
    yield from _device_families(known)


def _ids(known: Known) -> Iterator[str]:
    return (figures.pipeline_id for figures in known.pipelines)


def totals(known: Known) -> Iterator[Family]:
    """The families about the fleet as a whole."""
    up = Family("streamfleet_broker_up", "Whether the broker answers.")
    up.add("", float(known.fleet is not None))
    active = Family("inference_pipeline_active_streams", "Pipelines that run.")
    active.add("", sum(view.status == "running" for view in known.pipelines))
    yield from (up, active, *rollout_families(known.rollouts))


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, text, labels=labels, kind="counter")


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name, text, labels=labels)


def _pipeline_families(known: Known) -> Iterator[Family]:
    up = _gauge("streamfleet_pipeline_up", "Whether it runs, by a recent status.", "pipeline_id")
    info = _gauge(
        "streamfleet_pipeline_info", "1 for each pipeline.", "pipeline_id", "device", "model", "status"
    )
    restarts = _counter(
        "streamfleet_pipeline_restarts", "Starts of its process after the first.", "pipeline_id"
    )
    age = _gauge("streamfleet_pipeline_status_age_seconds", "Seconds since its last status.", "pipeline_id")
    dropped = _counter(
        "streamfleet_sink_dropped", "Predictions that a sink did not take.", "pipeline_id", "sink"
    )
    rows = [
        (quoted(figures.pipeline_id), figures, known.of_pipelines.get(figures.pipeline_id))
        for figures in known.pipelines
    ]
    labels = [f"{{pipeline_id={name}}}" for name, _, _ in rows]
    runs = [
        int(seen is not None and seen.age <= STALE and figures.status == "running")
        for _, figures, seen in rows
    ]
    up.add_all(zip(labels, runs, strict=True))
    info.add_all(
        (
            f"{{device={quoted(figures.device or '')},model={quoted(figures.model)},"
            f'pipeline_id={name},status="{figures.status}"}}',
            1,
        )
        for name, figures, _ in rows
    )
    restarts.add_all((f"{{pipeline_id={name}}}", figures.restarts) for name, figures, _ in rows)
    told = [(name, seen) for name, _, seen in rows if seen is not None]
    age.add_all((f"{{pipeline_id={name}}}", seen.age) for name, seen in told)
    dropped.add_all(
        (f"{{pipeline_id={name},sink={quoted(sink)}}}", count)
        for name, seen in told
        for sink, count in seen.stat.dropped.items()
    )
    yield from (up, info, restarts, age, dropped)


class _SourceFamilies:
    """The families about sources, with their own names and with those of Roboflow."""

    def __init__(self) -> None:
        name = "streamfleet_source_frames"
        self.received = _counter(
            f"{name}_received", "Frames received from the source.", "pipeline_id", "source"
        )
        self.decoded = _counter(
            f"{name}_decoded", "Frames of which there was a picture.", "pipeline_id", "source"
        )
        self.inferred = _counter(
            f"{name}_inferred", "Frames that a model looked at.", "pipeline_id", "source"
        )
        self.emitted = _counter(
            f"{name}_emitted", "Frames whose predictions were emitted.", "pipeline_id", "source"
        )
        self.dropped = _counter(
            f"{name}_dropped", "Frames that were left out, by cause.", "pipeline_id", "source", "cause"
        )
        name = "streamfleet_source"
        self.failures = _counter(
            f"{name}_connection_failures",
            "Attempts to connect that failed, and connections that were lost.",
            "pipeline_id",
            "source",
        )
        self.decoder = _gauge(
            f"{name}_decoder", "1 for the decoder in use.", "pipeline_id", "source", "decoder"
        )
        self.up = _gauge(f"{name}_up", "Whether there is a picture.", "pipeline_id", "source")
        self.attempts = _gauge(
            f"{name}_connection_attempts",
            "Attempts to connect that failed since the last success.",
            "pipeline_id",
            "source",
        )
        self.fps = _gauge(f"{name}_fps", "Frames emitted a second.", "pipeline_id", "source")
        self.latency = _gauge(
            f"{name}_latency_seconds",
            "Seconds from the capture of a frame to its emission.",
            "pipeline_id",
            "source",
        )
        self.last_frame = _gauge(
            f"{name}_last_frame_age_seconds", "Seconds since the last frame.", "pipeline_id", "source"
        )
        self.frozen = _gauge(
            f"{name}_frozen_seconds",
            "Seconds for which a live picture has not changed.",
            "pipeline_id",
            "source",
        )
        name = "inference_pipeline"
        self.inference_fps = _gauge(
            f"{name}_inference_fps",
            "Frames a second of which there are predictions.",
            "pipeline_id",
            "source",
        )
        self.reported = {
            figure: _gauge(f"{name}_{figure}", text, "pipeline_id", "source")
            for figure, text in (
                ("camera_fps", "Frames a second that the source declares."),
                ("frame_decoding_latency", "Seconds from the capture of a frame to its inference."),
                ("inference_latency", "Seconds of its inference."),
                ("e2e_latency", "Seconds from its capture to its predictions."),
            )
        }

    def __iter__(self) -> Iterator[Family]:
        """All of them."""
        for value in vars(self).values():
            yield from value.values() if isinstance(value, dict) else (value,)

    def add(self, pipelines: Sequence[_SeenPipeline]) -> None:
        """Add the sources of pipelines, each once: a duplicate series makes the whole text invalid."""
        rows = [
            # Labels are sorted by name: some have others before or behind these.
            (f'pipeline_id={pipeline},source="{source.source_id}"', source, seen.age)
            for pipeline, seen in [(quoted(each.stat.pipeline_id), each) for each in pipelines]
            for source in {source.source_id: source for source in seen.stat.sources}.values()
        ]
        self._add_counters([(f"{{{inner}}}", source) for inner, source, _ in rows])
        self._add_gauges([(f"{{{inner}}}", source, age) for inner, source, age in rows])
        self.dropped.add_all(
            (f"{{cause={quoted(cause)},{inner}}}", count)
            for inner, source, _ in rows
            for cause, count in source.dropped.items()
        )
        self.decoder.add_all(
            (f"{{decoder={quoted(source.decoder)},{inner}}}", 1.0)
            for inner, source, _ in rows
            if source.decoder
        )
        reported: dict[str, list[tuple[str, float]]] = {figure: [] for figure in self.reported}
        for seen in pipelines:
            pipeline = quoted(seen.stat.pipeline_id)
            for (figure, source_id), value in _reported(seen.stat).items():
                reported[figure].append((f"{{pipeline_id={pipeline},source={quoted(source_id)}}}", value))
        for figure, series in reported.items():
            self.reported[figure].add_all(series)

    def _add_counters(self, rows: Sequence[tuple[str, SourceStat | SourceSummary]]) -> None:
        self.received.add_all([(labels, source.received) for labels, source in rows])
        self.decoded.add_all([(labels, source.decoded) for labels, source in rows])
        self.inferred.add_all([(labels, source.inferred) for labels, source in rows])
        self.emitted.add_all([(labels, source.emitted) for labels, source in rows])
        self.failures.add_all([(labels, source.failures) for labels, source in rows])

    def _add_gauges(self, rows: Sequence[tuple[str, SourceStat | SourceSummary, float]]) -> None:
        self.attempts.add_all([(labels, source.attempts) for labels, source, _ in rows])
        self.up.add_all(
            [(labels, int(age <= STALE and source.state == "RUNNING")) for labels, source, age in rows]
        )
        fps = [(labels, source.fps if age <= STALE else 0.0) for labels, source, age in rows]
        self.fps.add_all(fps)
        self.inference_fps.add_all(fps)
        self.latency.add_all(
            [(labels, source.latency) for labels, source, _ in rows if source.latency is not None]
        )
        self.last_frame.add_all(
            [
                (labels, round(source.last_frame_age + age, 3))
                for labels, source, age in rows
                if source.last_frame_age is not None
            ]
        )
        self.frozen.add_all(
            [
                (labels, source.frozen_for)
                for labels, source, age in rows
                if age <= STALE and source.frozen_for is not None
            ]
        )


def _source_families(pipelines: Iterable[_SeenPipeline]) -> Iterator[Family]:
    families = _SourceFamilies()
    families.add(list(pipelines))
    yield from families


def _device_families(known: Known) -> Iterator[Family]:
    gauges = {
        name: _gauge(f"streamfleet_device_{name}", text, "device")
        for name, text in (
            ("ready", "Whether it is ready."),
            ("capacity", "Pipelines that it is willing to run."),
            ("pipelines", "Pipelines assigned to it."),
            ("load1", "Processes that run or are ready to, over the last minute."),
            ("cores", "Cores of the machine."),
            ("memory_bytes", "Memory of the machine."),
            ("memory_available_bytes", "Memory that programs may still have."),
            ("temperature_celsius", "Temperature of its hottest sensor."),
            ("throttled", "Whether heat or too little power slows it down."),
            ("gpu_load", "Load of its GPU, from 0 to 1."),
            ("gpu_power_watts", "Power that its GPU uses."),
            ("disk_bytes", "Size of the file system of its data directory."),
            ("disk_available_bytes", "What is available of it."),
            ("silent_seconds", "Seconds since the broker heard it."),
        )
    }
    dropped = _counter(
        "streamfleet_device_dropped_messages",
        "Messages beyond its budget, which the broker dropped.",
        "device",
        "plane",
    )
    ready = _gauge("streamfleet_engine_ready", "Whether its model is loaded.", "device", "digest")
    inferences = _counter(
        "streamfleet_engine_inferences", "Frames that it looked at since its start.", "device", "digest"
    )
    restarts = _counter(
        "streamfleet_engine_restarts", "Starts of its process after the first.", "device", "digest"
    )
    providers = _gauge(
        "streamfleet_engine_provider", "1 for what runs its model.", "device", "digest", "provider"
    )
    missing = _gauge(
        "streamfleet_accelerator_missing",
        "Whether a model does not run on an accelerator that the device should have.",
        "device",
    )
    rows = [(f"device={quoted(figures.device)}", figures) for figures in known.devices]
    gauges["ready"].add_all((f"{{{own}}}", int(figures.state == "ready")) for own, figures in rows)
    gauges["capacity"].add_all((f"{{{own}}}", figures.capacity) for own, figures in rows)
    gauges["pipelines"].add_all((f"{{{own}}}", figures.pipelines) for own, figures in rows)
    gauges["silent_seconds"].add_all(
        (f"{{{own}}}", figures.silent) for own, figures in rows if figures.silent is not None
    )
    dropped.add_all(
        (f'{{{own},plane="{plane}"}}', figures.dropped.get(plane, 0))
        for own, figures in rows
        for plane in get_args(Plane)
    )
    seen = [(own, known.of_devices.get(figures.device)) for own, figures in rows]
    told = [(own, each.stat) for own, each in seen if each is not None]
    gauges["load1"].add_all((f"{{{own}}}", stat.load) for own, stat in told)
    gauges["cores"].add_all((f"{{{own}}}", stat.cores) for own, stat in told)
    gauges["memory_bytes"].add_all((f"{{{own}}}", stat.memory) for own, stat in told)
    gauges["memory_available_bytes"].add_all((f"{{{own}}}", stat.memory_available) for own, stat in told)
    missing.add_all((f"{{{own}}}", int(stat.missing_accelerator is not None)) for own, stat in told)
    for own, stat in told:
        for sensor, value in _sensors_of(stat).items():
            if value is not None:
                gauges[sensor].add(f"{{{own}}}", value)
        # Each once: a duplicate series makes the whole text invalid.
        for each in {engine.digest: engine for engine in stat.engines}.values():
            inner = f"{own},digest={quoted(each.digest)}"
            ready.add(f"{{{inner}}}", int(each.state == "ready"))
            inferences.add(f"{{{inner}}}", each.inferences)
            restarts.add(f"{{{inner}}}", each.restarts)
            if each.provider:
                providers.add(f"{{{inner},provider={quoted(each.provider)}}}", 1)
    yield from (*gauges.values(), dropped, ready, inferences, restarts, providers, missing)


def _sensors_of(stat: DeviceStat) -> dict[str, float | None]:
    """The gauges of a device's sensors; None: unknown."""
    return {
        "temperature_celsius": stat.temperature,
        "throttled": None if stat.throttled is None else float(stat.throttled),
        "gpu_load": stat.gpu_load,
        "gpu_power_watts": stat.gpu_power_watts,
        "disk_bytes": stat.disk or None,
        "disk_available_bytes": stat.disk_available if stat.disk else None,
    }


def _reported(stat: PipelineStat | PipelineSummary) -> dict[tuple[str, str], float]:
    """The figures of a report, by name and source. The later one counts."""
    found: dict[tuple[str, str], float] = {}
    for entry in _entries(stat.report.get("latency_reports")):
        source_id = str(entry.get("source_id"))
        for name in _LATENCIES:
            if isinstance(value := entry.get(name), (int, float)):
                found[name, source_id] = float(value)
    for entry in _entries(stat.report.get("sources_metadata")):
        properties = entry.get("source_properties")
        if isinstance(properties, dict) and isinstance(value := properties.get("fps"), (int, float)):
            found["camera_fps", str(entry.get("source_id"))] = float(value)
    return found


def _entries(listed: object) -> list[dict[str, Any]]:
    """Return the objects of a list in a report. A report is an arbitrary document of a device."""
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


class Requests(Collector):
    """Counts the responses of this process, by declared route and never by the requested path."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._durations = Histogram(
            "streamfleet_http_request_duration_seconds",
            "Seconds until an answer began.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def count(self, method: str, route: str, status: int, duration: float) -> None:
        """An answer has begun."""
        method = method if method in _METHODS else "other"
        self._counts[(method, route, str(status))] += 1
        self._durations.labels(method, route).observe(duration)

    def collect(self) -> Iterator[Metric]:
        """The counts."""
        counter = CounterMetricFamily(
            "streamfleet_http_requests", "Requests that were answered.", labels=["method", "route", "status"]
        )
        for series, count in self._counts.items():
            counter.add_metric(series, count)
        yield counter


class OwnFigures(Collector):
    """Further metrics of this process."""

    def __init__(
        self, failed_logins: FailedLogins, connections: Connections, descriptors: DescriptorWatch
    ) -> None:
        self._failed_logins = failed_logins
        self._connections = connections
        self._descriptors = descriptors

    def collect(self) -> Iterator[Metric]:
        """As of now, the descriptors as of some seconds ago."""
        seen = self._descriptors.seen
        for name, text, count in (
            ("failed_logins", "Wrong tokens.", self._failed_logins.count),
            (
                "connections_without_room",
                "Connections for which others were closed, or that were refused.",
                self._connections.without_room,
            ),
        ):
            yield CounterMetricFamily(f"streamfleet_http_{name}", text, value=count)
        for name, text, value in (
            ("http_connections", "Connections that are open.", self._connections.count),
            ("open_descriptors", "File descriptors of this process that are open.", seen.open),
            ("max_descriptors", "File descriptors that this process may open.", seen.limit),
        ):
            yield GaugeMetricFamily(f"streamfleet_{name}", text, value=value)


class Measure:
    """Counts all responses."""

    def __init__(self, app: ASGIApp, requests: Requests, routes: Mapping[Any, str]) -> None:
        self._app = app
        self._requests = requests
        self._routes = routes  # path as declared, by endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = self._routes.get(scope.get("endpoint"), "other")
                self._requests.count(scope["method"], route, message["status"], time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, measured)
