"""Packets that are lost on their way to an address of this machine, by nftables. Only for root."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

from tests.fakes.patience import PATIENCE


def is_possible() -> bool:
    """Whether this process may add rules, and this kernel knows them."""
    if os.geteuid() or shutil.which("nft") is None:
        return False
    with PacketLoss("127.0.0.254") as loss:
        return loss.set(1)


class PacketLoss:
    """Loses some packets to and from an address. Use it in a `with` block."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._table = f"sf_loss_{os.getpid()}_{address.replace('.', '_')}"

    def __enter__(self) -> PacketLoss:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.set(0)

    def set(self, percent: int) -> bool:
        """Lose so many of a hundred packets from now on. False: this kernel does not know how."""
        _nft(f"delete table inet {self._table}")
        if not percent:
            return True
        drop = "drop" if percent == 100 else f"numgen random mod 100 < {percent} drop"
        rules = [
            f"add table inet {self._table}",
            f"add chain inet {self._table} input {{ type filter hook input priority 0; }}",
            f"add rule inet {self._table} input ip daddr {self._address} {drop}",
            f"add rule inet {self._table} input ip saddr {self._address} {drop}",
        ]
        return _nft("; ".join(rules))


def _nft(commands: str) -> bool:
    done = subprocess.run(["nft", commands], capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode == 0
