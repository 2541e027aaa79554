"""The configuration of a broker."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import ifaddr

from streamfleet_broker.errors import BadConfig
from streamfleet_broker.fleet.state import HEARTBEAT, LEASE
from streamfleet_broker.storage.store import POSTGRESQL, SQLITE, is_postgresql
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.runtime.socket_path import problem_with

MAX_RATE = 10**12  # a second: no device reaches it
MAX_SPARE = 1  # devices: the number of pairs to look at would be the square of theirs
# Seconds. Agents look at the time ten times a second, and each restart of a broker takes one or two.
MIN_HEARTBEAT, MAX_HEARTBEAT = 0.2, 60
MIN_LEASE, MAX_LEASE = 2, 3600
# A device is suspect after three heartbeats, and stops itself after four fifths of the lease.
HEARTBEATS_OF_LEASE = 5
MAX_DISPLACE_AFTER = 86_400  # seconds
WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 (nothing is bound here)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The configuration. Port 0 means any free port. Raises: BadConfig, naming the option."""

    data_dir: Path
    store: str = SQLITE  # the URL of what stores the fleet
    host: str = "127.0.0.1"
    devices_port: int = 7771
    operators_port: int | None = None  # None: operators.ipc in the data directory
    relay_in_port: int = 7773
    relay_out_port: int = 7774
    pictures_in_port: int = 7775
    pictures_out_port: int = 7776
    advertise: tuple[str, ...] = ()  # hosts; empty: `host`, or the addresses of this machine
    device_messages: int = 6000  # a second, of one device at the relay: three times 64 cameras at 30 frames/s
    device_bytes: int = 64 * 1024**2  # the same in bytes
    heartbeat: float = HEARTBEAT  # seconds between two reports of a device
    lease: float = LEASE  # seconds of silence after which a device is lost
    spare: int = 0  # devices that may be lost, so that their pipelines fit on the others: 0 or 1
    # Seconds after which a pipeline that fits nowhere displaces some of lower priorities. None: never.
    displace_after: float | None = 5.0
    api_port: int = 8080
    api_fingerprint: Path | None = None  # the file with the fingerprint of the api's certificate

    def __post_init__(self) -> None:
        if problem := problem_with(self.data_dir, self.predictions_path.name):
            raise BadConfig("--data-dir", f"{self.data_dir}: {problem}")
        if self.store != SQLITE and not is_postgresql(self.store):
            raise BadConfig(
                "--store", f"expected {SQLITE} or {POSTGRESQL[0]}…, got {self.store.partition(':')[0]!r}"
            )
        for option, given, least, most in (
            ("--device-messages", self.device_messages, 1, MAX_RATE),
            # Otherwise one message could exceed it.
            ("--device-bytes", self.device_bytes, MAX_DATA_FRAME, MAX_RATE),
            ("--heartbeat", self.heartbeat, MIN_HEARTBEAT, MAX_HEARTBEAT),
            ("--lease", self.lease, MIN_LEASE, MAX_LEASE),
            ("--spare", self.spare, 0, MAX_SPARE),
        ):
            if not least <= given <= most:
                raise BadConfig(option, f"expected {least} to {most}, got {given}")
        least = HEARTBEATS_OF_LEASE * self.heartbeat
        if self.lease < least:
            asked = f"{HEARTBEATS_OF_LEASE} times --heartbeat, {least:g}"
            raise BadConfig("--lease", f"expected at least {asked}, got {self.lease:g}")
        if self.displace_after is not None and not 0 <= self.displace_after <= MAX_DISPLACE_AFTER:
            expected = f"0 to {MAX_DISPLACE_AFTER} seconds, or never"
            raise BadConfig("--displace-after", f"expected {expected}, got {self.displace_after:g}")

    @property
    def operators_path(self) -> Path:
        """The unix socket of the operators' plane."""
        return self.data_dir / "operators.ipc"

    @property
    def predictions_path(self) -> Path:
        """The unix socket of the relay, for this host."""
        return self.data_dir / "predictions.ipc"

    @property
    def pictures_path(self) -> Path:
        """The same for previews."""
        return self.data_dir / "pictures.ipc"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts under which others reach this broker, the best first."""
        if self.advertise:
            return self.advertise
        return own_addresses() if self.host in WILDCARDS else (self.host,)


def own_addresses() -> tuple[str, ...]:
    """The IPv4 addresses of this machine, loopback last."""
    addresses = [
        ipaddress.IPv4Address(address.ip)
        for adapter in ifaddr.get_adapters()
        for address in adapter.ips
        if isinstance(address.ip, str)
    ]
    return tuple(str(address) for address in sorted(addresses, key=lambda address: address.is_loopback))
