"""What a device may publish to a real api: it goes on answering, and shows what true devices say."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from click.testing import CliRunner

from streamfleet_api.cli.main import cli
from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.limits import MAX_DATA_BODY, MAX_DATA_FRAME, MAX_SOURCES, MAX_STAT_BODY
from streamfleet_core.protocol.requests import FleetEvent
from streamfleet_core.protocol.status import StatusReport, StatusUpdate
from streamfleet_core.protocol.values import ModelRef, to_plain
from tests.api.conftest import Api, Command, until
from tests.api.roboflow.test_stream_management import told
from tests.fakes import stream_client
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.stream_client import websocket

DEAR = 1.0  # seconds of the processor for what comes between two questions: many times what it takes
ASKED = 30  # times, beside a flood
AT_ONCE = 10  # messages between two questions


def status(**changes: Any) -> bytes:
    """A status of the pipeline `bad`, with changes."""
    content: bytes = msgpack.packb({**to_plain(told("bad", 1.0)), **changes})
    return content


def cpu_time(api: Api) -> float:
    """Seconds of the processor that the api's process has taken."""
    fields = Path(f"/proc/{api.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def prediction(predictions: Any, **changes: Any) -> bytes:
    content: bytes = msgpack.packb(
        {"image": {}, "predictions": predictions, "inference_metadata": {"pipeline_id": "bad"}, **changes}
    )
    return content


def empty_maps(number: int) -> list[dict[str, int]]:
    return [{}] * number


SAID: dict[str, tuple[Kind, Callable[[], bytes]]] = {
    "1 MB of empty maps as a report": (
        Kind.STAT,
        lambda: status(report={"video_source_status_updates": empty_maps(1_000_000)}),
    ),
    "empty maps that have room": (
        Kind.STAT,
        lambda: status(report={"video_source_status_updates": empty_maps(MAX_STAT_BODY - 1000)}),
    ),
    "empty maps beside what is known": (Kind.STAT, lambda: status(more=empty_maps(MAX_STAT_BODY - 1000))),
    "the largest status that is one": (Kind.STAT, lambda: status(reason="x" * (MAX_STAT_BODY - 1000))),
    "1 MB of empty predictions": (Kind.PRED, lambda: prediction(empty_maps(MAX_DATA_BODY - 200))),
    "empty maps beside predictions": (
        Kind.PRED,
        lambda: prediction([], more=empty_maps(MAX_DATA_BODY - 200)),
    ),
    "the most predictions that may be": (
        Kind.PRED,
        lambda: prediction([{"class": "x" * 70, "x": 1.5, "y": 2.5}] * 9_500),
    ),
    "the most that travels": (Kind.PRED, lambda: bytes(MAX_DATA_BODY)),
}

TOLD = itertools.count(1)  # over all tests: the api shows no status that is older than what it has


@pytest.mark.parametrize("said", SAID)
def test_whatever_a_device_says_the_api_answers_and_shows_what_others_say(
    api: Api, http: httpx.Client, peer: Peer, said: str
) -> None:
    kind, body = SAID[said][0], SAID[said][1]()
    assert len(body) <= MAX_DATA_FRAME, "no relay lets it through"
    peer.pipelines |= {name: pipeline(name) for name in ("good", "bad")}
    numbers = itertools.count(1)
    before = cpu_time(api)

    with websocket(api, "/v2/predictions?pipeline=bad&pipeline=good", max_size=None) as subscription:
        peer.wait_for_followers("bad", "good")
        for asked in range(1, ASKED + 1):
            for number in itertools.islice(numbers, AT_ONCE):
                peer.send(
                    pipeline_topic(kind, "bad"),
                    DataHeader(kind=kind, gen=peer.generation, inc=0, seq=number),
                    body,
                )
            peer.predict("good", asked)
            assert http.get("/v2/pipelines/good").status_code == 200
        until(
            lambda: http.get("/status/good").json()["report"]["inference_throughput"] == 26.0,
            lambda: peer.tell(told("good", 26.0), seq=next(TOLD)),
        )
        anew = itertools.count(ASKED + 1)
        peer.predict("good", next(anew))
        while "good" not in str(stream_client.said(subscription)["data"].get("inference_metadata")):
            peer.predict("good", next(anew))

    assert (cpu_time(api) - before) / ASKED < DEAR
    assert api.log.read_text().count("relay: dropped") < 100


def test_a_body_as_long_as_may_be_cuts_nobody_off(http: httpx.Client, peer: Peer) -> None:
    """The api would lose all that others say until it is connected again."""
    peer.pipelines["good"] = pipeline("good")

    def shown() -> object:
        return http.get("/status/good").json()["report"]["inference_throughput"]

    # What other tests have sent may still fill the way to the api.
    until(lambda: shown() == 27.0, lambda: peer.tell(told("good", 27.0), seq=next(TOLD)))
    peer.send(
        pipeline_topic(Kind.STAT, "bad"),
        DataHeader(kind=Kind.STAT, gen=peer.generation, inc=0, seq=1),
        bytes(MAX_DATA_BODY),
    )
    peer.tell(told("good", 28.0), seq=next(TOLD))

    until(lambda: shown() == 28.0)


def test_a_status_that_says_that_it_is_anothers_is_not_shown(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines |= {name: pipeline(name) for name in ("good", "liar")}
    header = DataHeader(kind=Kind.STAT, gen=3, inc=0, seq=1)

    peer.publish(pipeline_topic(Kind.STAT, "liar"), header, to_plain(told("good", 1.0)))
    until(
        lambda: http.get("/status/good").json()["report"]["inference_throughput"] == 25.5,
        lambda: peer.tell(told("good", 25.5), seq=next(TOLD)),
    )

    assert http.get("/status/liar").json()["report"]["age"] is None


def test_pictures_of_sources_that_no_pipeline_has_are_not_kept(
    http: httpx.Client, peer: Peer, api: Api
) -> None:
    door = f"door-{peer.generation}"  # at which nobody looked in the last seconds
    peer.pipelines[door] = pipeline(door)
    before = api.log.read_text().count("dropped a preview")

    with http.stream("GET", f"/v2/pipelines/{door}/pictures") as response:
        peer.wait_for_looker(door)
        peer.picture(door, 1, b"\xff\xd8\xff", source=MAX_SOURCES)
        peer.picture(door, 2, b"\xff\xd8\xff")
        assert any(b"\xff\xd8\xff" in piece for piece in response.iter_raw())

    assert api.log.read_text().count("dropped a preview") <= before + 1


STEERS = "\x1b[2J\x1b]0;title\x07\u202e\nforged  running\x85\u2028\x9b31m"


@pytest.mark.parametrize(
    "arguments",
    [
        ["pipelines"],
        ["status", "steering"],
        ["pause", "steering"],
        ["set", "steering", "--max-fps", "5"],
        ["devices"],
        ["devices", "show", "edge-1"],
        ["events", "-n", "5"],
        ["models"],
    ],
    ids=" ".join,
)
def test_no_text_of_a_device_steers_the_terminal_that_shows_it(
    api: Api, peer: Peer, arguments: list[str]
) -> None:
    # No other test has its name: the api keeps its status.
    peer.pipelines["steering"] = pipeline("steering", reason=STEERS, status="reconnecting", restarts=1)
    peer.devices["edge-1"] = device("edge-1", agent=STEERS)
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    peer.events = [
        FleetEvent(
            n=1,
            at=1.5,
            subject="pipeline",
            id="steering",
            state="failed",
            previous="running",
            device="edge-1",
            reason=STEERS,
        )
    ]
    update: StatusUpdate = {
        "timestamp": STEERS,
        "severity": 40,
        "event_type": STEERS,
        "payload": {"error_message": STEERS},
    }
    stat = told("steering", 1.0)
    source = replace(stat.sources[0], reason=STEERS, state=STEERS, dropped={STEERS: 1})
    report: StatusReport = {**stat.report, "video_source_status_updates": [{**update, "context": STEERS}]}
    peer.tell(replace(stat, reason=STEERS, sources=(source,), dropped={STEERS: 2}, report=report), seq=1)

    done = CliRunner().invoke(cli, [*Command(api).options, *arguments])

    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert all(line.isprintable() for line in done.output.split("\n"))
    assert not any(line.startswith("forged") for line in done.output.split("\n"))
