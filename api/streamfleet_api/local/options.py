"""The options of `streamfleet up`, and what is derived from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound here)

MAX_WORKERS = 64

# Option → its environment variables; the first that is set counts: ours, then Roboflow's.
ENVIRONMENT = {
    "--host": ("STREAMFLEET_HOST", "STREAM_MANAGEMENT_API_HOST"),
    "--port": ("STREAMFLEET_PORT", "STREAM_MANAGEMENT_API_PORT"),
    "--manager-port": ("STREAMFLEET_MANAGER_PORT", "STREAM_MANAGER_PORT", "PORT"),
    "--devices-port": ("STREAMFLEET_DEVICES_PORT",),
    "--relay-in-port": ("STREAMFLEET_RELAY_IN_PORT",),
    "--relay-out-port": ("STREAMFLEET_RELAY_OUT_PORT",),
    "--pictures-in-port": ("STREAMFLEET_PICTURES_IN_PORT",),
    "--pictures-out-port": ("STREAMFLEET_PICTURES_OUT_PORT",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `streamfleet up`. Port 0 means any free port; for the Stream Manager it means none."""

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
    allowed_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    tls_cert: Path | None = None  # None: a self-signed one is made, unless `host` is loopback
    tls_key: Path | None = None
    insecure: bool = False
    demo: bool = False

    @property
    def ports(self) -> dict[str, int]:
        """Option → port, for all ports on which the fleet listens."""
        return {**self.api_ports, **self.broker_ports}

    @property
    def api_ports(self) -> dict[str, int]:
        """Option → port, for those of the api."""
        manager = {"--manager-port": self.manager_port} if self.manager_port else {}
        return {"--port": self.port, **manager}

    @property
    def broker_ports(self) -> dict[str, int]:
        """Option → port, for those of the broker."""
        return {
            "--devices-port": self.devices_port,
            "--relay-in-port": self.relay_in_port,
            "--relay-out-port": self.relay_out_port,
            "--pictures-in-port": self.pictures_in_port,
            "--pictures-out-port": self.pictures_out_port,
        }

    @property
    def url(self) -> str:
        """The URL of the api from this machine."""
        if self.is_private or self.is_everywhere:
            return f"http://{_bracketed(_LOOPBACK.get(self.host, self.host))}:{self.port}"
        return self.url_at(self.host)

    @property
    def broker_endpoint(self) -> str:
        """The endpoint of the broker from this machine."""
        return f"tcp://{_bracketed(_LOOPBACK.get(self.host, self.host))}:{self.devices_port}"

    @property
    def is_private(self) -> bool:
        """Whether it is reachable from this machine only."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens on all addresses of this machine."""
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
        """The URL of the api under one of our addresses."""
        return f"{'https' if self.has_tls else 'http'}://{_bracketed(host)}:{self.port}"

    @property
    def has_tls(self) -> bool:
        """Whether the api serves HTTPS."""
        return self.tls_cert is not None or not self.is_private

    @property
    def fingerprint_path(self) -> Path:
        """The file into which the api writes the fingerprint of its certificate."""
        return self.api_dir / "fingerprint"


def workers_for(joined: Iterable[str], *, at_least: int) -> int:
    """The number of workers to start, so that all local devices that joined before return."""
    numbers = [int(found[1]) for name in joined if (found := re.fullmatch(r"local-([1-9]\d?)", name))]
    return min(max(at_least, *numbers), MAX_WORKERS) if numbers else at_least


def joined_before(data_dir: Path) -> list[str]:
    """The local devices that have an identity in this data directory."""
    return [path.parent.name for path in data_dir.glob("workers/*/identity.json")]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
