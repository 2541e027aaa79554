"""Commands a second over HTTP and the time that each takes, with 1, 8 and 64 clients at once.

Pause and resume: from the request to its answer, which the api gives once the device has confirmed: HTTP,
api, broker, agent, camera process, and back. Each client pauses and resumes a pipeline of its own (a file
at one frame a second, so that the device has little else to do), in turn, by the original's `POST
/pause/{id}` and `/resume/{id}`. List: `GET /list_pipelines`, which the api asks the broker. Baseline of the
same run: a Starlette app under uvicorn, with the options of our api, that answers a constant. Clients,
servers and devices share one machine. Every client keeps its connection, or makes a new one for each
request.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.fleets import names, put, running
from benchmarks.load import Next, load
from benchmarks.processes import child, receive
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, wait_for

PAUSE, LIST, CONSTANT = "pause and resume", "list_pipelines", "bare Starlette, a constant"
KINDS = (CONSTANT, LIST, PAUSE)
_KEPT = {True: "kept", False: "new each"}
_START = 60.0  # seconds for all pipelines to run
_LISTED = 8  # pipelines there are when they are listed


@dataclass(slots=True)
class Measured:
    """The rounds of one kind, count of clients and way to connect."""

    rates: list[float] = field(default_factory=list)  # commands/s
    latencies: list[float] = field(default_factory=list)  # milliseconds, of all rounds
    failures: Counter[int] = field(default_factory=Counter)  # by status


_Point = tuple[str, int, bool]  # kind, clients, whether connections are kept
_Found = dict[_Point, Measured]
_Ask = tuple[str, int, Next]  # kind, port, what


def run(setting: Setting) -> Report:
    """Measure every kind with every count of clients."""
    sizes = setting.pick((1, 8, 64), (1, 2))
    seconds, rounds = setting.pick(1.5, 0.3), setting.rounds_of(3)
    found: _Found = {}
    with running(setting, capacity=max(sizes)) as fleet, constant() as port:
        wished = add(fleet, setting, min(_LISTED, max(sizes)))
        for clients in sizes:
            asks: list[_Ask] = [(CONSTANT, port, ask_list), (LIST, fleet.port, ask_list)]
            if clients <= len(wished):
                asks.append((PAUSE, fleet.port, ask_pause(wished)))
            measure(found, asks, clients=clients, rounds=rounds, seconds=seconds)
        for clients in sizes:
            if clients > len(wished):
                wished += add(fleet, setting, clients - len(wished))
                pause = [(PAUSE, fleet.port, ask_pause(wished))]
                measure(found, pause, clients=clients, rounds=rounds, seconds=seconds)
    return report(setting, sizes, found, seconds=seconds)


def measure(found: _Found, asks: Sequence[_Ask], *, clients: int, rounds: int, seconds: float) -> None:
    """All of these in turn, round by round."""
    for _ in range(rounds):
        for keep in (True, False):
            for kind, port, ask in asks:
                measured = found.setdefault((kind, clients, keep), Measured())
                note(measured, port, ask, clients=clients, keep=keep, seconds=seconds)


def note(measured: Measured, port: int, ask: Next, *, clients: int, keep: bool, seconds: float) -> None:
    """One round."""
    done = load(port, ask, clients=clients, keep=keep, seconds=seconds)
    measured.rates.append(done.rate)
    measured.latencies += [latency * 1000 for latency in done.latencies]
    measured.failures += done.failures


def add(fleet: Fleet, setting: Setting, count: int) -> list[str]:
    """So many pipelines more, once they run."""
    wished = names(count)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: put(fleet, name, str(setting.video), max_fps=1), wished))
    wait_for(
        lambda: all(fleet.report(name)["state"] == "running" for name in wished),
        f"{count} running pipelines",
        timeout=_START,
        every=0.5,
    )
    return wished


def ask_list(_client: int, _count: int) -> tuple[str, str]:
    """Always the same."""
    return ("GET", "/list_pipelines")


def ask_pause(wished: Sequence[str]) -> Next:
    """Each client has its own pipeline, pauses and resumes it in turn."""

    def ask(client: int, count: int) -> tuple[str, str]:
        return ("POST", f"/{('pause', 'resume')[count % 2]}/{wished[client]}")

    return ask


# the baseline ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def constant() -> Iterator[int]:
    """The port of the bare app, which ends with the block."""
    with child(_serve_constant) as connection:
        yield receive(connection)


def _serve_constant(connection: Connection) -> None:
    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "success"})

    app = Starlette(routes=[Route("/list_pipelines", answer)])
    # asyncio spares TCP's delays only where the protocol is named, as it is by our api.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        connection.send(listener.getsockname()[1])
        config = uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


# the report -----------------------------------------------------------------------------------------------


def report(setting: Setting, sizes: Sequence[int], found: _Found, *, seconds: float) -> Report:
    """Medians of the rates, percentiles of all latencies."""
    rows = tuple(
        Row(_name(point), (statistics.median(one.rates), *_spread(one), _failures(one)))
        for kind in KINDS
        for point, one in sorted(found.items(), key=lambda item: (item[0][1], not item[0][2]))
        if point[0] == kind
    )
    columns = (
        *(Column("commands/s", digits=0), Column("p50", "ms", 2), Column("p99", "ms", 2)),
        Column("failures"),
    )
    failures = sum(one.failures.total() for one in found.values())
    return Report(
        name="commands",
        title="Commands over HTTP, up to the device and back",
        sizes={
            "clients": list(sizes),
            "seconds": seconds,
            "rounds": len(next(iter(found.values())).rates),
            "pipelines listed": min(_LISTED, max(sizes)),
            "model": setting.model_name,
        },
        tables=(Table("what, clients, connections", columns, rows),),
        charts=(
            _chart("Commands/s (higher is better)", "commands/s", sizes, found, _rate),
            _chart("Median time, connections kept (lower is better)", "ms", sizes, found, _p50, ways=(True,)),
        ),
        checks=(Check("failed requests", failures, 0, ""),),
        rounds={f"{_name(point)}, commands/s": one.rates for point, one in found.items()},
    )


def _chart(title, axis, sizes, found, figure, ways=(True, False)) -> Bars:  # type: ignore[no-untyped-def]
    groups = [(clients, keep) for clients in sizes for keep in ways]
    return Bars(
        title,
        axis,
        tuple(f"{n} client{'s' if n > 1 else ''}\n{_KEPT[keep]}" for n, keep in groups),
        tuple(
            Series(kind, tuple(figure(found.get((kind, clients, keep))) for clients, keep in groups))
            for kind in KINDS
        ),
        logarithmic=True,
        digits=0 if axis == "commands/s" else 1,
    )


def _rate(measured: Measured | None) -> float | None:
    return statistics.median(measured.rates) if measured else None


def _p50(measured: Measured | None) -> float | None:
    return _spread(measured)[0] if measured else None


def _spread(measured: Measured) -> tuple[float | None, float | None]:
    if not measured.latencies:
        return None, None
    p50, _, p99 = percentiles(measured.latencies)
    return p50, p99


def _failures(measured: Measured) -> str:
    return ", ".join(f"{count} of {status}" for status, count in sorted(measured.failures.items())) or "none"


def _name(point: _Point) -> str:
    kind, clients, keep = point
    return f"{kind}, {clients}, {_KEPT[keep]}"
