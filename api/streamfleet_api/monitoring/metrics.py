"""The metrics of the fleet in Prometheus' text format, from the last known state. Devices are never queried.

Counters are counted by devices: they start at 0 with each start of a pipeline's process, which is what
`rate()` expects of a counter. A label for the start would make a new series each time, without limit. Within
one start a figure never falls, as outdated statuses are dropped (`zmq_subscription.Order`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, get_args

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient, BrokerClientError
from streamfleet_api.feeds.statuses import STALE, Seen, Statuses
from streamfleet_api.monitoring.exposition import Family, labelled, merge, quoted, text_of
from streamfleet_api.web.connections import Connections
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_core.protocol.requests import DeviceFigures, FleetView, PipelineFigures, Plane
from streamfleet_core.protocol.status import DeviceStat, PipelineStat, SourceStat
from streamfleet_core.runtime.file_descriptors import DescriptorWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PART = 100  # pipelines or devices that are collected at once
_ASK = 2.0  # seconds that the broker has
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
T = TypeVar("T", PipelineStat, DeviceStat)
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
    of_pipelines: Mapping[str, Seen[PipelineStat]] | Latest[PipelineStat]
    of_devices: Mapping[str, Seen[DeviceStat]] | Latest[DeviceStat]


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
            figures = await self._broker.figures(timeout=_ASK)
            fleet, pipelines, devices = figures.fleet, figures.pipelines, figures.devices
        except BrokerClientError:
            fleet, pipelines, devices = None, self._known.pipelines, self._known.devices
        statuses = self._statuses
        return Known(
            fleet=fleet,
            pipelines=pipelines,
            devices=devices,
            of_pipelines=Latest(lambda name: statuses.pipeline(name, keep=False)),
            of_devices=Latest(lambda name: statuses.device(name, keep=False)),
        )


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
    yield from (up, active)


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
    for figures in known.pipelines:
        name, seen = figures.pipeline_id, known.of_pipelines.get(figures.pipeline_id)
        fresh = seen is not None and seen.age <= STALE
        labels = f"{{pipeline_id={quoted(name)}}}"
        up.add(labels, float(fresh and figures.status == "running"))
        described = labelled(
            pipeline_id=name, device=figures.device or "", model=figures.model, status=figures.status
        )
        info.add(described, 1)
        restarts.add(labels, figures.restarts)
        if seen is not None:
            age.add(labels, seen.age)
            for sink, count in seen.stat.dropped.items():
                dropped.add(labelled(pipeline_id=name, sink=sink), count)
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

    def add(self, seen: Seen[PipelineStat]) -> None:
        """Add the sources of a pipeline, each once: a duplicate series makes the whole text invalid."""
        stat = seen.stat
        pipeline = f"pipeline_id={quoted(stat.pipeline_id)}"
        for source in {source.source_id: source for source in stat.sources}.values():
            self._add(f'{pipeline},source="{source.source_id}"', source, seen.age)
        for (source_id, figure), value in dict(_reported(stat)).items():
            self.reported[figure].add(f"{{{pipeline},source={quoted(source_id)}}}", value)

    def _add(self, inner: str, source: SourceStat, age: float) -> None:
        """Add a source. `inner`: its labels, without braces; they are sorted by name."""
        labels, is_fresh = f"{{{inner}}}", age <= STALE
        self.received.add(labels, source.received)
        self.decoded.add(labels, source.decoded)
        self.inferred.add(labels, source.inferred)
        self.emitted.add(labels, source.emitted)
        self.failures.add(labels, source.failures)
        for cause, count in source.dropped.items():
            self.dropped.add(f"{{cause={quoted(cause)},{inner}}}", count)
        if source.decoder:
            self.decoder.add(f"{{decoder={quoted(source.decoder)},{inner}}}", 1)
        self.up.add(labels, float(is_fresh and source.state == "RUNNING"))
        self.attempts.add(labels, source.attempts)
        fps = source.fps if is_fresh else 0.0
        self.fps.add(labels, fps)
        self.inference_fps.add(labels, fps)
        if source.latency is not None:
            self.latency.add(labels, source.latency)
        if source.last_frame_age is not None:
            self.last_frame.add(labels, round(source.last_frame_age + age, 3))
        if is_fresh and source.frozen_for is not None:
            self.frozen.add(labels, source.frozen_for)


def _source_families(pipelines: Iterable[Seen[PipelineStat]]) -> Iterator[Family]:
    families = _SourceFamilies()
    for seen in pipelines:
        families.add(seen)
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
    for figures in known.devices:
        name = figures.device
        labels = labelled(device=name)
        gauges["ready"].add(labels, float(figures.state == "ready"))
        gauges["capacity"].add(labels, figures.capacity)
        gauges["pipelines"].add(labels, figures.pipelines)
        if figures.silent is not None:
            gauges["silent_seconds"].add(labels, figures.silent)
        for plane in get_args(Plane):
            dropped.add(labelled(device=name, plane=plane), figures.dropped.get(plane, 0))
        seen = known.of_devices.get(name)
        if seen is None:
            continue
        gauges["load1"].add(labels, seen.stat.load)
        gauges["cores"].add(labels, seen.stat.cores)
        gauges["memory_bytes"].add(labels, seen.stat.memory)
        gauges["memory_available_bytes"].add(labels, seen.stat.memory_available)
        for sensor, value in _sensors_of(seen.stat).items():
            if value is not None:
                gauges[sensor].add(labels, value)
        # Each once: a duplicate series makes the whole text invalid.
        for each in {engine.digest: engine for engine in seen.stat.engines}.values():
            engine = labelled(device=name, digest=each.digest)
            ready.add(engine, float(each.state == "ready"))
            inferences.add(engine, each.inferences)
            restarts.add(engine, each.restarts)
            if each.provider:
                providers.add(labelled(device=name, digest=each.digest, provider=each.provider), 1)
        missing.add(labels, float(seen.stat.missing_accelerator is not None))
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


def _reported(stat: PipelineStat) -> Iterator[tuple[tuple[str, str], float]]:
    """The figures of a report, by source and name."""
    latencies = ("frame_decoding_latency", "inference_latency", "e2e_latency")
    for entry in _entries(stat.report.get("latency_reports")):
        for name in latencies:
            if isinstance(entry.get(name), int | float):
                yield (str(entry.get("source_id")), name), float(entry[name])
    for entry in _entries(stat.report.get("sources_metadata")):
        properties = entry.get("source_properties")
        if isinstance(properties, dict) and isinstance(properties.get("fps"), int | float):
            yield (str(entry.get("source_id")), "camera_fps"), float(properties["fps"])


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
