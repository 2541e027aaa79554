"""Latency of a prediction: from the end of a frame's decoding until its message is read from a socket.

Measured with 1 and 4 live cameras on one worker, in three ways on the same host at the same time: as a UDP
datagram, from a SUB socket at the device itself, and from a SUB socket at the broker, after its relay (TCP,
CURVE). The header of a message has the time of capture on CLOCK_BOOTTIME, which the receiver reads too.
Baseline of the same run: the time of one thread of a bare program for such a frame.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks import bare
from benchmarks.bare import Task
from benchmarks.fleets import delete_all, direct_of, names, put, relay_of, running
from benchmarks.receiver import UDP, Arrival, Receiver, content_of, header_of
from benchmarks.report import Bars, Column, Report, Row, Series, Table, percentiles
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, wait_for

DIRECT, RELAY = "SUB at the device", "SUB at the broker"
WAYS = (UDP, DIRECT, RELAY)
_INFERENCE, _WORK = "bare: inference alone", "bare: letterbox, inference, NMS"
_WARM_UP = 1.0  # seconds that the cameras run before the measurement

_Key = tuple[str, int, int, int]


def run(setting: Setting) -> Report:
    """Measure with 1 and 4 cameras."""
    sizes = setting.pick((1, 4), (1,))
    seconds = setting.pick(20.0, 1.5)
    videos = () if setting.is_generated else (setting.video,)  # of the live cameras
    task = Task(setting.model, setting.manifest, videos, setting.pick(5.0, 0.5))
    inference, work = bare.frame_times(task)
    found = {_INFERENCE: milliseconds(inference), _WORK: milliseconds(work)}
    with running(setting) as fleet:
        for cameras in sizes:
            for way, ages in of_fleet(fleet, setting, cameras, seconds).items():
                found[name(way, cameras)] = milliseconds(ages)
    return report(setting, sizes, found, seconds=seconds)


def of_fleet(fleet: Fleet, setting: Setting, cameras: int, seconds: float) -> dict[str, list[float]]:
    """Return the ages of predictions at their arrival in seconds, by way."""
    pipeline_ids = names(cameras)
    with Receiver({DIRECT: direct_of(fleet), RELAY: relay_of(fleet)}) as receiver:
        for pipeline_id in pipeline_ids:
            put(fleet, pipeline_id, setting.live, port=receiver.port)
        wait_for(lambda: len(receiver.first_ns) == cameras, "a datagram of each camera")
        time.sleep(_WARM_UP)
        begin = len(receiver.arrivals)
        time.sleep(seconds)
        delete_all(fleet)
        return ages(receiver.arrivals, begin)


def ages(arrivals: Sequence[Arrival], begin: int) -> dict[str, list[float]]:
    """Return the seconds from capture to arrival by way, of arrivals from index `begin`. Pure."""
    captured: dict[_Key, int] = {}  # a datagram has no time on this clock, its ZeroMQ message does
    for arrival in arrivals:
        if arrival.way != UDP:
            captured[_key(arrival)] = header_of(arrival)[1].captured_boot_ns
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for arrival in arrivals[begin:]:
        captured_ns = captured.get(_key(arrival))
        if captured_ns is not None:
            found[arrival.way].append((arrival.at_ns - captured_ns) / 1e9)
    return found


def _key(arrival: Arrival) -> _Key:
    if arrival.way == UDP:
        content = content_of(arrival)
        return (content.pipeline_id, *content.key)
    pipeline_id, header = header_of(arrival)
    return (pipeline_id, *header.key)


def milliseconds(values: Sequence[float]) -> list[float]:
    """Convert seconds."""
    return [round(value * 1000, 3) for value in values]


def name(way: str, cameras: int) -> str:
    """Return the name of these results."""
    return f"{way}, {cameras} camera{'s' if cameras > 1 else ''}"


def report(
    setting: Setting, sizes: Sequence[int], found: dict[str, list[float]], *, seconds: float
) -> Report:
    """Report percentiles."""
    columns = (
        Column("p50", "ms", 2),
        Column("p95", "ms", 2),
        Column("p99", "ms", 2),
        Column("messages", digits=0),
    )
    rows = tuple(Row(what, (*percentiles(values), len(values))) for what, values in found.items())
    baseline = percentiles(found[_WORK])[0]
    panels = tuple(_panel(found, cameras, baseline) for cameras in sizes)
    return Report(
        name="latency",
        title=f"Latency from capture to subscriber: {setting.model_name}, {setting.live_name}",
        sizes={
            "cameras": list(sizes),
            "seconds": seconds,
            "model": setting.model_name,
            "source": setting.live_name,
        },
        tables=(Table("milliseconds", columns, rows),),
        charts=panels,
        rounds={f"{what}, ms": values for what, values in found.items()},
    )


def _panel(found: dict[str, list[float]], cameras: int, baseline: float) -> Bars:
    values = [percentiles(found[name(way, cameras)]) for way in WAYS]
    return Bars(
        f"{cameras} live camera{'s' if cameras > 1 else ''} (lower is better)",
        "ms from capture to receipt",
        WAYS,
        tuple(Series(f"p{p}", tuple(each[at] for each in values)) for at, p in enumerate((50, 95, 99))),
        limit=baseline,
        limit_name="bare program, p50",
    )
