"""The program `streamfleet-api`: options, token, sockets, and the server until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import ipaddress
import itertools
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
from streamfleet_api.config import INSECURE, BadConfig, Config, parse
from streamfleet_api.storage.jpeg import limit_memory
from streamfleet_api.web.access_policy import Network, is_trusted
from streamfleet_api.web.auth import UnusableToken, load_token
from streamfleet_api.web.connections import BACKLOG, Connections, Slot
from streamfleet_api.web.handshakes import Handshakes
from streamfleet_api.web.http_listener import HttpListener, Tls
from streamfleet_api.web.tls import BadCertificate, Certificate
from streamfleet_api.web.uvicorn_protocol import BoundedHttp, BoundedWebSocket
from streamfleet_core.runtime.file_descriptors import raise_limit
from streamfleet_core.runtime.private_file import KeyExposed
from streamfleet_core.runtime.process import forbid_core_dumps, make_files_private, name_process
from streamfleet_core.runtime.startup import log_as

logger = logging.getLogger("streamfleet_api")

_MAX_SAID = 4096  # bytes that a client of a WebSocket may say: it has nothing to say
_UNTAKEN = 60  # seconds for which sent bytes may stay with us
_PING = 20.0  # seconds between two signs of life of a WebSocket
_WARN = 10.0  # seconds between two looks at what there is to warn of
_STOP = 1  # seconds for pending requests when the process stops


def run() -> int:
    """Run until SIGTERM or SIGINT. The exit code."""
    log_as("api")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        config = parse(sys.argv[1:], os.environ)
        name_process("sf-api")
        forbid_core_dumps()
        make_files_private()
        raise_limit()
        limit_memory()
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        token, is_new = load_token(config.token_path)
        listener = listen(config.host, config.port)
        manager_listener = listen_for_manager(config)
        certificate = load_certificate(config)
    except (BadCertificate, BadConfig, KeyExposed, OSError, UnusableToken) as exc:
        print(f"streamfleet-api: {exc}", file=sys.stderr)
        return 1
    if is_new:
        announce(config, token)
    with listener, manager_listener or contextlib.nullcontext():
        uvloop.run(serve(config, token, listener, manager_listener, certificate))
    return 0


def announce(config: Config, token: str) -> None:
    """Show a new token once, where a person sees it and no log keeps it."""
    if sys.stderr.isatty():
        print(f"operator token (shown once, kept in {config.token_path}): {token}", file=sys.stderr)
    else:
        logger.info("made the operator token, %s", config.token_path)


def load_certificate(config: Config) -> Certificate | None:
    """Load the certificate for HTTPS, if any. Raises: BadCertificate, OSError."""
    if config.certificate is None:
        config.fingerprint_path.unlink(missing_ok=True)
        return None
    return Certificate(config.certificate, config.fingerprint_path)


def listen_for_manager(config: Config) -> socket.socket | None:
    """The socket of the Stream Manager, if it shall have one. Raises: BadConfig that names the option."""
    if config.manager_port == 0:
        return None
    host = config.host
    if config.manager_host is not None and is_here(config.manager_host):
        host = config.manager_host
    elif config.manager_host is not None:
        logger.warning(
            "STREAM_MANAGER_HOST=%s is not an address of this machine: ignored", config.manager_host
        )
    return listen(host, config.manager_port, "--manager-port")


def is_here(host: str) -> bool:
    """Whether we can listen on an address. Not on a name: in Roboflow's setups it belongs to another host."""
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
    """Let the kernel drop connections of stuck and vanished clients. Accepted connections inherit this."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (
        (socket.TCP_KEEPIDLE, 20),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _UNTAKEN * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, seconds)


async def serve(
    config: Config,
    token: str,
    listener: socket.socket,
    manager_listener: socket.socket | None = None,
    certificate: Certificate | None = None,
) -> None:
    """Serve until stopped."""
    context = zmq.asyncio.Context()
    services = Services.make(config, context)
    app = create_app(config, services, token=token, manager_listener=manager_listener)
    server = _Server(app, services, certificate.context if certificate else None, config.trust)
    gc.freeze()  # imported objects stay: collections need not traverse them
    host, port = listener.getsockname()[:2]
    logger.info("listening on %s://%s:%d", "https" if certificate else "http", host, port)
    warning = asyncio.create_task(_warn(config, services.connections), name="warnings")
    try:
        await server.serve(sockets=[listener])
    finally:
        warning.cancel()
        context.destroy(linger=0)


async def _warn(config: Config, connections: Connections) -> None:
    """Each minute of what lasts, and soon of connections that found no room. (S6)"""
    reported = 0
    for minute in itertools.cycle((True, *[False] * 5)):
        if minute and config.insecure:
            logger.warning(INSECURE)
        if connections.without_room > reported:
            refused = connections.without_room - reported
            logger.warning("%d connections refused for lack of room, %d are open", refused, connections.count)
            reported = connections.without_room
        await asyncio.sleep(_WARN)


class _Server(uvicorn.Server):
    """A server that ends endless responses when it stops, and exits with success."""

    def __init__(self, app: ASGIApp, services: Services, tls: Tls | None, trust: tuple[Network, ...]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(BoundedHttp, services.connections),  # type: ignore[arg-type]
                ws=BoundedWebSocket,
                ws_max_size=_MAX_SAID,
                ws_per_message_deflate=False,
                ws_ping_interval=_PING,
                ws_ping_timeout=_PING,
                lifespan="on",
                backlog=BACKLOG,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # who asks is who connects: no header may say otherwise
                server_header=False,
                timeout_graceful_shutdown=_STOP,
            )
        )
        self._services = services
        self._tls = tls
        self._trust = trust
        self._connections = services.connections
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn has handlers of its own while it serves, and raises the signal again when all is closed.
            signal.signal(number, self._note_exit)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, with listeners of ours where they must be: they cost a connection 0.1 ms."""
        if self._tls is None and not self._connections.limits.is_tight:
            await super().startup(sockets)
            return
        await super().startup(sockets=[])
        for each in sockets or []:
            listener = HttpListener(
                each,
                self._connection,
                self._connections,
                self._tls,
                handshakes=Handshakes(self._services.known_networks),
                is_trusted=functools.partial(is_trusted, trust=self._trust),
            )
            listener.start()
            self.servers.append(listener)  # type: ignore[arg-type]

    def _connection(self, slot: Slot) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, slot=slot
        )
        return protocol

    def _note_exit(self, _number: int, _frame: FrameType | None) -> None:
        """Serve no longer, or not at all: the signal may come before uvicorn has its handlers."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._services.subscribers.end)
        super().handle_exit(sig, frame)
