"""The program `streamfleet-worker`: options, data directory, identity, and then the agent until a signal."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import fcntl
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from streamfleet_core.protocol.errors import BadToken, ProtocolError
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.runtime.file_descriptors import DescriptorWatch, raise_limit
from streamfleet_core.runtime.process import forbid_core_dumps, make_files_private, name_process
from streamfleet_core.runtime.small_file import read_small
from streamfleet_core.runtime.startup import log_as
from streamfleet_worker.agent.agent import Agent, Entries
from streamfleet_worker.agent.child_processes import end_fork_server
from streamfleet_worker.agent.identity import Identity, IdentityError, join, load
from streamfleet_worker.agent.paths import WorkerPaths
from streamfleet_worker.agent.state_db import StateError
from streamfleet_worker.config import ConfigError, WorkerConfig, parse
from streamfleet_worker.healthcheck import Unhealthy, check
from streamfleet_worker.sampling import command

logger = logging.getLogger(__name__)

HANG_TIMEOUT = 12.0  # seconds without a turn of the loop, after which we exit to be restarted
PORT_TIMEOUT = 3.0  # seconds for the port of a killed predecessor to become free


def run(entries: Entries | None = None, *, on_turn: Callable[[], None] = lambda: None) -> int:
    """Run the worker, and return the exit code.

    `entries`: replaces the entry points of children. `on_turn`: called about once a second while it is
    healthy.
    """
    if sys.argv[1:2] == ["samples"]:
        return command.run(sys.argv[2:], os.environ)
    name_process("sf-agent")
    make_files_private()
    forbid_core_dumps()
    raise_limit()
    log_as("agent")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = parse(sys.argv[1:], os.environ)
        os.environ.pop("STREAMFLEET_JOIN", None)  # children inherit the environment (S9)
        paths = WorkerPaths(config.data_dir)
        if config.check:
            print(f"{check(paths.predictions, paths.root).device} is ready")
            return 0
        paths.make()
        lock = _lock(paths.root)
        _use_temporary_folder(paths.temporary)
        # GStreamer lists its plug-ins in a file. Its usual place may be read-only, and then each start of a
        # decoder would load all of them.
        os.environ.setdefault("GST_REGISTRY", str(paths.root / "gstreamer.registry"))
        _check_port(config)
        asyncio.run(_run(config, paths, entries, on_turn))
    except (ConfigError, IdentityError, StateError, ProtocolError, Unhealthy, OSError) as exc:
        print(f"streamfleet-worker: {exc}", file=sys.stderr)
        return 1
    end_fork_server()
    os.close(lock)
    return 0


async def _run(
    config: WorkerConfig, paths: WorkerPaths, entries: Entries | None, on_turn: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    working = asyncio.current_task()
    assert working is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, working.cancel)
    try:
        identity = await _identify(config, paths)
    except asyncio.CancelledError:
        return
    if len(config.brokers) > 1:  # one of them leads; the token may name but one
        identity = identity.at(config.brokers)
    elif config.brokers:
        identity = identity.reached_at(config.brokers[0])

    def turn() -> None:
        _rearm_alarm()
        on_turn()

    agent = Agent(config, identity, rng=random.random, entries=entries, on_turn=turn)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    watching = asyncio.create_task(DescriptorWatch().run(), name="descriptors")
    try:
        await agent.run()
    finally:
        watching.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _identify(config: WorkerConfig, paths: WorkerPaths) -> Identity:
    token = _token(config)
    if token is not None:
        return await join(paths.identity, token)
    identity = load(paths.identity)
    if identity is None:
        raise IdentityError(
            f"{paths.root}: expected the identity of a device, got none: start once with --join TOKEN,"
            " from 'streamfleet devices add NAME'"
        )
    return identity


def _token(config: WorkerConfig) -> JoinToken | None:
    """The given token; None without one. Raises: BadToken, IdentityError, OSError."""
    if config.join:
        return JoinToken.decode(config.join)
    if config.join_file is None or not config.join_file.exists():
        return None
    text = read_small(config.join_file).decode("ascii", "replace")
    try:
        return JoinToken.decode(text) if text else None
    except BadToken as exc:
        raise IdentityError(f"--join-file {config.join_file}: {exc}") from exc


def _rearm_alarm() -> None:
    """Restart the alarm that ends a hanging process: a thread in C, which does not need Python's lock."""
    faulthandler.dump_traceback_later(HANG_TIMEOUT, exit=True)


def _lock(root: Path) -> int:
    """Lock the directory for one worker. Returns the descriptor of the lock. Raises: ConfigError."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise ConfigError(f"--data-dir {root}: another worker is running on it") from exc
    return descriptor


def _use_temporary_folder(folder: Path) -> None:
    """Use an empty folder for temporary files. A killed worker leaves the fork server's socket there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    tempfile.tempdir = str(folder)


def _check_port(config: WorkerConfig) -> None:
    """Check that the port is free. The publisher binds it, but here the user sees the error.

    Raises: ConfigError.
    """
    if config.publish_port is None:
        return
    host = "" if config.publish_host == "*" else config.publish_host
    deadline = time.monotonic() + PORT_TIMEOUT
    while (problem := _bind_error(host, config.publish_port)) is not None:
        if problem.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
            raise ConfigError(
                f"--publish-port {config.publish_port} on {config.publish_host}: {problem.strerror}"
            )
        time.sleep(0.1)


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        socket.create_server((host, port)).close()
    except OSError as exc:
        return exc
    return None
