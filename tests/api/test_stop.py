"""The api ends whenever it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.api.conftest import environment
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

# An api that is told to stop when it is about to serve.
PROGRAM = """
import asyncio, os, signal, sys
from streamfleet_api import main
from streamfleet_api.config import parse

class Server(main._Server):
    async def serve(self, sockets=None):
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
        await super().serve(sockets)

main._Server = Server
config = parse(["--data-dir", sys.argv[2], "--port", "0", "--manager-port", "0"], {})
with main.listen(config.host, config.port) as listener:
    asyncio.run(main.serve(config, "x" * 16, listener))
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_an_api_that_is_told_to_stop_before_it_serves_ends(number: str) -> None:
    with short_folder() as folder:
        command = [sys.executable, "-c", PROGRAM, number, str(folder)]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
