"""Samples leave the device once, one at a time, and only when the api has them on its disk."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from streamfleet_core.datasets.picked_sample import PICKED, Picked
from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.requests import ListDevices
from streamfleet_worker.agent import sample_uploader
from streamfleet_worker.agent.blob_cache import Source
from streamfleet_worker.agent.sample_uploader import CHECK_INTERVAL, Uploader
from tests.fakes import web
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Worker, wait_for
from tests.fakes.ports_and_folders import free_port
from tests.fakes.samples import path_of, picked


@dataclass
class Api:
    """Takes samples as the real one does, and can fail in the ways of networks."""

    port: int
    ticket: str = "ticket"  # that it lets in; "": whichever
    kept: dict[str, Picked] = field(default_factory=dict)  # by path
    came: list[str] = field(default_factory=list)  # paths, however they were answered
    statuses: list[int] = field(default_factory=list)  # to answer with, first
    mute: int = 0  # answers that get lost on their way
    under_way: int = 0
    most: int = 0  # that were under way at the same time

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, content: bytes) -> int:
        """The status of the answer; 0: none comes."""
        self.came.append(path)
        if self.statuses:
            return self.statuses.pop(0)
        is_new = path not in self.kept
        self.kept[path] = Picked.decode(content)
        if self.mute:
            self.mute -= 1
            return 0
        return 201 if is_new else 200


@contextmanager
def serving(api: Api) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            api.under_way += 1
            api.most = max(api.most, api.under_way)
            status = self.status()
            api.under_way -= 1  # before the answer, behind which the next one may come at once
            if status:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def status(self) -> int:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if api.ticket and self.headers["Authorization"] != f"Bearer {api.ticket}":
                return 401
            if self.headers["Content-Type"] != PICKED:
                return 415
            return api.take(self.path, content)

        def log_message(self, *_: object) -> None:
            pass

    with web.serving(Handler, api.port):
        yield


@pytest.fixture
def api() -> Api:
    """Not yet there."""
    return Api(free_port())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "samples")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_uploader, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(sample_uploader, "BACKOFF_FIRST", 0.4)


@pytest.fixture
async def uploader(spool: Spool, _quick: None) -> AsyncIterator[Uploader]:
    uploader = Uploader(spool, lambda: 0.0)  # its back-off is half of the longest
    yield uploader
    await uploader.close()


async def until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


def names(spool: Spool) -> list[str]:
    return [entry.name for entry in spool.entries()]


async def test_samples_are_sent_oldest_first_and_one_at_a_time(
    api: Api, spool: Spool, uploader: Uploader
) -> None:
    items = [picked(number) for number in range(8)]
    for item in reversed(items):
        spool.put(item.sample, item.image)

    with serving(api):
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        await until(lambda: not spool.entries())

    assert api.came == [path_of(item) for item in items]
    assert [api.kept[path_of(item)] for item in items] == items
    assert api.most == 1


async def test_what_is_picked_while_it_looks_is_sent_too(api: Api, spool: Spool, uploader: Uploader) -> None:
    with serving(api):
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        for number in (1, 2):
            item = picked(number)
            spool.put(item.sample, item.image)
            await until(lambda item=item: path_of(item) in api.kept)  # type: ignore[misc]
        await until(lambda: not spool.entries())


async def test_a_sample_whose_answer_was_lost_is_sent_again_and_is_there_once(
    api: Api, spool: Spool, uploader: Uploader
) -> None:
    item = picked()
    spool.put(item.sample, item.image)
    api.mute = 1

    with serving(api):
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        await until(lambda: not spool.entries())

    assert api.came == [path_of(item)] * 2
    assert api.kept == {path_of(item): item}


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503, 507])
async def test_what_was_not_taken_stays_and_is_sent_again(
    api: Api, spool: Spool, uploader: Uploader, status: int
) -> None:
    item = picked()
    spool.put(item.sample, item.image)
    api.statuses = [status]

    with serving(api):
        began = time.monotonic()
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        await until(lambda: api.came)
        assert names(spool) == [item.sample.name]
        await until(lambda: not spool.entries())

    assert time.monotonic() - began >= sample_uploader.BACKOFF_FIRST / 2
    assert list(api.kept.values()) == [item]


async def test_an_api_that_comes_later_gets_all(api: Api, spool: Spool, uploader: Uploader) -> None:
    for number in range(3):
        item = picked(number)
        spool.put(item.sample, item.image)
    uploader.use(Source(api.url, "ticket"))
    uploader.start()
    await asyncio.sleep(0.1)
    assert len(spool.entries()) == 3

    with serving(api):
        await until(lambda: not spool.entries())

    assert len(api.kept) == 3


async def test_a_new_session_is_used_at_once(api: Api, spool: Spool, uploader: Uploader) -> None:
    item = picked()
    spool.put(item.sample, item.image)
    with serving(api):
        uploader.use(Source(api.url, "an old ticket"))
        uploader.start()
        uploader._backoff.failures = 10  # a minute until it would try again
        await asyncio.sleep(0.2)
        assert api.kept == {}

        uploader.use(Source(api.url, "ticket"))
        await until(lambda: not spool.entries(), timeout=20)


@pytest.mark.parametrize("status", [403, 409, 413, 422])
async def test_what_the_api_will_never_take_keeps_nobody_waiting(
    api: Api, spool: Spool, uploader: Uploader, status: int
) -> None:
    refused, other = picked(1), picked(2)
    for item in (refused, other):
        spool.put(item.sample, item.image)
    api.statuses = [status]

    with serving(api):
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        await until(lambda: names(spool) == [refused.sample.name])
        await asyncio.sleep(5 * sample_uploader.CHECK_INTERVAL)

    assert api.came == [path_of(refused), path_of(other)]
    assert names(spool) == [refused.sample.name]


async def test_what_a_cut_of_power_cut_short_is_thrown_away(
    api: Api, spool: Spool, uploader: Uploader
) -> None:
    short, whole = picked(1), picked(2)
    for item in (short, whole):
        spool.put(item.sample, item.image)
    spool.image_path("parts", short.sample.name).write_bytes(b"\xff\xd8\xff")

    with serving(api):
        uploader.use(Source(api.url, "ticket"))
        uploader.start()
        await until(lambda: not spool.entries())

    assert list(api.kept.values()) == [whole]


async def test_nothing_is_sent_before_it_is_known_where_to(spool: Spool, uploader: Uploader) -> None:
    item = picked()
    spool.put(item.sample, item.image)

    uploader.start()
    await asyncio.sleep(0.1)

    assert names(spool) == [item.sample.name]


# the agent ------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(folder: Path, api: Api) -> Iterator[Broker]:
    """A broker that tells devices where the api is."""
    broker = Broker(folder)
    broker.command.append(f"--api-port={api.port}")
    broker.start()
    broker.ask(ListDevices())
    yield broker
    broker.close()


@contextmanager
def device(folder: Path, broker: Broker, *options: str) -> Iterator[Worker]:
    """One with a sample, until it is ready."""
    worker = Worker(folder, "w", "--join", broker.token("edge-1"), *options)
    Spool(worker.data / "samples").put(picked().sample, picked().image)
    worker.start()
    try:
        wait_for(lambda: broker.device("edge-1").state == "ready", "the device is ready")
        yield worker
    finally:
        worker.kill()


def test_an_agent_sends_its_samples_with_the_ticket_of_its_session(
    folder: Path, broker: Broker, api: Api
) -> None:
    api.ticket = ""
    with serving(api), device(folder, broker) as worker:
        wait_for(lambda: not Spool(worker.data / "samples").entries(), "an empty spool")

    assert list(api.kept.values()) == [picked()]
    assert "Traceback" not in worker.log.read_text()


def test_on_a_device_that_keeps_its_samples_they_stay(folder: Path, broker: Broker, api: Api) -> None:
    api.ticket = ""
    with serving(api), device(folder, broker, "--samples-upload", "false") as worker:
        time.sleep(2 * CHECK_INTERVAL)

        assert len(Spool(worker.data / "samples").entries()) == 1
    assert api.came == []


def test_an_agent_stops_in_time_with_a_sample_under_way(folder: Path, broker: Broker, api: Api) -> None:
    with socket.create_server(("127.0.0.1", api.port)) as silent, device(folder, broker) as worker:
        silent.settimeout(PATIENCE)
        connection, _ = silent.accept()  # and never an answer

        worker.send(signal.SIGTERM)

        assert worker.wait(20) == 0  # the answer might take thirty seconds
        connection.close()
        assert len(Spool(worker.data / "samples").entries()) == 1
