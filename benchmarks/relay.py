"""Messages of 470 bytes through the broker's relay, beside plain `zmq.proxy` processes of the same run.

One publisher process and one subscriber process with 1 or 20 SUB sockets, the relay between them, all on
one machine. At full speed: deliveries a second, where the publisher waits for the relay and the relay waits
for nobody, so that what subscribers do not take in time is lost, as it is meant to be. At a steady 5 000
messages a second, in bursts of ten: how much of what was sent did not arrive, the relay's CPU time for each
message (of all threads of its process, from the kernel's scheduler; what the idle broker does besides is in
it), and how long the first message of a burst took from `send` to `recv`.

Ours is a broker process with one device that has joined and one subscriber: from TCP with CURVE to the unix
socket on its host, or to TCP with CURVE. It looks at the key, topic and `gen` of each message. It holds at
most 200 messages for a subscriber that is slow, on purpose; so do the plain proxies, which look at nothing
and let everybody in.

What that costs is judged over CURVE on both sides, each round beside the plain proxy of the same round.
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
from benchmarks.processes import PATIENCE, child, receive
from benchmarks.relay_peers import SIZE, Counted, Keys, Side, publish, subscribe
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from streamfleet_broker.sockets import DATA_OPTIONS
from tests.fakes.places import short_folder

STEADY = 5000  # messages/s
LOST = 0.0  # % of what was sent at that rate through our relay, to one subscriber
RATIO = 0.75  # of the deliveries/s of the plain proxy, at full speed to one subscriber
ADDED = 300.0  # microseconds beyond what a message takes through the plain proxy
OURS, PLAIN = "our relay, TCP CURVE to TCP CURVE", "zmq.proxy, TCP CURVE to TCP CURVE"


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay that runs."""

    name: str
    pid: int
    into: Side
    out: Side


@dataclass(frozen=True, slots=True)
class Passed:
    """What one measurement found."""

    deliveries: float  # a second
    lost: float  # % of what should have been delivered
    cpu: float  # microseconds of the relay for each message that was sent
    latency: float  # microseconds


def run(setting: Setting) -> Report:
    """Every relay with every count of subscribers, at both speeds."""
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


def measure(relay: Relay, subscribers: int, seconds: float) -> tuple[Passed, Passed]:
    """Full speed, then a steady rate."""
    with (
        child(publish, relay.into) as publisher,
        child(subscribe, relay.out, subscribers) as subscriber,
    ):
        subscriber.send("connect")
        publisher.send("connect")
        receive(subscriber)  # each of its sockets has heard the publisher
        return (
            one(relay, publisher, subscriber, subscribers, seconds, 0),
            one(relay, publisher, subscriber, subscribers, seconds, STEADY),
        )


def one(
    relay: Relay, publisher: Connection, subscriber: Connection, subscribers: int, seconds: float, rate: int
) -> Passed:
    """One measurement at one speed; 0 is as fast as it goes."""
    before = cpu_ns(relay.pid)
    publisher.send((rate, seconds))
    sent = receive(publisher, seconds + PATIENCE)
    subscriber.send(sent * subscribers)
    counted: Counted = receive(subscriber)
    used_us = (cpu_ns(relay.pid) - before) / 1000
    lost = 1 - counted.messages / (sent * subscribers)
    return Passed(counted.messages / counted.seconds, 100 * lost, used_us / sent, counted.latency_us)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process so far."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(path.read_text().split()[0])
    return total


# the relays -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def relays(folder: Path) -> Iterator[list[Relay]]:
    """Ours in both its ways, and the plain ones."""
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
    """A plain proxy in a process of its own."""
    with child(_proxy, out, curve) as connection:
        pid, into, bound, server_key = receive(connection)
        keys = Keys(server_key, *Keys.pair()) if curve else None
        local = bound.startswith("ipc:")
        yield Relay(name, pid, Side(into, keys), Side(bound, None if local else keys))


def _proxy(connection: Connection, out: str, curve: bool) -> None:
    """Until it is killed."""
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
    """What the rounds of this are called."""
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
    """Medians."""

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
        """Of ours and of the plain proxy, round by round, to one subscriber."""
        return list(zip(found[key(OURS, 1, what)], found[key(PLAIN, 1, what)], strict=True))

    ratio = statistics.median(mine / plain for mine, plain in rounds_of("full speed, deliveries/s"))
    added = statistics.median(mine - plain for mine, plain in rounds_of("steady, latency us"))
    return Report(
        name="relay",
        title=f"The broker's relay and plain zmq.proxy, messages of {SIZE} bytes",
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
            Check(f"{OURS}: full speed beside {PLAIN}", ratio, RATIO, "x", at_least=True),
            Check(f"{OURS}: latency beyond {PLAIN}", added, ADDED, "us"),
        ),
        rounds=found,
    )
