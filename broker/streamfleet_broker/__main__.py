"""`streamfleet-broker`: options, logging, signals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamfleet_broker.check import check
from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BrokerError
from streamfleet_broker.program import log_as
from streamfleet_broker.server import open_broker

logger = logging.getLogger("streamfleet_broker")

PREFIX = "STREAMFLEET_"
NAME = "sf-broker"


def main() -> None:
    """Run a broker until SIGTERM or SIGINT, or ask the one that runs."""
    log_as("broker")
    arguments = vars(parse(sys.argv[1:], os.environ))
    checking = arguments.pop("check", False)
    try:
        config = BrokerConfig(**arguments)
        if checking:
            print(f"{check(config).devices_ready} devices are ready")
            return
        _prepare_process()
        asyncio.run(_serve(config))
    except BrokerError as exc:
        logger.error("%s", exc)
        sys.exit(1)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The fields of the configuration. Raises: SystemExit with a text that names the option."""
    parser = argparse.ArgumentParser(
        prog="streamfleet-broker",
        description="Knows what a fleet must run, and tells its devices.",
        epilog=f"Each option may also come from the environment, --devices-port as {PREFIX}DEVICES_PORT.",
    )

    def given(name: str, default: str | None = None) -> str | None:
        return environment.get(PREFIX + name, default)

    folder = given("DATA_DIR")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=folder,
        required=folder is None,
        help="its store, keys and unix sockets",
    )
    parser.add_argument("--host", default=given("HOST", "127.0.0.1"), help="the address to listen on")
    for option, default, text in (
        ("devices-port", "7771", "devices' ROUTER"),
        (
            "operators-port",
            None,
            "operators' ROUTER; operators.ipc in the data directory when it is not given",
        ),
        ("relay-in-port", "7773", "predictions from devices"),
        ("relay-out-port", "7774", "predictions to subscribers"),
        ("pictures-in-port", "7775", "pictures from devices"),
        ("pictures-out-port", "7776", "pictures to subscribers"),
        ("api-port", "8080", "where the api of this host listens, for devices that fetch models"),
    ):
        value = given(option.upper().replace("-", "_"), default)
        parser.add_argument(f"--{option}", type=_port, default=value, help=text)
    hosts = given("ADVERTISE")
    parser.add_argument(
        "--advertise",
        action="append",
        metavar="HOST",
        help="how other hosts reach this one; may come several times (in the environment: with commas)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        default=argparse.SUPPRESS,  # no part of the configuration
        help="ask the broker that runs on this data directory, and exit with 0 if it answers",
    )
    found = parser.parse_args(arguments)
    found.advertise = tuple(found.advertise or (hosts.split(",") if hosts else ()))
    return found


def _port(text: str) -> int:
    """0 is any port that is free."""
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(text)
    return port


def _prepare_process() -> None:
    """A name for `ps`, private files, no core dump with keys in it, and room for many connections."""
    Path("/proc/self/comm").write_text(NAME)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        serving = asyncio.create_task(broker.run(), name="broker")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.cancel)
        logger.info(
            "ready: devices on %s, operators on %s, relay from %s to %s, epoch %d",
            broker.endpoints.devices,
            broker.endpoints.operators,
            broker.endpoints.relay_in,
            broker.endpoints.relay_out,
            broker.fleet.epoch,
        )
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    logger.info("stopped")


if __name__ == "__main__":
    main()
