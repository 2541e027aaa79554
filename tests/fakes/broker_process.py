"""A broker as its users run it, a process of its own: for what may kill one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streamfleet_broker.server import Endpoints
from tests.fakes.broker_clients import Site, Sockets, until
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports

_PORTS = ("devices", "relay_in", "relay_out", "pictures_in", "pictures_out")


@dataclass(frozen=True)
class BrokerProcess:
    """A process, and where it listens."""

    endpoints: Endpoints
    process: subprocess.Popen[bytes]

    @property
    def memory(self) -> int:
        """Its resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) // 1024

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@asynccontextmanager
async def running(folder: Path, *options: str) -> AsyncIterator[Site[BrokerProcess]]:
    """A broker process that ends with the block, and peers of it."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    command = [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(folder), *options]
    for name, port in ports.items():
        command += [f"--{name.replace('_', '-')}-port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    here = {name: f"ipc://{folder}/{name}.ipc" for name in ("operators", "predictions", "pictures")}
    there = {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}
    sockets = Sockets()

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return " ready: " in (folder / "log").read_text()

    try:
        await until(listens, "the broker's sockets")
        yield Site(BrokerProcess(Endpoints(**here, **there), process), folder, sockets)
    finally:
        sockets.close()
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
