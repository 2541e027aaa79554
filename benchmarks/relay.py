"""Messages of 470 bytes through the broker's relay, and through plain `zmq.proxy` processes of the same run.

One publisher process and one subscriber process with 1 or 20 SUB sockets, with the relay in between, all on
one machine. At full speed: deliveries per second. The publisher waits for the relay, but the relay does not
wait for subscribers, so messages that a subscriber does not read in time are dropped by design. At a steady
5 000 messages per second, in bursts of ten: the loss, the relay's CPU time per message (of all threads of its
process, from the kernel's scheduler, including the other work of an idle broker), and the time of the first
message of a burst from `send` to `recv`.

Our relay is a broker process with one joined device and one subscriber: from TCP with CURVE to the unix
socket on its host, or to TCP with CURVE. It checks the key, topic and `gen` of each message, and the budget
of the device, which is set so large (`--device-messages`, `--device-bytes`) that nothing is dropped. It
queues up to 200 messages for a slow subscriber by design. The plain proxies have the same queue, check
nothing and accept all clients.

The limits apply to CURVE on both sides, where each round is compared with the plain proxy of the same round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import zmq

from benchmarks.broker import running_broker
from benchmarks.processes import TIMEOUT, child, receive
from benchmarks.relay_peers import SIZE, Counted, Keys, Side, publish, subscribe
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from streamfleet_broker.sockets import DATA_OPTIONS
from tests.fakes.ports_and_folders import short_folder

STEADY = 5000  # messages/s
LOST = 0.0  # % of the messages at that rate through our relay, to one subscriber
RATIO = 0.75  # of the deliveries/s of the plain proxy, at full speed to one subscriber
ADDED = 300.0  # microseconds more than through the plain proxy
OURS, PLAIN = "our relay, TCP CURVE to TCP CURVE", "zmq.proxy, TCP CURVE to TCP CURVE"


@dataclass(frozen=True, slots=True)
class Relay:
    """A running relay."""

    name: str
    pid: int
    into: Side
    out: Side


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one measurement."""

    deliveries: float  # per second
    lost: float  # % of the expected deliveries
    cpu: float  # microseconds of the relay per sent message
    latency: float  # microseconds


def run(setting: Setting) -> Report:
    """Measure each relay with each number of subscribers, at both speeds."""
    counts = setting.pick((1, 20), (1,))
    seconds, rounds = setting.pick(1.5, 0.3), setting.rounds_of(2)
    found: dict[str, list[float]] = {}
    with short_folder() as folder, relays(folder) as known:
        for _ in range(rounds):
            for subscribers in counts:
                for relay in known:
                    full, steady = measure(relay, subscribers, seconds)
                    for what, value in (
                        ("full speed, deliveries/s", full.deliveries),
                        ("full speed, lost %", full.lost),
                        ("steady, lost %", steady.lost),
                        ("steady, CPU us per message", steady.cpu),
                        ("steady, latency us", steady.latency),
                    ):
                        found.setdefault(key(relay.name, subscribers, what), []).append(value)
    return report([relay.name for relay in known], counts, found, seconds=seconds, rounds=rounds)


def measure(relay: Relay, subscribers: int, seconds: float) -> tuple[Measurement, Measurement]:
    """Measure at full speed, then at a steady rate."""
    with (
        child(publish, relay.into) as publisher,
        child(subscribe, relay.out, subscribers) as subscriber,
    ):
        subscriber.send("connect")
        publisher.send("connect")
        receive(subscriber)  # each of its sockets has received a message
        return (
            one(relay, publisher, subscriber, subscribers, seconds, 0),
            one(relay, publisher, subscriber, subscribers, seconds, STEADY),
        )


def one(
    relay: Relay, publisher: Connection, subscriber: Connection, subscribers: int, seconds: float, rate: int
) -> Measurement:
    """Measure at one rate; 0 is full speed."""
    before = cpu_ns(relay.pid)
    publisher.send((rate, seconds))
    sent = receive(publisher, seconds + TIMEOUT)
    subscriber.send(sent * subscribers)
    counted: Counted = receive(subscriber)
    used_us = (cpu_ns(relay.pid) - before) / 1000
    lost = 1 - counted.messages / (sent * subscribers)
    return Measurement(counted.messages / counted.seconds, 100 * lost, used_us / sent, counted.latency_us)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(path.read_text().split()[0])
    return total


# the relays -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def relays(folder: Path) -> Iterator[list[Relay]]:
    """Run our relay with both outputs, and the plain proxies."""
    with (
        running_broker(folder) as broker,
        proxy("zmq.proxy, TCP to TCP, no encryption", "tcp://127.0.0.1:*", curve=False) as plain,
        proxy("zmq.proxy, TCP CURVE to unix socket", f"ipc://{folder}/out.ipc", curve=True) as local,
        proxy(PLAIN, "tcp://127.0.0.1:*", curve=True) as curve,
    ):
        ours_local = Relay("our relay, TCP CURVE to unix socket", broker.pid, broker.into, broker.local)
        ours_out = Relay(OURS, broker.pid, broker.into, broker.out)
        yield [plain, local, ours_local, curve, ours_out]


@contextlib.contextmanager
def proxy(name: str, out: str, *, curve: bool) -> Iterator[Relay]:
    """Run a plain proxy in its own process."""
    with child(_proxy, out, curve) as connection:
        pid, into, bound, server_key = receive(connection)
        keys = Keys(server_key, *Keys.pair()) if curve else None
        local = bound.startswith("ipc:")
        yield Relay(name, pid, Side(into, keys), Side(bound, None if local else keys))


def _proxy(connection: Connection, out: str, curve: bool) -> None:
    """Forward messages until killed."""
    public, secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.XSUB) as source, context.socket(zmq.XPUB) as sink:
        for each in (source, sink):
            each.linger = 0
            each.sndhwm = DATA_OPTIONS[zmq.SNDHWM]
        if curve:
            for each in (source,) if out.startswith("ipc:") else (source, sink):
                each.curve_server = True
                each.curve_secretkey = secret
        source.bind("tcp://127.0.0.1:*")
        sink.bind(out)
        ends = [each.getsockopt_string(zmq.LAST_ENDPOINT) for each in (source, sink)]
        connection.send((os.getpid(), *ends, public.decode()))
        zmq.proxy(source, sink)


# the report -----------------------------------------------------------------------------------------------


def key(name: str, subscribers: int, what: str) -> str:
    """Return the key of these rounds."""
    return f"{name}, {subscribers} subscribers, {what}"


_COLUMNS = (
    ("full speed, deliveries/s", Column("full speed: deliveries/s", digits=0)),
    ("full speed, lost %", Column("lost", "%", 1)),
    ("steady, CPU us per message", Column(f"{STEADY}/s: CPU/message", "us", 2)),
    ("steady, lost %", Column("lost", "%", 3)),
    ("steady, latency us", Column("latency", "us", 0)),
)


def report(
    names: Sequence[str], counts: Sequence[int], found: dict[str, list[float]], *, seconds: float, rounds: int
) -> Report:
    """Report medians."""

    def median(name: str, subscribers: int, what: str) -> float:
        return statistics.median(found[key(name, subscribers, what)])

    tables = tuple(
        Table(
            f"{n} subscriber{'s' if n > 1 else ''}",
            tuple(column for _, column in _COLUMNS),
            tuple(Row(name, tuple(median(name, n, what) for what, _ in _COLUMNS)) for name in names),
        )
        for n in counts
    )
    groups = tuple(f"{n} subscriber{'s' if n > 1 else ''}" for n in counts)
    titles = {
        "full speed, deliveries/s": ("Full speed (higher is better)", "deliveries/s"),
        "steady, CPU us per message": (
            f"Relay's CPU at {STEADY} messages/s (lower is better)",
            "µs per message",
        ),
    }
    charts = tuple(
        Bars(
            title,
            axis,
            groups,
            tuple(Series(name, tuple(median(name, n, what) for n in counts)) for name in names),
            digits=0 if "deliveries" in what else 1,
        )
        for what, (title, axis) in titles.items()
    )
    ours = [name for name in names if name.startswith("our")]

    def rounds_of(what: str) -> list[tuple[float, float]]:
        """Return the values of our relay and the plain proxy for each round with one subscriber."""
        return list(zip(found[key(OURS, 1, what)], found[key(PLAIN, 1, what)], strict=True))

    ratio = statistics.median(mine / plain for mine, plain in rounds_of("full speed, deliveries/s"))
    added = statistics.median(mine - plain for mine, plain in rounds_of("steady, latency us"))
    return Report(
        name="relay",
        title=f"The broker's relay compared with plain zmq.proxy, messages of {SIZE} bytes",
        sizes={
            "subscribers": list(counts),
            "seconds": seconds,
            "rounds": rounds,
            "bytes": SIZE,
            "steady": STEADY,
        },
        tables=tables,
        charts=charts,
        checks=(
            *(
                Check(f"{name}: lost at {STEADY}/s", median(name, 1, "steady, lost %"), LOST, "%")
                for name in ours
            ),
            Check(f"{OURS}: full speed relative to {PLAIN}", ratio, RATIO, "x", at_least=True),
            Check(f"{OURS}: latency added to {PLAIN}", added, ADDED, "us"),
        ),
        rounds=found,
    )
