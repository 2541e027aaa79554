"""What `streamfleet-api` does: options, token, sockets, and then the server until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
import uvloop
import zmq.asyncio
from starlette.types import ASGIApp

from streamfleet_api.app import Services, create_app
from streamfleet_api.auth import load_token
from streamfleet_api.config import BadConfig, Config, parse
from streamfleet_api.http_protocol import BoundedHttp
from streamfleet_api.process import forbid_core_dumps, name_process
from streamfleet_broker.program import log_as
from streamfleet_broker.protocol.keyfile import KeyExposed

logger = logging.getLogger("streamfleet_api")

_MAX_SAID = 4096  # bytes that a client of a WebSocket may say: it has nothing to say
_UNTAKEN = 60  # seconds for which sent bytes may stay with us
_PING = 20.0  # seconds between two signs of life of a WebSocket
_STOP = 1  # seconds that requests under way have when the process is told to stop


def run() -> int:
    """Run until SIGTERM or SIGINT. The exit code."""
    log_as("api")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        config = parse(sys.argv[1:], os.environ)
        name_process("sf-api")
        forbid_core_dumps()
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        token, is_new = load_token(config.token_path)
        listener = listen(config.host, config.port)
        manager_listener = listen_for_manager(config)
    except (BadConfig, KeyExposed, OSError) as exc:
        print(f"streamfleet-api: {exc}", file=sys.stderr)
        return 1
    if is_new:
        announce(config, token)
    with listener, manager_listener or contextlib.nullcontext():
        uvloop.run(serve(config, token, listener, manager_listener))
    return 0


def announce(config: Config, token: str) -> None:
    """Show a new token once, where a person sees it and no log keeps it."""
    if sys.stderr.isatty():
        print(f"operator token (shown once, kept in {config.token_path}): {token}", file=sys.stderr)
    else:
        logger.info("made the operator token, %s", config.token_path)


def listen_for_manager(config: Config) -> socket.socket | None:
    """The socket of the Stream Manager, if it shall have one. Raises: BadConfig that names the option."""
    if config.manager_port == 0:
        return None
    host = config.host
    if config.manager_host is not None and is_here(config.manager_host):
        host = config.manager_host
    elif config.manager_host is not None:
        logger.warning("STREAM_MANAGER_HOST=%s is no address of this machine: ignored", config.manager_host)
    return listen(host, config.manager_port, "--manager-port")


def is_here(host: str) -> bool:
    """Can one listen on this address? A name, which in the original's setups is another host's, is none."""
    if host == "localhost":
        return True
    try:
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises: BadConfig that names the option."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise BadConfig(f"--host {host}: {exc}") from exc
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _lose_the_dead(listener)
    try:
        listener.bind(address)
    except OSError as exc:
        listener.close()
        text = f"is it in use? choose another with {option}" if exc.errno == 98 else "choose another --host"
        raise BadConfig(f"cannot listen on {host}, {option} {port} ({exc.strerror}): {text}") from exc
    return listener


def _lose_the_dead(listener: socket.socket) -> None:
    """Let the kernel drop whoever takes nothing or is not there any more: every connection inherits this."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (
        (socket.TCP_KEEPIDLE, 20),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _UNTAKEN * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, seconds)


async def serve(
    config: Config, token: str, listener: socket.socket, manager_listener: socket.socket | None = None
) -> None:
    """Answer until told to stop."""
    context = zmq.asyncio.Context()
    services = Services.make(config, context)
    app = create_app(config, services, token=token, manager_listener=manager_listener)
    server = _Server(app, services)
    gc.freeze()  # what was imported stays: no collection needs to walk through it while somebody waits
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", host, port)
    try:
        await server.serve(sockets=[listener])
    finally:
        context.destroy(linger=0)


class _Server(uvicorn.Server):
    """A server that lets endless answers end when it is told to stop, and then leaves with success."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedHttp,
                ws="websockets-sansio",
                ws_max_size=_MAX_SAID,
                ws_per_message_deflate=False,
                ws_ping_interval=_PING,
                ws_ping_timeout=_PING,
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # who asks is who connects: no header may say otherwise
                server_header=False,
                timeout_graceful_shutdown=_STOP,
            )
        )
        self._services = services
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises them again when all is closed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._services.audience.end)
        super().handle_exit(sig, frame)
