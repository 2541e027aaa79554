"""What `streamfleet up` is told, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound here)

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `streamfleet up`. A port of 0 is any that is free; for the Stream Manager it is none."""

    data_dir: Path
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8080
    manager_port: int = 7070
    devices_port: int = 7771
    relay_in_port: int = 7773
    relay_out_port: int = 7774
    pictures_in_port: int = 7775
    pictures_out_port: int = 7776
    advertise: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    demo: bool = False

    @property
    def ports(self) -> dict[str, int]:
        """Option → port, of all on which the fleet listens."""
        return {**self.api_ports, **self.broker_ports}

    @property
    def api_ports(self) -> dict[str, int]:
        """The same, of all on which the api listens."""
        manager = {"--manager-port": self.manager_port} if self.manager_port else {}
        return {"--port": self.port, **manager}

    @property
    def broker_ports(self) -> dict[str, int]:
        """The same, of all on which the broker listens."""
        return {
            "--devices-port": self.devices_port,
            "--relay-in-port": self.relay_in_port,
            "--relay-out-port": self.relay_out_port,
            "--pictures-in-port": self.pictures_in_port,
            "--pictures-out-port": self.pictures_out_port,
        }

    @property
    def url(self) -> str:
        """Where the api is reached from this machine."""
        return self.url_at(_LOOPBACK.get(self.host, self.host))

    @property
    def broker_endpoint(self) -> str:
        """Where the broker is reached from this machine."""
        return f"tcp://{_bracketed(_LOOPBACK.get(self.host, self.host))}:{self.devices_port}"

    @property
    def is_private(self) -> bool:
        """Does nobody reach it from another machine?"""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def is_everywhere(self) -> bool:
        """Does it listen on all addresses of this machine?"""
        return self.host in _LOOPBACK

    @property
    def broker_dir(self) -> Path:
        """The broker's data directory."""
        return self.data_dir / "broker"

    @property
    def api_dir(self) -> Path:
        """The api's data directory."""
        return self.data_dir / "api"

    def worker_dir(self, device: str) -> Path:
        """A local worker's data directory."""
        return self.data_dir / "workers" / device

    def url_at(self, host: str) -> str:
        """Where the api is reached under one of our addresses."""
        return f"http://{_bracketed(host)}:{self.port}"


def workers_for(joined: Iterable[str], *, at_least: int) -> int:
    """How many workers it takes that all local devices which joined before are there again."""
    numbers = [int(found[1]) for name in joined if (found := re.fullmatch(r"local-([1-9]\d?)", name))]
    return min(max(at_least, *numbers), MAX_WORKERS) if numbers else at_least


def joined_before(data_dir: Path) -> list[str]:
    """The local devices that have an identity in this data directory."""
    return [path.parent.name for path in data_dir.glob("workers/*/identity.json")]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
