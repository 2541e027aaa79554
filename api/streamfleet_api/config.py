"""What the api must know, read once from options and environment."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamfleet_api.active_learning import ActiveLearning
from streamfleet_api.auth import Network
from streamfleet_api.link import CurveKeys
from streamfleet_broker.protocol.keyfile import read_private
from streamfleet_broker.protocol.spool import AGE, SIZE

MAX_UPLOAD = 4 * 1024**3  # bytes
SILENCE = 5.0  # seconds for which a client of the Stream Manager's port may say nothing
STUCK = 30.0  # seconds for which a client of a stream may take nothing
MAX_SOCKET_PATH = 107  # bytes that the kernel gives the path of a unix socket


class BadConfig(Exception):
    """An option that cannot be used: names the option."""


@dataclass(frozen=True, slots=True)
class Config:
    """One api process."""

    data_dir: Path
    host: str
    port: int
    broker: str  # endpoint of the operators' ROUTER
    predictions: str  # endpoint of the relay's XPUB
    pictures: str  # the same for pictures
    keys: CurveKeys | None = None  # for all three, when they are on TCP
    trust: tuple[Network, ...] = ()
    model_cache_dir: Path | None = None
    samples_size: int = SIZE  # bytes of all samples
    samples_age: float = AGE  # seconds since the capture of a sample
    max_upload: int = MAX_UPLOAD
    learning: ActiveLearning = field(default_factory=ActiveLearning)  # where an original's request is silent
    stuck: float = STUCK
    manager_host: str | None = None  # where the Stream Manager listens, if that is here; None: as `host`
    manager_port: int = 0  # 0: nowhere
    manager_silence: float = SILENCE
    command_timeout: float | None = None  # seconds that a command of the original's may take; None: its own

    @property
    def token_path(self) -> Path:
        """Where the operator's token is kept."""
        return self.data_dir / "token"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The configuration. Raises: BadConfig; SystemExit for what argparse refuses."""
    options = _parser(environment).parse_args(arguments)
    data_dir = Path(options.data_dir).expanduser().absolute()
    broker_dir = data_dir.parent / "broker"
    config = Config(
        data_dir=data_dir,
        host=options.host,
        port=options.port,
        broker=options.broker or f"ipc://{broker_dir}/operators.ipc",
        predictions=options.predictions or f"ipc://{broker_dir}/predictions.ipc",
        pictures=options.pictures or f"ipc://{broker_dir}/pictures.ipc",
        keys=_keys(options.operator_key, options.broker_key),
        trust=tuple(network(text) for text in options.trust),
        model_cache_dir=Path(options.model_cache_dir).expanduser() if options.model_cache_dir else None,
        samples_size=options.samples_size,
        samples_age=options.samples_age,
        max_upload=options.max_upload,
        learning=_learning(environment),
        manager_host=environment.get("STREAM_MANAGER_HOST") or None,
        manager_port=options.manager_port,
        manager_silence=_seconds("STREAM_MANAGER_SOCKET_TIMEOUT", environment) or SILENCE,
        command_timeout=_seconds("STREAM_MANAGER_OPERATIONS_TIMEOUT", environment),
    )
    for option, endpoint in (
        ("--broker", config.broker),
        ("--predictions", config.predictions),
        ("--pictures", config.pictures),
    ):
        _check_endpoint(option, endpoint, config.keys)
    return config


def network(text: str) -> Network:
    """A network of `--trust`. Raises: BadConfig."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise BadConfig(f"expected --trust as a network such as 10.0.0.0/8: {exc}") from exc


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def given(option: str, default: str | None = None, *others: str) -> str | None:
        """From the environment: our own name, then the original's."""
        names = (f"STREAMFLEET_{option.upper()}", *others)
        return next((environment[name] for name in names if environment.get(name)), default)

    parser = argparse.ArgumentParser("streamfleet-api", description="The HTTP API of a fleet.")
    add = parser.add_argument
    add("--data-dir", default=given("data_dir", "~/.streamfleet/api"), help="token and models (%(default)s)")
    add(
        "--host",
        default=given("host", "127.0.0.1", "STREAM_MANAGEMENT_API_HOST"),
        help="address to listen on; others than this host need the token (%(default)s)",
    )
    add(
        "--port",
        type=int,
        default=given("port", "8080", "STREAM_MANAGEMENT_API_PORT"),
        help="HTTP (%(default)s)",
    )
    add(
        "--manager-port",
        type=int,
        default=given("manager_port", "7070", "STREAM_MANAGER_PORT", "PORT"),
        help="the original's Stream Manager over TCP, 0 for none; STREAM_MANAGER_PORT, PORT (%(default)s)",
    )
    add("--broker", default=given("broker"), help="endpoint of the broker (beside the data directory)")
    add("--predictions", default=given("predictions"), help="endpoint of the broker's relay (likewise)")
    add("--pictures", default=given("pictures"), help="the same for pictures (likewise)")
    add("--operator-key", default=given("operator_key"), help="file of the key for a broker on TCP")
    add("--broker-key", default=given("broker_key"), help="the public key of a broker on TCP")
    add(
        "--trust",
        action="append",
        default=(given("trust") or "").replace(",", " ").split(),
        metavar="CIDR",
        help="a network that needs no token; may be given again (in the environment: with commas)",
    )
    add(
        "--model-cache-dir",
        default=given("model_cache_dir", None, "MODEL_CACHE_DIR"),
        help="folder of models, <project>/<version>/weights.onnx (MODEL_CACHE_DIR)",
    )
    add(
        "--max-upload",
        type=int,
        default=given("max_upload", str(MAX_UPLOAD)),
        help="bytes of one blob (%(default)s)",
    )
    add(
        "--samples-size",
        type=int,
        default=given("samples_size", str(SIZE)),
        help="bytes of all samples; the oldest make room (%(default)s)",
    )
    add(
        "--samples-age",
        type=float,
        default=given("samples_age", str(AGE)),
        help="seconds after which a sample is removed (%(default)s)",
    )
    return parser


def _keys(operator_key: str | None, broker_key: str | None) -> CurveKeys | None:
    if operator_key is None and broker_key is None:
        return None
    if operator_key is None or broker_key is None:
        raise BadConfig("expected --operator-key and --broker-key together, one came alone")
    if len(broker_key) != 40:
        raise BadConfig(f"expected --broker-key as 40 characters of Z85, came {len(broker_key)}")
    try:
        pair = json.loads(read_private(Path(operator_key)))
        return CurveKeys(broker_key, pair["public"], pair["secret"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        text = '{"public": …, "secret": …}'
        raise BadConfig(f"expected --operator-key as a file of {text}: {exc}") from exc


def _learning(environment: Mapping[str, str]) -> ActiveLearning:
    try:
        return ActiveLearning.of(environment)
    except ValueError as exc:
        raise BadConfig(str(exc)) from exc


def _seconds(name: str, environment: Mapping[str, str]) -> float | None:
    """A time from the environment, None when there is none."""
    text = environment.get(name)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise BadConfig(f"expected {name} as seconds above 0, came {text!r}")
    return seconds


def _check_endpoint(option: str, endpoint: str, keys: CurveKeys | None) -> None:
    if endpoint.startswith("tcp://"):
        if keys is None:
            raise BadConfig(f"expected --operator-key and --broker-key with {option} {endpoint}")
    elif not endpoint.startswith("ipc://"):
        raise BadConfig(f"expected {option} as ipc://PATH or tcp://HOST:PORT, came {endpoint!r}")
    elif len(os.fsencode(endpoint.removeprefix("ipc://"))) > MAX_SOCKET_PATH:
        raise BadConfig(
            f"expected a path of at most {MAX_SOCKET_PATH} bytes for {option}, came {endpoint}: "
            "use a shorter --data-dir"
        )
