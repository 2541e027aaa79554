"""Several brokers on one PostgreSQL: one leads, the others stand by and take over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq.asyncio

from streamfleet_api.broker_client import BrokerClient
from streamfleet_core.protocol.messages import Error, Message
from streamfleet_core.protocol.requests import (
    AddDevice,
    CreatePipeline,
    FleetView,
    GetFleet,
    ListPipelines,
    PipelineView,
    Token,
)
from tests.broker.test_main import SPEC, command, operator
from tests.fakes.broker_clients import Operator, Sockets
from tests.fakes.chaos_proxy import ChaosProxy
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fakes.postgresql import Cluster, running_cluster

WRITERS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@dataclass
class Candidate:
    """A broker process, and an operator that asks it."""

    folder: Path
    process: subprocess.Popen[bytes]
    asking: Operator

    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def devices(self) -> str:
        """Where devices connect."""
        return re.findall(r"devices on (\S+),", self.log())[-1]


class Several:
    """Brokers on one store."""

    def __init__(self, url: str, folder: Path, sockets: Sockets) -> None:
        self.url = url
        self._folder = folder
        self._sockets = sockets
        self.all: list[Candidate] = []

    def start(self, *, url: str | None = None, name: str | None = None, devices_port: str = "0") -> Candidate:
        """Start another one, or one again, with the keys of the first."""
        folder = self._folder / (name or f"b{len(self.all)}")
        if self.all and not folder.exists():
            shutil.copytree(self.all[0].folder / "keys", folder / "keys")
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command(folder, "--devices-port", devices_port),
                stderr=log,
                env={**os.environ, "STREAMFLEET_STORE": url or self.url},
            )
        candidate = Candidate(folder, process, operator(self._sockets, folder))
        self.all.append(candidate)
        return candidate

    def through(self, cluster: Cluster, port: int) -> str:
        """The URL of the store over TCP, through what listens on a port."""
        return cluster.url(self.url.partition("@/")[2].partition("?")[0], port=port)

    async def ready(self, candidate: Candidate) -> None:
        """Wait until one answers."""
        await self._until(lambda: "ready" in candidate.log(), candidate)

    async def leads(self, candidate: Candidate) -> FleetView:
        """Wait until one leads."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = await answer_of(candidate)
            if not isinstance(answer, Error):
                return await candidate.asking.get(GetFleet(), FleetView)
            assert answer.code == "not_leader"
            assert time.monotonic() < deadline, candidate.log()
            await asyncio.sleep(0.05)

    async def _until(self, condition: Callable[[], bool], candidate: Candidate) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert candidate.process.poll() is None, candidate.log()
            assert time.monotonic() < deadline, candidate.log()
            await asyncio.sleep(0.02)


@pytest.fixture
def folder() -> Iterator[Path]:
    """For a device: the paths of its sockets must be short."""
    with short_folder() as made:
        yield made


@pytest.fixture
async def several(cluster: Cluster) -> AsyncIterator[Several]:
    sockets = Sockets()
    with short_folder() as folder:
        found = Several(cluster.url(cluster.new_database()), folder, sockets)
        try:
            yield found
        finally:
            for each in found.all:
                each.process.kill()
                each.process.wait()
            sockets.close()


async def answer_of(candidate: Candidate) -> Message:
    return await candidate.asking.ask(GetFleet())


async def create(candidate: Candidate, name: str) -> None:
    await candidate.asking.get(CreatePipeline(pipeline_id=name, spec=SPEC), PipelineView)


async def names(candidate: Candidate) -> list[str]:
    views = await candidate.asking.get(ListPipelines(), tuple[PipelineView, ...])
    return [view.pipeline_id for view in views]


async def test_one_leads_and_the_others_say_who(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    second = several.start()
    await several.ready(second)

    answer = await answer_of(second)

    assert isinstance(answer, Error)
    assert answer.code == "not_leader"
    assert "this broker stands by: tcp://127.0.0.1:" in answer.message
    assert "leads in epoch 1" in answer.message


async def test_a_leader_that_ends_in_order_is_followed_at_once(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    await create(first, "door")
    second = several.start()
    await several.ready(second)

    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(PATIENCE) == 0

    assert (await several.leads(second)).epoch == 2
    assert await names(second) == ["door"]
    assert "Traceback" not in first.log() + second.log()


async def test_a_leader_that_is_killed_is_followed(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    await create(first, "door")
    second = several.start()
    await several.ready(second)

    first.process.kill()
    first.process.wait()

    await several.leads(second)
    await create(second, "gate")
    again = several.start(name="b0")
    await several.ready(again)
    assert isinstance(await answer_of(again), Error)
    assert await names(second) == ["door", "gate"]


async def test_a_leader_that_was_suspended_changes_nothing_and_steps_down(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    second = several.start()
    await several.ready(second)

    first.process.send_signal(signal.SIGSTOP)
    await several.leads(second)
    await create(second, "door")
    asked = asyncio.create_task(first.asking.ask(CreatePipeline(pipeline_id="late", spec=SPEC)))
    await asyncio.sleep(0)  # it waits in the socket of the old leader
    first.process.send_signal(signal.SIGCONT)

    answer = await asked
    assert isinstance(answer, Error)
    assert answer.code == "not_leader"
    assert await names(second) == ["door"]
    assert "no longer the leader" in first.log()


async def test_a_leader_that_is_cut_off_from_the_store_steps_down(several: Several, cluster: Cluster) -> None:
    with ChaosProxy(("127.0.0.1", cluster.port)) as proxy:
        first = several.start(url=several.through(cluster, proxy.port))
        await several.leads(first)
        second = several.start()
        await several.ready(second)

        proxy.weather.up = proxy.weather.down = False

        assert (await several.leads(second)).epoch == 2
        assert isinstance(await answer_of(first), Error)
        proxy.heal()
        with contextlib.suppress(AssertionError):
            await create(first, "late")
        assert await names(second) == []


@pytest.mark.parametrize("how", ["killed", "suspended", "cut off"])
async def test_every_answered_write_is_there_whatever_happens_to_the_leader(
    several: Several, cluster: Cluster, how: str
) -> None:
    context = zmq.asyncio.Context()
    with ChaosProxy(("127.0.0.1", cluster.port)) as proxy:
        first = several.start(url=several.through(cluster, proxy.port))
        await several.leads(first)
        second = several.start()
        await several.ready(second)
        client = BrokerClient(context, *(f"ipc://{each.folder}/operators.ipc" for each in (first, second)))
        await client.start()
        written = [0] * WRITERS

        async def write(writer: int) -> None:
            while True:
                asked = CreatePipeline(pipeline_id=f"w{writer}-{written[writer]}", spec=SPEC)
                await client.ask(asked, PipelineView, timeout=PATIENCE)
                written[writer] += 1

        async def wrote(more: int) -> None:
            """Wait until each writer has written so many more."""
            enough = [each + more for each in written]
            while any(each < least for each, least in zip(written, enough, strict=True)):
                done, _ = await asyncio.wait(writing, timeout=0.02)
                assert not done, [each.exception() for each in done]

        writing = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
        await wrote(5)
        if how == "killed":
            first.process.kill()
        elif how == "suspended":
            first.process.send_signal(signal.SIGSTOP)
        else:
            proxy.weather.up = proxy.weather.down = False
        await wrote(5)
        first.process.send_signal(signal.SIGCONT)
        proxy.heal()
        await wrote(5)
        for each in writing:
            each.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        stored = {view.pipeline_id for view in await client.pipelines(timeout=PATIENCE)}
        await client.close()
    context.term()

    answered = {f"w{writer}-{number}" for writer in range(WRITERS) for number in range(written[writer])}
    under_way = {f"w{writer}-{written[writer]}" for writer in range(WRITERS)}
    assert answered <= stored <= answered | under_way


async def test_a_broker_with_other_keys_is_refused(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    shutil.rmtree(first.folder / "keys")
    (first.folder / "keys").mkdir()

    second = several.start()

    assert second.process.wait(PATIENCE) == 1
    assert "keys/broker.key: expected a CURVE key pair" in second.log()


def test_what_a_url_is_not_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--store", "mysql://h/x"), capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "--store: expected sqlite: or postgresql://…, got 'mysql'" in done.stderr


async def test_a_broker_that_stands_by_is_healthy(several: Several) -> None:
    first = several.start()
    await several.leads(first)
    second = several.start()
    await several.ready(second)

    done = await asyncio.to_thread(
        subprocess.run, command(second.folder, "--check"), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "stands by" in done.stdout


async def test_a_device_follows_the_leader(several: Several, tmp_path: Path, folder: Path) -> None:
    first = several.start()
    await several.leads(first)
    second = several.start()
    await several.ready(second)
    token = (await first.asking.get(AddDevice("cam-1"), Token)).token
    options = ["--data-dir", str(folder / "w"), "--join", token, "--unsupervised"]
    for each in (second, first):
        options += ["--broker", each.devices]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.agent_process", *options], stderr=log, cwd=ROOT
        )
    try:
        await has_device(first, tmp_path / "log")
        first.process.kill()
        await several.leads(second)
        await has_device(second, tmp_path / "log")
        third = several.start(name="b0", devices_port=first.devices.rpartition(":")[2])
        await several.ready(third)
        second.process.send_signal(signal.SIGTERM)
        await several.leads(third)
        await has_device(third, tmp_path / "log")
    finally:
        worker.terminate()
        worker.wait(PATIENCE)
    assert "Traceback" not in (tmp_path / "log").read_text()


async def has_device(candidate: Candidate, worker_log: Path) -> None:
    """Wait until a device is ready."""
    deadline = time.monotonic() + PATIENCE
    while not (await candidate.asking.get(GetFleet(), FleetView)).devices_ready:
        assert time.monotonic() < deadline, candidate.log() + worker_log.read_text()
        await asyncio.sleep(0.05)
