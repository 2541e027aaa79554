"""The configuration of the api, read once from options and environment."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamfleet_api.broker_client import Endpoints
from streamfleet_api.sampling_presets import ActiveLearning
from streamfleet_api.web.access_policy import Network, address_of, hostname_of
from streamfleet_api.web.connections import Limits
from streamfleet_api.web.tls import CertificateFiles
from streamfleet_core.datasets.spool import AGE, SIZE
from streamfleet_core.runtime.curve import CurveKeys, parse_key_pair
from streamfleet_core.runtime.private_file import read_private
from streamfleet_core.runtime.socket_path import problem_with

INSECURE = "--insecure: the operator's token may come unencrypted from other machines"
MAX_UPLOAD = 4 * 1024**3  # bytes
MANAGER_TIMEOUT = 5.0  # seconds for which a client of the Stream Manager's port may be silent
STUCK = 30.0  # seconds for which a client of a stream may take nothing
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})(:[0-9]{1,5})?")


class BadConfig(Exception):
    """An option that cannot be used: names the option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of one api process."""

    data_dir: Path
    host: str
    port: int
    broker: Endpoints  # of the operators' ROUTER of each broker
    predictions: Endpoints  # of the relay's XPUB of each broker
    pictures: Endpoints  # the same for pictures
    keys: CurveKeys | None = None  # for all three, when they are on TCP
    trust: tuple[Network, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()  # names of this api, besides those of this machine
    cors: frozenset[str] = frozenset()  # origins of pages that may ask as programs do
    insecure: bool = False  # the token may come over plain HTTP from other machines
    certificate: CertificateFiles | None = None  # None: there is no HTTPS
    limits: Limits | None = None  # of connections; None: as many as this process can have
    model_cache_dir: Path | None = None
    samples_size: int = SIZE  # bytes of all samples
    samples_age: float = AGE  # seconds since the capture of a sample
    max_upload: int = MAX_UPLOAD
    learning: ActiveLearning = field(default_factory=ActiveLearning)  # the default for Roboflow's requests
    stuck: float = STUCK
    manager_host: str | None = None  # where the Stream Manager listens, if that is here; None: as `host`
    manager_port: int = 0  # 0: nowhere
    manager_timeout: float = MANAGER_TIMEOUT
    command_timeout: float | None = None  # seconds for a command of Roboflow's APIs; None: its own limit

    @property
    def fingerprint_path(self) -> Path:
        """The file with the fingerprint of our certificate, for programs on this host."""
        return self.data_dir / "fingerprint"

    @property
    def token_path(self) -> Path:
        """The file with the operator's token."""
        return self.data_dir / "token"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The configuration. Raises: BadConfig; SystemExit for what argparse refuses."""
    options = _parser(environment).parse_args(arguments)
    data_dir = Path(options.data_dir).expanduser().absolute()
    broker_dir = data_dir.parent / "broker"

    def endpoints(given: list[str] | None, option: str) -> tuple[str, ...]:
        variable = environment.get(f"STREAMFLEET_{option.upper()}") or ""
        return tuple(given or filter(None, variable.split(",")))

    config = Config(
        data_dir=data_dir,
        host=options.host,
        port=options.port,
        broker=endpoints(options.broker, "broker") or f"ipc://{broker_dir}/operators.ipc",
        predictions=endpoints(options.predictions, "predictions") or f"ipc://{broker_dir}/predictions.ipc",
        pictures=endpoints(options.pictures, "pictures") or f"ipc://{broker_dir}/pictures.ipc",
        keys=_keys(options.operator_key, options.broker_key),
        trust=tuple(network(text) for text in options.trust),
        allowed_hosts=frozenset(allowed_host(text) for text in options.allowed_host),
        cors=frozenset(origin(text) for text in options.cors),
        insecure=options.insecure,
        certificate=_certificate(options.tls_cert, options.tls_key),
        model_cache_dir=Path(options.model_cache_dir).expanduser() if options.model_cache_dir else None,
        samples_size=options.samples_size,
        samples_age=options.samples_age,
        max_upload=options.max_upload,
        learning=_learning(environment),
        manager_host=environment.get("STREAM_MANAGER_HOST") or None,
        manager_port=options.manager_port,
        manager_timeout=_seconds("STREAM_MANAGER_SOCKET_TIMEOUT", environment) or MANAGER_TIMEOUT,
        command_timeout=_seconds("STREAM_MANAGER_OPERATIONS_TIMEOUT", environment),
    )
    for option, several in (
        ("--broker", config.broker),
        ("--predictions", config.predictions),
        ("--pictures", config.pictures),
    ):
        for endpoint in [several] if isinstance(several, str) else several:
            _check_endpoint(option, endpoint, config.keys)
    return config


def network(text: str) -> Network:
    """A network of `--trust`. Raises: BadConfig."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise BadConfig(f"expected --trust as a network such as 10.0.0.0/8: {exc}") from exc


def allowed_host(text: str) -> str:
    """A name of `--allowed-host`. Raises: BadConfig."""
    if not _HOST.fullmatch(text) and address_of(text) is None:
        raise BadConfig(f"expected --allowed-host as a name such as fleet.example, got {text[:80]!r}")
    return text.lower()


def origin(text: str) -> str:
    """An origin of `--cors`. Raises: BadConfig."""
    if not _ORIGIN.fullmatch(text) or not hostname_of(text):
        why = " (any page can make itself one without an origin)" if text == "null" else ""
        raise BadConfig(f"expected --cors as an origin such as https://page.example, got {text[:80]!r}{why}")
    return text.lower()


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def given(option: str, default: str | None = None, *others: str) -> str | None:
        """Read a variable from the environment: our own name first, then Roboflow's."""
        names = (f"STREAMFLEET_{option.upper()}", *others)
        return next((environment[name] for name in names if environment.get(name)), default)

    def listed(option: str) -> list[str]:
        """Several, with commas between them."""
        return (given(option) or "").replace(",", " ").split()

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
        help="Roboflow's Stream Manager over TCP, 0 for none; STREAM_MANAGER_PORT, PORT (%(default)s)",
    )
    for name, text in (
        ("broker", "endpoint of the broker (beside the data directory); given again for each of several"),
        ("predictions", "endpoint of the broker's relay (likewise)"),
        ("pictures", "the same for pictures (likewise)"),
    ):
        add(f"--{name}", action="append", metavar="ENDPOINT", help=text)
    add("--operator-key", default=given("operator_key"), help="file of the key for a broker on TCP")
    add("--broker-key", default=given("broker_key"), help="the public key of a broker on TCP")
    add(
        "--trust",
        action="append",
        default=listed("trust"),
        metavar="CIDR",
        help="a network that needs no token; may be given again (in the environment: with commas)",
    )
    add(
        "--allowed-host",
        action="append",
        default=listed("allowed_host"),
        metavar="NAME",
        help="a name under which no token is needed, besides localhost, this machine's name and addresses; "
        "may be given again",
    )
    add(
        "--cors",
        action="append",
        default=listed("cors"),
        metavar="ORIGIN",
        help="an origin, https://page.example, whose web pages may ask as programs do; may be given again",
    )
    add("--tls-cert", default=given("tls_cert"), metavar="FILE", help="serve HTTPS too, with this (PEM)")
    add("--tls-key", default=given("tls_key"), metavar="FILE", help="its key, where the file above has none")
    add(
        "--insecure",
        action="store_true",
        default=bool(given("insecure")),
        help="take the token over plain HTTP from other machines, where others can read it",
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


def _certificate(certificate: str | None, key: str | None) -> CertificateFiles | None:
    if certificate is None and key is not None:
        raise BadConfig("expected --tls-cert with --tls-key, got the key alone")
    if certificate is None:
        return None
    paths = [Path(text).expanduser().absolute() for text in (certificate, key or certificate)]
    return CertificateFiles(*paths)


def _keys(operator_key: str | None, broker_key: str | None) -> CurveKeys | None:
    if operator_key is None and broker_key is None:
        return None
    if operator_key is None or broker_key is None:
        raise BadConfig("expected --operator-key and --broker-key together, got only one of them")
    if len(broker_key) != 40:
        raise BadConfig(f"expected --broker-key as 40 characters of Z85, got {len(broker_key)}")
    try:
        return CurveKeys(broker_key, parse_key_pair(read_private(Path(operator_key))))
    except (OSError, ValueError) as exc:
        text = '{"public": …, "secret": …}'
        raise BadConfig(f"expected --operator-key {operator_key} as a file of {text}: {exc}") from exc


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
        raise BadConfig(f"expected {name} as seconds above 0, got {text!r}")
    return seconds


def _check_endpoint(option: str, endpoint: str, keys: CurveKeys | None) -> None:
    if endpoint.startswith("tcp://"):
        if keys is None:
            raise BadConfig(f"expected --operator-key and --broker-key with {option} {endpoint}")
    elif not endpoint.startswith("ipc://"):
        raise BadConfig(f"expected {option} as ipc://PATH or tcp://HOST:PORT, got {endpoint!r}")
    elif problem := problem_with(Path(endpoint.removeprefix("ipc://")), ""):
        raise BadConfig(f"{option} {endpoint}: {problem}; use another, shorter --data-dir")
