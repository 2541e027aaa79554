"""The program `streamfleet-broker`: options, logging, signals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamfleet_broker.candidate import Candidate, open_candidate
from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BadConfig, BrokerError
from streamfleet_broker.fleet.state import HEARTBEAT, LEASE
from streamfleet_broker.healthcheck import check as ask
from streamfleet_broker.server import Broker, open_broker
from streamfleet_broker.storage import backup as archives
from streamfleet_broker.storage import recovery
from streamfleet_broker.storage.store import POSTGRESQL, SQLITE, is_postgresql
from streamfleet_broker.storage.transfer import copy_store
from streamfleet_core.protocol.limits import MAX_PORT
from streamfleet_core.runtime.file_descriptors import DescriptorWatch, raise_limit
from streamfleet_core.runtime.process import forbid_core_dumps, make_files_private, name_process
from streamfleet_core.runtime.startup import log_as

logger = logging.getLogger("streamfleet_broker")

PREFIX = "STREAMFLEET_"
_TASKS = ("check", "backup", "restore", "replace", "accept_loss", "copy_from")
NAME = "sf-broker"


def main() -> None:
    """Run a broker until SIGTERM or SIGINT, or perform a single task."""
    log_as("broker")
    arguments = vars(parse(sys.argv[1:], os.environ))
    task = {name: arguments.pop(name) for name in _TASKS if name in arguments}
    _prepare_process()
    try:
        config = BrokerConfig(**arguments)
        if task:
            print(perform(config, **task))
            return
        asyncio.run(_serve(config))
    except (BrokerError, OSError) as exc:
        logger.error("%s", exc)
        sys.exit(1)


def perform(
    config: BrokerConfig,
    *,
    check: bool = False,
    backup: Path | None = None,
    restore: Path | None = None,
    replace: bool = False,
    accept_loss: bool = False,
    copy_from: str | None = None,
) -> str:
    """Perform one task on a data directory, and return a message. Raises: BrokerError, OSError."""
    folder = config.data_dir
    if check:
        return ask(config)
    if copy_from is not None:
        if is_postgresql(copy_from) == is_postgresql(config.store):
            raise BadConfig(
                "--copy-from", f"expected {SQLITE} or {POSTGRESQL[0]}…, and the other one as --store"
            )
        return f"copied {copy_store(copy_from, config.store, folder)} rows; start no broker on the old store"
    if is_postgresql(config.store):
        raise BadConfig("--store", "back up and restore the database with the tools of PostgreSQL")
    if backup is not None:
        mark = archives.back_up(folder, backup).mark
        return f"{mark.rows} rows of version {mark.version} are in {backup}"
    if restore is not None:
        return f"restored {archives.restore(restore, folder, replace=replace)}"
    if accept_loss:
        return f"goes on with {recovery.accept_loss(folder)}"
    raise BadConfig("--replace", "expected with --restore")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """Parse the fields of the configuration. Raises: SystemExit with a text that names the option."""
    parser = argparse.ArgumentParser(
        prog="streamfleet-broker",
        description="Stores the desired state of a fleet and assigns pipelines to devices.",
        epilog=f"Each option can also be set in the environment, --devices-port as {PREFIX}DEVICES_PORT.",
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
    parser.add_argument(
        "--store",
        default=given("STORE", SQLITE),
        metavar="URL",
        help=f"what stores the fleet: {SQLITE} for a file in the data directory, or"
        f" {POSTGRESQL[0]}USER@HOST/DATABASE for several brokers of which one leads",
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
        ("pictures-in-port", "7775", "previews from devices"),
        ("pictures-out-port", "7776", "previews to subscribers"),
        ("api-port", "8080", "where the api of this host listens, for devices that fetch models"),
    ):
        value = given(option.upper().replace("-", "_"), default)
        parser.add_argument(f"--{option}", type=_port, default=value, help=text)
    for option, default, text in (
        ("device-messages", "6000", "messages/s that a device may publish; the rest is dropped"),
        ("device-bytes", str(64 * 1024**2), "bytes/s that a device may publish; the rest is dropped"),
        (
            "spare",
            "0",
            "1: keep room for the pipelines of any one device, should it be lost",
        ),
    ):
        value = given(option.upper().replace("-", "_"), default)
        parser.add_argument(f"--{option}", type=int, default=value, metavar="NUMBER", help=text)
    for option, seconds, text in (
        ("heartbeat", HEARTBEAT, "seconds between two reports of each device"),
        ("lease", LEASE, "seconds of silence after which a device is lost, and its pipelines move"),
    ):
        value = given(option.upper(), str(seconds))
        parser.add_argument(f"--{option}", type=float, default=value, metavar="SECONDS", help=text)
    parser.add_argument(
        "--displace-after",
        type=_seconds_or_never,
        default=given("DISPLACE_AFTER", "5"),
        metavar="SECONDS",
        help="after which a pipeline that fits nowhere displaces some of lower priorities, or never",
    )
    parser.add_argument(
        "--api-fingerprint",
        type=Path,
        default=given("API_FINGERPRINT"),
        metavar="FILE",
        help="`fingerprint` of the api's data directory, when it has a certificate",
    )
    hosts = given("ADVERTISE")
    parser.add_argument(
        "--advertise",
        action="append",
        metavar="HOST",
        help="how other hosts reach this one; can be repeated (in the environment: separated by commas)",
    )
    # Single tasks on a data directory, which are not part of the configuration.
    tasks = parser.add_mutually_exclusive_group()
    for option, text in (
        ("check", "health check: query the broker on this data directory, and exit with 0 if it answers"),
        ("accept-loss", "continue with what is left of a damaged store, and create missing keys"),
    ):
        tasks.add_argument(f"--{option}", action="store_true", default=argparse.SUPPRESS, help=text)
    for option, text in (
        ("backup", "write store and keys to a new file, even while a broker runs"),
        ("restore", "restore a backup into this data directory, while no broker runs"),
    ):
        tasks.add_argument(f"--{option}", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=text)
    tasks.add_argument(
        "--copy-from",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="copy the fleet of this store into an empty --store, while no broker runs",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        default=argparse.SUPPRESS,
        help="with --restore: move existing files into a folder beside it",
    )
    found = parser.parse_args(arguments)
    found.advertise = tuple(found.advertise or (hosts.split(",") if hosts else ()))
    return found


def _seconds_or_never(text: str) -> float | None:
    """Parse a number of seconds. Raises: ValueError."""
    return None if text == "never" else float(text)


def _port(text: str) -> int:
    """Parse a port. 0 means any free port."""
    port = int(text)
    if not 0 <= port <= MAX_PORT:
        raise ValueError(text)
    return port


def _prepare_process() -> None:
    """Set the process name, private files, no core dumps (they hold keys), and a high descriptor limit."""
    name_process(NAME)
    make_files_private()
    forbid_core_dumps()
    raise_limit()


def _opened(config: BrokerConfig) -> contextlib.AbstractAsyncContextManager[Broker | Candidate]:
    """The broker that the configuration asks for."""
    return open_candidate(config) if is_postgresql(config.store) else open_broker(config)


async def _serve(config: BrokerConfig) -> None:
    async with _opened(config) as broker:
        gc.freeze()  # the rows and the imported objects stay: collections need not traverse them
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
            broker.epoch,
        )
        watching = asyncio.create_task(DescriptorWatch().run(), name="descriptors")
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        watching.cancel()
    logger.info("stopped")


if __name__ == "__main__":
    main()
