"""Rate and latency of commands over TCP and HTTP, with 1, 8 and 64 parallel clients.

List: Roboflow's `list_pipelines`, over the Stream Manager's TCP port and over HTTP. Pause and resume: from
the command to its response, which the API sends when the device has confirmed (API, broker, agent, camera
process and back). Each client has its own pipeline: a file at one frame per second, so that the device is
almost idle. Over TCP each command has its own connection, as the protocol requires. Over HTTP lists are
measured with one connection per command and with one per client ("kept").

Baselines of the same run: a stand-in for Roboflow's manager without its work (`standin.py`), and a Starlette
app with the options of our API that returns a constant. Each client is a process. Clients, servers and
devices share one machine.

A rate over a period of time hides clients that were not served: the stand-in, like Roboflow's manager, has a
backlog of five connections, and a client beyond it retries after a second. So the two are compared by bursts:
each client requests 400 lists in sequence, and a burst lasts until the last client has its last response. The
stand-in then behaves as Roboflow's manager was measured: fewer lists per second with eight clients than with
one.

Finally, lists of one client are measured beside 50 silent clients, 20 clients that send one byte at a time,
and a worker that is killed; and lists of the stand-in beside one silent client.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks import standin
from benchmarks.callers import Load, Question, framed, http_get, http_post, load
from benchmarks.fleets import names, put, running
from benchmarks.processes import child, receive, start_session
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.setting import Setting
from streamfleet_api.web.connections import Connections, Limits
from streamfleet_api.web.uvicorn_protocol import BoundedHttp
from tests.fleet.harness import Fleet, wait_for

_BURST = 400  # lists per client

STANDIN = "stand-in for Roboflow, list over TCP"
LIST_TCP = "list over TCP"
PAUSE_TCP = "mute and resume over TCP"
STANDIN_BURST, BURST_TCP = f"{STANDIN}, {_BURST} each", f"{LIST_TCP}, {_BURST} each"
CONSTANT, CONSTANT_KEPT = "bare Starlette, a constant", "bare Starlette, a constant, kept"
LIST_HTTP, LIST_HTTP_KEPT = "list over HTTP", "list over HTTP, kept"
PAUSE_HTTP = "pause and resume over HTTP, kept"
LISTS = (STANDIN, LIST_TCP, CONSTANT, LIST_HTTP, CONSTANT_KEPT, LIST_HTTP_KEPT)
PAUSES = (PAUSE_TCP, PAUSE_HTTP)
BURSTS = (STANDIN_BURST, BURST_TCP)

LIST = framed(b'{"type": "list_pipelines"}')
SUCCESS = b'"success"'
SILENT, SLOW = 50, 20  # clients
P99_LIMIT = 50.0  # milliseconds, beside silent and slow clients
_LONGEST_BURST = 60.0  # seconds
_START_TIMEOUT = 60.0  # seconds until all pipelines run
_LISTED = 8  # pipelines in a list
_ROBOFLOW = (
    "Roboflow's manager itself, measured once on another machine: 4,900 commands/s with one client,\n"
    "2,150/s with eight, at most 1 s each; 4.9 s for each silent client, 2.15 s behind an init."
)


@dataclass(slots=True)
class Measured:
    """The rounds of one kind of command with one number of clients."""

    rates: list[float] = field(default_factory=list)  # commands/s
    latencies: list[float] = field(default_factory=list)  # milliseconds, of all rounds
    failures: int = 0

    def add(self, done: Load) -> None:
        """Add one round."""
        self.rates.append(done.rate)
        self.latencies += [latency * 1000 for latency in done.latencies]
        self.failures += done.failures

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)

    @property
    def cells(self) -> tuple[float | None, ...]:
        """Rate, percentiles, maximum and failures."""
        if not self.latencies:
            return (self.rate, None, None, None, self.failures)
        p50, _, p99 = percentiles(self.latencies)
        return (self.rate, p50, p99, max(self.latencies), self.failures)


_Found = dict[tuple[str, int], Measured]  # by kind and clients
Ask = Callable[[int], Question]  # the question of a client, by its number


def run(setting: Setting) -> Report:
    """Measure each kind of command with each number of clients."""
    sizes = setting.pick((1, 8, 64), (1, 2))
    seconds, rounds = setting.pick(1.5, 0.3), setting.rounds_of(3)
    found: _Found = {}
    with running(setting, capacity=max(sizes)) as fleet, contextlib.ExitStack() as stack:
        pipeline_ids = add(fleet, setting, min(_LISTED, max(sizes)))
        standin_port = stack.enter_context(serving(standin.serve, pipeline_ids))
        lists = asks_for_lists(fleet, standin_port, stack.enter_context(serving(constant)))
        bursts = asks_for_bursts(fleet, standin_port)
        for clients in sizes:
            measure(found, lists, clients=clients, rounds=rounds, seconds=seconds)
            measure(found, bursts, clients=clients, rounds=3 * rounds, seconds=_LONGEST_BURST)
        beside = beside_others(setting, fleet, pipeline_ids)
        for clients in sizes:
            pipeline_ids += add(fleet, setting, clients - len(pipeline_ids))
            asks = asks_for_pauses(fleet, pipeline_ids)
            measure(found, asks, clients=clients, rounds=rounds, seconds=seconds)
    return report(setting, sizes, found, beside, seconds=seconds)


def measure(found: _Found, asks: dict[str, Ask], *, clients: int, rounds: int, seconds: float) -> None:
    """Measure all kinds in turn in each round."""
    for _ in range(rounds):
        for kind, ask in asks.items():
            questions = [ask(number) for number in range(clients)]
            found.setdefault((kind, clients), Measured()).add(load(questions, seconds=seconds))


def asks_for_lists(fleet: Fleet, standin_port: int, constant_port: int) -> dict[str, Ask]:
    """Return the kinds of lists, for a period of time."""
    new, kept = http_get("/list_pipelines"), http_get("/list_pipelines", keep=True)
    questions = {
        STANDIN: Question(standin_port, (LIST,), SUCCESS),
        LIST_TCP: Question(fleet.manager_port, (LIST,), SUCCESS),
        CONSTANT: Question(constant_port, (new,), SUCCESS),
        LIST_HTTP: Question(fleet.port, (new,), SUCCESS),
        CONSTANT_KEPT: Question(constant_port, (kept,), SUCCESS, keep=True),
        LIST_HTTP_KEPT: Question(fleet.port, (kept,), SUCCESS, keep=True),
    }
    return {kind: _always(question) for kind, question in questions.items()}


def asks_for_bursts(fleet: Fleet, standin_port: int) -> dict[str, Ask]:
    """Return the kinds of lists, in bursts."""
    ports = {STANDIN_BURST: standin_port, BURST_TCP: fleet.manager_port}
    return {kind: _always(Question(port, (LIST,), SUCCESS, times=_BURST)) for kind, port in ports.items()}


def _always(question: Question) -> Ask:
    """Give each client the same question."""
    return lambda _number: question


def asks_for_pauses(fleet: Fleet, pipeline_ids: Sequence[str]) -> dict[str, Ask]:
    """Return the kinds of changes: each client pauses and resumes its own pipeline."""

    def over_tcp(number: int) -> Question:
        requests = [
            framed(f'{{"type": "{kind}", "pipeline_id": "{pipeline_ids[number]}"}}'.encode())
            for kind in ("mute", "resume")
        ]
        return Question(fleet.manager_port, tuple(requests), SUCCESS)

    def over_http(number: int) -> Question:
        requests = [http_post(f"/{verb}/{pipeline_ids[number]}", keep=True) for verb in ("pause", "resume")]
        return Question(fleet.port, tuple(requests), SUCCESS, keep=True)

    return {PAUSE_TCP: over_tcp, PAUSE_HTTP: over_http}


def add(fleet: Fleet, setting: Setting, count: int) -> list[str]:
    """Create `count` pipelines, and return their ids when they run."""
    if count <= 0:
        return []
    pipeline_ids = names(count)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: put(fleet, name, str(setting.video), max_fps=1), pipeline_ids))
    wait_for(
        lambda: all(fleet.report(name)["state"] == "running" for name in pipeline_ids),
        f"{count} running pipelines",
        timeout=_START_TIMEOUT,
        every=0.5,
    )
    return pipeline_ids


# beside others --------------------------------------------------------------------------------------------


def beside_others(setting: Setting, fleet: Fleet, pipeline_ids: list[str]) -> dict[str, Measured]:
    """Measure lists of one client beside silent and slow clients."""
    seconds = setting.pick(4.0, 1.0)
    found = {}
    with serving(standin.serve, pipeline_ids) as port, crowd(port, silent=1, slow=0):
        found[f"{STANDIN}, beside 1 silent"] = listed(Question(port, (LIST,), SUCCESS), seconds)
    among = f"beside {SILENT} silent, {SLOW} slow, a killed worker"
    http = http_get("/list_pipelines")
    with crowd(fleet.manager_port, silent=SILENT, slow=SLOW):
        for kind, port, request in ((LIST_TCP, fleet.manager_port, LIST), (LIST_HTTP, fleet.port, http)):
            fleet.kill("sf-agent")
            found[f"{kind}, {among}"] = listed(Question(port, (request,), SUCCESS), seconds)
    wait_for(
        lambda: all(fleet.report(name)["state"] in ("running", "ended") for name in pipeline_ids),
        "the pipelines of the killed worker",
        timeout=_START_TIMEOUT,
        every=0.5,
    )
    return found


def listed(question: Question, seconds: float) -> Measured:
    """Measure one client."""
    measured = Measured()
    measured.add(load([question], seconds=seconds))
    return measured


@contextlib.contextmanager
def crowd(port: int, *, silent: int, slow: int) -> Iterator[None]:
    """Run clients that are silent or slow until the block ends. They reconnect when they are disconnected."""
    with child(_crowd, port, silent, slow) as connection:
        receive(connection)
        yield


def _crowd(connection: Connection, port: int, silent: int, slow: int) -> None:
    silent_peers, slow_peers = [_peer(port) for _ in range(silent)], [(_peer(port), 0) for _ in range(slow)]
    connection.send("connected")
    while True:
        time.sleep(0.1)
        silent_peers = [_peer(port) if _is_closed(peer) else peer for peer in silent_peers]
        slow_peers = [_send_byte(port, peer, sent) for peer, sent in slow_peers]


def _send_byte(port: int, peer: socket.socket, sent: int) -> tuple[socket.socket, int]:
    """Send the next byte, or start again on a new connection."""
    if sent == len(LIST) or _is_closed(peer):
        return _peer(port), 0
    peer.send(LIST[sent : sent + 1])
    return peer, sent + 1


def _peer(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def _is_closed(peer: socket.socket) -> bool:
    try:
        peer.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    peer.close()
    return True


# the baselines --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(entry: Callable[..., None], *arguments: object) -> Iterator[int]:
    """Run a server until the block ends, and return its port."""
    with child(entry, *arguments) as connection:
        yield receive(connection)


def constant(connection: Connection) -> None:
    """Serve an app that returns a constant, with the options of our API."""
    start_session()

    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "success"})

    app = Starlette(routes=[Route("/list_pipelines", answer)])
    # asyncio disables Nagle's algorithm only if the protocol is named, as in our API.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # before the port is sent, so that no client is refused
        connection.send(listener.getsockname()[1])
        http = functools.partial(BoundedHttp, Connections(Limits()))
        # uvicorn's types require a class, but it accepts any callable.
        config = uvicorn.Config(app, http=http, ws="none", log_config=None, access_log=False)  # type: ignore[arg-type]
        uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))


# the report -----------------------------------------------------------------------------------------------


def report(
    setting: Setting, sizes: Sequence[int], found: _Found, beside: dict[str, Measured], *, seconds: float
) -> Report:
    """Report medians of the rates, and percentiles of all latencies."""
    columns = (
        Column("commands/s", digits=0),
        *(Column(name, "ms", 2) for name in ("p50", "p99", "slowest")),
        Column("failures", digits=0),
    )
    rows = tuple(
        Row(f"{kind}, {clients}", found[kind, clients].cells)
        for kind in LISTS + BURSTS + PAUSES
        for clients in sizes
    )
    failures = sum(one.failures for (kind, _), one in found.items() if not kind.startswith(STANDIN))
    return Report(
        name="commands",
        title="Roboflow's commands over TCP and HTTP, to the device and back",
        sizes={
            "clients": list(sizes),
            "seconds": seconds,
            "rounds": len(next(iter(found.values())).rates),
            "pipelines listed": min(_LISTED, max(sizes)),
            "model": setting.model_name,
        },
        tables=(
            Table("command, clients", columns, rows),
            Table("by one client", columns, tuple(Row(name, one.cells) for name, one in beside.items())),
        ),
        charts=(
            _chart("Lists/s (higher is better)", "commands/s", sizes, found, LISTS, 0),
            _chart(f"Lists/s, {_BURST} per client (higher is better)", "commands/s", sizes, found, BURSTS, 0),
            _chart("Changes/s (higher is better)", "commands/s", sizes, found, PAUSES, 0),
        ),
        checks=(
            Check("failed commands", failures, 0, ""),
            *(
                Check(f"p99 of {name}", _p99(one), P99_LIMIT, "ms")
                for name, one in beside.items()
                if not name.startswith(STANDIN)
            ),
            *(
                Check(
                    f"lists/s over TCP relative to the stand-in, {_BURST} each, {clients} clients",
                    ratio,
                    limit,
                    "",
                    True,
                )
                for clients, limit in ((1, 1.0), (8, 2.0))
                if (ratio := _ratio(found, clients)) is not None
            ),
        ),
        rounds={f"{kind}, {clients}, commands/s": one.rates for (kind, clients), one in found.items()},
        notes=(_ROBOFLOW,),
    )


def _ratio(found: _Found, clients: int) -> float | None:
    """Return the median of the ratios of each round."""
    if (BURST_TCP, clients) not in found:
        return None
    pairs = zip(found[BURST_TCP, clients].rates, found[STANDIN_BURST, clients].rates, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def _p99(measured: Measured) -> float:
    return percentiles(measured.latencies)[2] if measured.latencies else float("inf")


def _chart(
    title: str, axis: str, sizes: Sequence[int], found: _Found, kinds: Sequence[str], digits: int
) -> Bars:
    return Bars(
        title,
        axis,
        tuple(f"{clients} client{'s' if clients > 1 else ''}" for clients in sizes),
        tuple(Series(kind, tuple(found[kind, clients].rate for clients in sizes)) for kind in kinds),
        logarithmic=True,
        digits=digits,
    )
