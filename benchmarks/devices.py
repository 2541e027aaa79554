"""The cost of the control plane by the number of devices: 10 to 1,000, each with four pipelines.

One broker, one API, and simulated devices: the real session, reconciler and sockets with CURVE of a worker,
without its processes. Each pipeline publishes a status and its last prediction a second, as real ones do.
A tenth of the devices flaps: each loses its power for 5 s every 15 s. A scraper and two open pages look on.
The simulation shares the cores, so its CPU time is in the table: latencies include waiting for a core.

At the end of each size the broker is killed. The time counts until every device is in contact again; no
pipeline may have moved, and every change that was answered must be there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import httpx

from benchmarks.cpu import cpu_times
from benchmarks.processes import child, receive
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.scale.clients import PAGE, Task, Timings, measure
from benchmarks.scale.generator import simulate
from benchmarks.scale.site import EACH, Site, processors, running_site
from benchmarks.setting import Setting
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import wait_for

SIZES = (10, 100, 300, 1000)  # devices
FLAPPING = 0.1  # of the devices
_OF_PROCESS = 500  # devices that one process simulates, at most
_SETTLE = 5.0  # seconds after all are in contact
_PATIENCE = 120.0  # seconds for all to come
BROKER_CPU, BROKER_MEMORY = 30.0, 300.0  # % of a core, MB
SINGLE, PAGED, SCRAPED = 100.0, 50.0, 300.0  # ms
PUTS = 200.0  # a second
RETURNED = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Found:
    """What one size costs. CPU times are in % of a core."""

    broker_cpu: float
    api_cpu: float
    simulation_cpu: float
    client_cpu: float
    broker_memory: float  # MB
    api_memory: float
    timings: Timings
    failures: int  # requests without the expected answer
    puts: float  # a second
    returned: float  # seconds until all devices were in contact with a new broker
    moved: int  # pipelines that a crash of the broker moved
    missing: int  # answered changes that a crash of the broker lost

    def p50(self, kind: str) -> float:
        """The median of the answers to a kind of request, in ms."""
        return percentiles(self.timings.seconds[kind])[0] * 1000

    def p99(self, kind: str) -> float:
        """The 99th percentile likewise."""
        return percentiles(self.timings.seconds[kind])[2] * 1000


def run(setting: Setting) -> Report:
    """Measure each size."""
    sizes = setting.devices or setting.pick(SIZES, (4,))
    seconds, settle = setting.pick((20.0, _SETTLE), (1.0, 0.0))
    return report(sizes, {size: measured(size, seconds, settle) for size in sizes}, seconds)


def measured(devices: int, seconds: float, settle: float) -> Found:
    """Measure one size."""
    with short_folder() as folder, running_site(folder, devices) as site, contextlib.ExitStack() as stack:
        generators = [stack.enter_context(each) for each in _generators(site)]
        client = stack.enter_context(child(measure))
        simulating, asking = [receive(each) for each in generators], [receive(client)]
        _await_all(site, devices)
        _flap(generators, FLAPPING)
        time.sleep(settle)
        groups = {"broker": [site.pid("broker")], "api": [site.pid("api")]}
        groups |= {"simulation": simulating, "client": asking}
        before, began = {name: _cpu(pids) for name, pids in groups.items()}, time.monotonic()
        client.send(Task(site.http, devices, seconds))
        timings: Timings = receive(client, seconds + _PATIENCE)
        took = time.monotonic() - began
        used = {name: 100 * (_cpu(pids) - before[name]) / took for name, pids in groups.items()}
        memory = {name: site.memory(name) for name in ("broker", "api")}
        _flap(generators, 0.0)
        client.send(Task(site.http, devices, seconds / 2, burst=True))
        burst: Timings = receive(client, seconds + _PATIENCE)
        _await_all(site, devices)
        returned, moved, missing = _crash(site, client, devices)
        return Found(
            broker_cpu=used["broker"],
            api_cpu=used["api"],
            simulation_cpu=used["simulation"],
            client_cpu=used["client"],
            broker_memory=memory["broker"],
            api_memory=memory["api"],
            timings=timings,
            failures=len(timings.failures) + len(burst.failures),
            puts=len(burst.seconds.get("put", ())) / (seconds / 2),
            returned=returned,
            moved=moved,
            missing=missing,
        )


def _generators(site: Site) -> Iterator[contextlib.AbstractContextManager[Connection]]:
    for first in range(0, len(site.identities), _OF_PROCESS):
        yield child(simulate, site.identities[first : first + _OF_PROCESS])


def _flap(generators: Sequence[Connection], share: float) -> int:
    """Let a share of the devices flap, and return how many are in contact now."""
    for generator in generators:
        generator.send(share)
    return sum(receive(generator) for generator in generators)


def _await_all(site: Site, devices: int) -> float:
    """Wait until the broker finds all devices ready, and return the seconds that it took."""
    began = time.monotonic()

    def ready() -> bool:
        try:
            return bool(_get(site, "/readyz")["devices_ready"] == devices)
        except httpx.HTTPError:
            return False

    wait_for(ready, f"{devices} devices", timeout=_PATIENCE, every=0.1)
    return time.monotonic() - began


def _crash(site: Site, client: Connection, devices: int) -> tuple[float, int, int]:
    """Kill the broker while changes are made, and start it again."""
    before = _pipelines(site)
    client.send(Task(site.http, devices, 2.0, burst=True))
    time.sleep(1.0)
    site.kill("broker")
    site.start("broker")
    returned = _await_all(site, devices)
    written: dict[str, float] = receive(client, _PATIENCE).written
    after = _pipelines(site)
    moved = sum(after[name]["device"] != each["device"] for name, each in before.items())
    missing = sum(after[name]["spec"]["confidence"] != told for name, told in written.items())
    return returned, moved, missing


def _pipelines(site: Site) -> dict[str, Any]:
    return {each["pipeline_id"]: each for each in _get(site, "/v2/pipelines")["pipelines"]}


def _get(site: Site, path: str) -> Any:
    answer = httpx.get(f"http://127.0.0.1:{site.http}{path}", timeout=30)
    answer.raise_for_status()
    return answer.json()


def _cpu(pids: Sequence[int]) -> float:
    return sum(cpu_times(pids).values())


# the report -----------------------------------------------------------------------------------------------


def report(sizes: Sequence[int], found: dict[int, Found], seconds: float) -> Report:
    """Report each size; the limits are those of the largest."""
    cost = (
        *(Column(f"{name} CPU", "%", 0) for name in ("broker", "api", "simulation", "client")),
        *(Column(f"{name} RSS", "MB", 0) for name in ("broker", "api")),
        Column("PUT/s", digits=0),
        Column("failures", digits=0),
    )
    kinds = ("one read", "one device", "one write", "page", "scrape")
    answers = tuple(Column(f"{kind} {rank}", "ms") for kind in kinds for rank in ("p50", "p99"))
    crash = (Column("all back", "s"), Column("moved", digits=0), Column("changes lost", digits=0))
    names = {size: f"{size} x {EACH}" for size in sizes}
    rows: dict[str, list[Row]] = {"cost": [], "answers": [], "crash": []}
    for size, one in found.items():
        cells = (one.broker_cpu, one.api_cpu, one.simulation_cpu, one.client_cpu)
        rows["cost"].append(
            Row(names[size], (*cells, one.broker_memory, one.api_memory, one.puts, one.failures))
        )
        waits = tuple(value for kind in kinds for value in (one.p50(kind), one.p99(kind)))
        rows["answers"].append(Row(names[size], waits))
        rows["crash"].append(Row(names[size], (one.returned, one.moved, one.missing)))
    last, most = found[max(sizes)], names[max(sizes)]
    return Report(
        name="devices",
        title=f"The control plane by the number of devices, each with {EACH} pipelines",
        sizes={
            "devices": list(sizes),
            "seconds": seconds,
            "flapping": FLAPPING,
            "pipelines of a page": PAGE,
            "cores": processors(),
        },
        tables=(
            Table("cost", cost, tuple(rows["cost"])),
            Table("answers", answers, tuple(rows["answers"])),
            Table("broker killed", crash, tuple(rows["crash"])),
        ),
        charts=(
            _chart("CPU (lower is better)", "% of a core", names, found, ("broker_cpu", "api_cpu"), None),
            Bars(
                "99th percentile (lower is better)",
                "ms",
                tuple(names.values()),
                tuple(Series(kind, tuple(one.p99(kind) for one in found.values())) for kind in kinds),
                logarithmic=True,
                digits=0,
            ),
        ),
        checks=(
            Check(f"CPU of the broker, {most}", last.broker_cpu, BROKER_CPU, "%"),
            Check(f"memory of the broker, {most}", last.broker_memory, BROKER_MEMORY, "MB"),
            *(
                Check(f"p99 of {kind}, {most}", last.p99(kind), limit, "ms")
                for kind, limit in zip(kinds, (SINGLE, SINGLE, SINGLE, PAGED, SCRAPED), strict=True)
            ),
            Check(f"PUT/s, {most}", last.puts, PUTS, "", at_least=True),
            Check(f"all back after a crash of the broker, {most}", last.returned, RETURNED, "s"),
            Check("pipelines that a crash of the broker moved", sum(o.moved for o in found.values()), 0, ""),
            Check("changes that a crash of the broker lost", sum(o.missing for o in found.values()), 0, ""),
        ),
    )


def _chart(
    title: str,
    axis: str,
    names: dict[int, str],
    found: dict[int, Found],
    of: Sequence[str],
    limit: float | None,
) -> Bars:
    series = tuple(
        Series(each.replace("_cpu", ""), tuple(getattr(one, each) for one in found.values())) for each in of
    )
    return Bars(title, axis, tuple(names.values()), series, limit=limit, digits=0)
