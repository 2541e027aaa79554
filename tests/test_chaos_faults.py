"""What `make chaos` does to disks, networks and writes happens, and to nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.test_main import command
from tests.fakes.packet_loss import PacketLoss, is_possible
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder

ADDRESS = "127.0.0.253"
QUERY = "import sqlite3; sqlite3.connect(':memory:').execute('SELECT 1')"


def environment(file: Path) -> dict[str, str]:
    """That of a program with failpoints."""
    folder = str(ROOT / "tests/fakes/failpoints")
    return {**os.environ, "PYTHONPATH": folder, "STREAMFLEET_TEST_FAILPOINTS": str(file)}


def test_a_broker_ends_at_a_step_of_its_writes_and_other_programs_do_not(tmp_path: Path) -> None:
    points = tmp_path / "points"
    points.write_text("1")

    with short_folder() as folder:
        broker = subprocess.run(
            command(folder), env=environment(points), capture_output=True, timeout=PATIENCE, check=False
        )
    other = subprocess.run(
        [sys.executable, "-c", QUERY], env=environment(points), timeout=PATIENCE, check=False
    )

    assert broker.returncode == -signal.SIGKILL
    assert other.returncode == 0


@pytest.mark.skipif(not is_possible(), reason="packets are lost by nftables, which only root may use")
def test_all_packets_to_an_address_are_lost_and_later_none() -> None:
    with socket.create_server((ADDRESS, 0)) as listener, PacketLoss(ADDRESS) as loss:
        loss.set(100)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.3)

        loss.set(0)

        socket.create_connection(listener.getsockname(), timeout=PATIENCE).close()
