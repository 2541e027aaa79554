"""What is wrong with a device of the fleet, from what the API tells about it, and what mends it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from streamfleet_api.cli.tables import counted, size
from streamfleet_core.runtime.finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from streamfleet.results import Device, EngineStat, Model, Pipeline, SourceStat

STALE = 5.0  # seconds after which a status is outdated
MOST_OFFSET = 2.0  # seconds that a clock may be wrong
_HOT, _TOO_HOT = 85.0, 100.0  # °C
_LITTLE_DISK, _NO_DISK = 1e9, 1e8  # bytes
_LITTLE_MEMORY = 0.3e9  # bytes
_BUSY = 2.0  # processes that are ready to run, for each core

_RESTART = "on the device: sudo systemctl restart streamfleet-worker"
_LOG = "on the device: journalctl -u streamfleet-worker -n 50, and is its network up?"
_CHECK = "on the device: streamfleet-worker doctor"
_COOL = f"clean the fan and the air vents, give it more air, or stop a pipeline; {_CHECK}"
# What mends a source, by the cause of its status. {id}: of the pipeline, for a shell.
_SOURCES = {
    "refused": "is the camera on, and the port right? streamfleet set {id} --video ADDRESS",
    "unreachable": "on the device: ping the camera; or correct it: streamfleet set {id} --video ADDRESS",
    "timeout": "try a substream of the camera, or a cable: streamfleet set {id} --video ADDRESS",
    "authentication": "give user and password: streamfleet set {id} --video 'rtsp://USER:PASSWORD@HOST/PATH'",
    "not_found": "correct the path: streamfleet set {id} --video ADDRESS",
    "codec": "set the camera to H.264 or H.265; or choose software: streamfleet set {id} --decoder software",
    "undecodable": "let the camera send a keyframe every 2 s; or: streamfleet set {id} --decoder software",
    "ended": "the other side closes the stream: look at its log, and at its limit of viewers",
    "invalid": "correct the address or its options: streamfleet set {id} --video ADDRESS",
    "internal": "streamfleet restart {id}, and see streamfleet status {id}",
}
_STATUSES = {
    "pending": "streamfleet devices; compare its room and labels with: streamfleet status {id}",
    "backoff": "streamfleet status {id} shows the last crash",
    "failed": "correct it with streamfleet set {id}, then: streamfleet restart {id}",
    "unknown": "its device is silent: see above",
}
_FINE = ("running", "starting", "paused", "ended", "stopping", "moving")


def device_findings(
    device: Device, pipelines: Sequence[Pipeline], models: Sequence[Model] = (), *, version: str
) -> Iterator[Finding]:
    """Check a device.

    `models`: of the fleet. `version`: of this command line, which is updated together with the fleet.
    """
    yield _state(device)
    if device.state == "new":
        return
    yield _status(device)
    yield _version(device, version)
    if device.age is not None:
        yield from filter(None, (_clock(device), _accelerator(device), _heat(device), _memory(device)))
        yield from filter(None, (_load(device), _disk(device), _keeping(device)))
        used = [model for pipeline in pipelines for model in pipeline.spec.models]
        ids = {each.digest: each.id for each in models} | {each.digest: each.id for each in used}
        yield from _engines(device, ids)
    yield from _capacity(device)
    for pipeline in pipelines:
        yield from _pipeline(pipeline)


# the device -----------------------------------------------------------------------------------------------


def _state(device: Device) -> Finding:
    name, silent = "state", "" if device.silent is None else f", heard {device.silent:.1f} s ago"
    shown = f"{device.state}{silent}"
    match device.state:
        case "ready" | "syncing":
            return ok(name, shown)
        case "new":
            return error(name, f"{shown}: it has not joined yet", f"streamfleet devices add {device.device}")
        case "left":
            return warning(name, f"{shown}: its worker was stopped", _RESTART)
        case "quarantined":
            remedy = f"streamfleet devices add {device.device}, and join again on the right machine"
            return error(name, f"{shown}: its key is used twice, or it sends too much", remedy)
        case _:
            return error(name, shown, _LOG)


def _status(device: Device) -> Finding:
    if device.age is None:
        return warning("status", "none has arrived at the API", _RESTART)
    shown = f"{device.age:.1f} s old"
    return ok("status", shown) if device.age <= STALE else warning("status", shown, _LOG)


def _version(device: Device, version: str) -> Finding:
    shown = device.agent or "unknown"
    if device.agent in ("", version):
        return ok("version", shown)
    remedy = f"on the older one: pip install 'streamfleet=={max(device.agent, version, key=_numbers)}'"
    return warning("version", f"{shown}, and this command line is {version}", remedy)


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def _clock(device: Device) -> Finding | None:
    if device.clock_offset is None:
        return None
    ahead = device.clock_offset
    shown = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the API's"
    if abs(ahead) > MOST_OFFSET:
        return warning("clock", shown, "on both machines: timedatectl; sudo timedatectl set-ntp true")
    if device.clock is not None and not device.clock.synchronised:
        return warning(
            "clock", f"{shown}, and no time server sets it", "on it: sudo timedatectl set-ntp true"
        )
    return ok("clock", shown)


def _keeping(device: Device) -> Finding | None:
    if device.keeping is None:
        return None
    where = f"on {device.keeping.where}" if device.keeping.where == "disk" else "in memory"
    if device.keeping.trouble:
        remedy = "on the device: make room on its disk, or give --keep-disk less"
        return warning("sent predictions", f"not kept {where}: {device.keeping.trouble}", remedy)
    return ok("sent predictions", f"kept {where}")


def _accelerator(device: Device) -> Finding | None:
    if device.missing_accelerator is not None:
        missing = device.missing_accelerator
        return warning("accelerator", missing.reason, f"on the device: {missing.remedy}")
    providers = sorted({engine.provider for engine in device.engines if engine.provider})
    return ok("accelerator", f"models run on {', '.join(providers)}") if providers else None


def _heat(device: Device) -> Finding | None:
    degrees = device.temperature
    if degrees is None and not device.throttled:
        return None
    shown = "unknown temperature" if degrees is None else f"{degrees:.0f} °C"
    if device.throttled:
        return warning("heat", f"{shown}, throttled: {device.throttle_reason}", _COOL)
    assert degrees is not None
    if degrees >= _TOO_HOT:
        return error("heat", shown, _COOL)
    return warning("heat", f"{shown}: it slows down soon", _COOL) if degrees >= _HOT else ok("heat", shown)


def _memory(device: Device) -> Finding | None:
    if not device.memory:
        return None
    available = device.memory_available or 0
    shown = f"{size(available)} of {size(device.memory)} available"
    if available < _LITTLE_MEMORY:
        return warning("memory", shown, "stop a pipeline, or move it: streamfleet set ID --device NAME")
    return ok("memory", shown)


def _load(device: Device) -> Finding | None:
    if not device.cores or device.load is None:
        return None
    shown = f"{device.load:.1f} on {counted(device.cores, 'core', 'cores')}"
    if device.load > _BUSY * device.cores:
        return warning("load", shown, "less work for it: streamfleet set ID --max-fps 10, or --device NAME")
    return ok("load", shown)


def _disk(device: Device) -> Finding | None:
    if not device.disk:
        return None
    available = device.disk_available or 0
    shown = f"{size(available)} of {size(device.disk)} available"
    if available >= _LITTLE_DISK:
        return ok("disk", shown)
    make = error if available < _NO_DISK else warning
    return make("disk", shown, "on the device: du -xh / | sort -h | tail shows what fills it")


def engine_name(engine: EngineStat, ids: Mapping[str, str]) -> str:
    """The model of an engine; `ids`: by digest. One that was replaced is told from the present one."""
    known = ids.get(engine.digest)
    if known is not None:
        return known
    digest = engine.digest[:12]
    return f"{engine.model} ({digest})" if engine.model else digest


def _engines(device: Device, ids: Mapping[str, str]) -> Iterator[Finding]:
    """`ids`: of models, by digest."""
    for engine in device.engines:
        name = f"model {engine_name(engine, ids)}"
        why = f": {engine.reason}" if engine.reason else ""
        if engine.state == "failed":
            yield error(name, f"failed{why}", "add a model that works: streamfleet models add ID FILE")
        elif engine.restarts:
            times = counted(engine.restarts, "restart", "restarts")
            yield warning(name, f"{engine.state}, {times} of its process{why}", _LOG)
        else:
            yield ok(name, f"{engine.state}{why}")


def _capacity(device: Device) -> Iterator[Finding]:
    shown = f"{device.pipelines} of {counted(device.capacity, 'pipeline', 'pipelines')}"
    if device.pipelines >= device.capacity:
        yield warning("capacity", f"{shown}: it takes no more", "start its worker with a higher --capacity")
    else:
        yield ok("capacity", shown)


# pipelines ------------------------------------------------------------------------------------------------


def _pipeline(entry: Pipeline) -> Iterator[Finding]:
    name, given = f"pipeline {entry.pipeline_id}", {"id": shlex.quote(entry.pipeline_id)}
    wrong = [found for source in entry.sources if (found := _source(name, source, given)) is not None]
    yield from wrong
    if entry.status not in _FINE and not wrong:
        make = warning if entry.status in ("reconnecting", "unknown", "backoff") else error
        remedy = _STATUSES.get(entry.status, "streamfleet status {id}").format(**given)
        yield make(name, f"{entry.status}: {entry.reason or 'no reason is known yet'}", remedy)
    elif entry.restarts:
        times = counted(entry.restarts, "restart", "restarts")
        remedy = _STATUSES["backoff"].format(**given)
        yield warning(name, f"{entry.status} after {times} of its process", remedy)
    elif not wrong:
        rate = "" if entry.fps is None else f", {entry.fps:.1f} frames/s"
        yield ok(name, f"{entry.status}{rate}")


def _source(name: str, source: SourceStat, given: dict[str, str]) -> Finding | None:
    where = f"source {source.source_id}"
    if source.cause is not None:
        remedy = _SOURCES[source.cause].format(**given)
        return error(name, f"{where}: {source.cause}: {source.reason or 'no reason is known yet'}", remedy)
    if source.frozen_for is not None:
        found = f"{where}: its picture has not changed for {source.frozen_for:.0f} s"
        return warning(name, found, "restart the camera: a real one always has noise")
    if source.decoder_note:
        return warning(name, f"{where}: decoded by {source.decoder}: {source.decoder_note}", _CHECK)
    return None
