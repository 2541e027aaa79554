"""HTTPS: on the port of HTTP, with a certificate that may be renewed, for clients that know its digest."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from websockets.sync.client import connect
from websockets.typing import Origin

from streamfleet import AsyncClient, Client, Connection, Unreachable
from streamfleet_api.cli.main import cli
from streamfleet_api.config import INSECURE
from streamfleet_api.local.own_certificate import own_certificate
from streamfleet_api.web.tls import BadCertificate, Certificate, CertificateFiles
from streamfleet_core.runtime.pinned_tls import (
    FilePinnedContext,
    PinnedContext,
    fingerprint_of,
    parse_fingerprint,
)
from tests.api.conftest import Api
from tests.fakes.broker import Peer
from tests.fakes.patience import PATIENCE
from tests.fakes.web import Web, make_certificate


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key."""
    return make_certificate(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return make_certificate(tmp_path_factory.mktemp("second"))


def digest(path: Path) -> str:
    """The fingerprint of the certificate in a file."""
    return fingerprint_of(path.read_text())


@contextmanager
def serving(folder: Path, peer: Peer, certificate: Path) -> Iterator[Api]:
    """An api with a copy of this certificate in its folder."""
    folder.mkdir()
    shutil.copy2(certificate, folder / "c.pem")
    api = Api(folder, peer, "--tls-cert", str(folder / "c.pem"))
    yield api
    assert api.stop() == 0
    assert "Traceback" not in api.log.read_text()


@pytest.fixture(scope="module")
def one_secure(short_dir: Path, one_peer: Peer, first: Path) -> Iterator[Api]:
    """The module's api with a certificate."""
    with serving(short_dir / "secure", one_peer, first) as api:
        yield api


@pytest.fixture
def secure(one_secure: Api, peer: Peer) -> Api:
    """It, in front of an empty broker."""
    one_secure.wait_for_broker()
    return one_secure


@pytest.fixture
def renewable(short_dir: Path, peer: Peer, first: Path) -> Iterator[Api]:
    """An api whose certificate a test may renew."""
    with serving(short_dir / f"renewable-{peer.generation}", peer, first) as api:
        yield api


def shown(api: Api) -> str:
    """The fingerprint of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as raw,
        context.wrap_socket(raw) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return fingerprint_of(ssl.DER_cert_to_PEM_cert(certificate))


def test_one_port_speaks_tls_and_plain_text(secure: Api, peer: Peer, first: Path) -> None:
    url = f"https://127.0.0.1:{secure.port}"

    with httpx.Client(
        base_url=url, verify=PinnedContext(digest(first)), timeout=PATIENCE, trust_env=False
    ) as client:
        assert client.get("/list_pipelines").json()["status"] == "success"
        assert client.get("/list_pipelines", headers={"host": "evil.example"}).status_code == 401
        page = {"origin": url}
        assert client.post("/v2/tickets", headers=page).status_code == 201
    address, pin = f"wss://127.0.0.1:{secure.port}/v2/events", PinnedContext(digest(first))
    with connect(address, ssl=pin, proxy=None, origin=Origin(url), open_timeout=PATIENCE) as socket_:
        peer.happen(1)
        assert any('"door"' in message for message in socket_)
    assert secure.http.get("/list_pipelines").json()["status"] == "success"
    assert (secure.folder / "api/fingerprint").read_text() == digest(first)


def test_nothing_of_tls_follows_its_handshake(secure: Api) -> None:
    """Clients of Python before 3.13 that read and write in two threads sometimes break when it does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=PATIENCE) as raw,
        context.wrap_socket(raw) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert connection.version() == "TLSv1.3"
        assert connection.session is not None and not connection.session.has_ticket


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_below_1_2_is_refused(secure: Api) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=PATIENCE) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw)


def test_a_renewed_certificate_is_served_without_a_restart(renewable: Api, first: Path, second: Path) -> None:
    file, told = renewable.folder / "c.pem", renewable.folder / "api/fingerprint"
    assert shown(renewable) == digest(first)

    file.write_text("half a certificate")
    assert shown(renewable) == digest(first)
    file.unlink()
    assert shown(renewable) == digest(first)
    shutil.copy2(second, renewable.folder / "new.pem")
    (renewable.folder / "new.pem").replace(file)

    known = FilePinnedContext(told)
    with httpx.Client(
        base_url=f"https://127.0.0.1:{renewable.port}", verify=known, timeout=PATIENCE, trust_env=False
    ) as client:
        assert shown(renewable) == digest(second)
        assert client.get("/healthz").status_code == 200
    assert told.read_text() == digest(second)
    assert renewable.log.read_text().count("the old certificate is served still") == 2


def test_the_command_line_knows_the_api_of_this_machine_by_its_file_and_others_by_an_option(
    secure: Api, first: Path, second: Path, tmp_path: Path
) -> None:
    def devices(*options: str, folder: Path = tmp_path) -> tuple[int, str]:
        url = f"https://127.0.0.1:{secure.port}"
        done = CliRunner().invoke(cli, ["--url", url, "--data-dir", str(folder), *options, "devices"])
        return done.exit_code, done.output

    assert devices(folder=secure.folder)[0] == 0
    assert devices("--fingerprint", digest(first))[0] == 0
    assert (
        devices("--fingerprint", ":".join(digest(first)[i : i + 2].upper() for i in range(0, 64, 2)))[0] == 0
    )
    assert devices("--ca", str(first))[0] == 0
    for wrong in ((), ("--fingerprint", digest(second)), ("--ca", str(second))):
        code, output = devices(*wrong)
        assert code == 1
        assert "give --fingerprint, which" in output
    assert "64 hexadecimal digits, got 'abc'" in devices("--fingerprint", "abc")[1]
    assert "STREAMFLEET_CA /none: No such file" in devices("--ca", "/none")[1]


async def test_the_clients_of_the_package_know_the_api_by_the_same_rules(
    secure: Api, first: Path, second: Path, tmp_path: Path
) -> None:
    def connection(folder: Path = tmp_path, **known_by: Any) -> Connection:
        return Connection(url=f"https://127.0.0.1:{secure.port}", data_dir=folder, **known_by)

    for right in (
        connection(secure.folder),
        connection(fingerprint=digest(first)),
        connection(ca_file=first),
    ):
        with Client(right) as client:
            assert client.health().status == "ok"
        async with AsyncClient(right) as asynchronous:
            assert (await asynchronous.health()).status == "ok"
    for wrong in (connection(), connection(fingerprint=digest(second)), connection(ca_file=second)):
        with Client(wrong) as client, pytest.raises(Unreachable, match="give the fingerprint") as caught:
            client.create_pipeline(model="parts/1", sources=[0])
        assert not caught.value.was_sent
        async with AsyncClient(wrong) as asynchronous:
            with pytest.raises(Unreachable, match="give the fingerprint"):
                await asynchronous.health()


async def test_nothing_is_said_to_a_server_with_another_certificate(first: Path, second: Path) -> None:
    web = Web(first)
    web.files["/x"] = b"content"
    wrong, right = PinnedContext(digest(second)), PinnedContext(digest(first))
    headers = {"authorization": "Bearer secret"}
    try:
        with (
            httpx.Client(verify=wrong, timeout=PATIENCE, trust_env=False) as client,
            pytest.raises(httpx.ConnectError),
        ):
            client.get(web.url("/x"), headers=headers)
        async with httpx.AsyncClient(verify=wrong, timeout=PATIENCE, trust_env=False) as asynchronous:
            with pytest.raises(httpx.ConnectError):
                await asynchronous.get(web.url("/x"), headers=headers)
        assert web.requests == []

        async with httpx.AsyncClient(verify=right, timeout=PATIENCE, trust_env=False) as asynchronous:
            assert (await asynchronous.get(web.url("/x"))).content == b"content"
    finally:
        web.close()


def test_a_token_in_the_clear_is_warned_of_for_as_long_as_it_is_taken(short_dir: Path, peer: Peer) -> None:
    folder = short_dir / f"insecure-{peer.generation}"
    folder.mkdir()
    api = Api(folder, peer, "--insecure")
    try:
        assert api.http.get("/healthz").json()["warnings"] == [INSECURE]
        assert INSECURE in api.log.read_text()
    finally:
        assert api.stop() == 0


@pytest.mark.parametrize("token", ["schl\u00fcssel", "two\nlines"])
def test_a_token_that_no_header_can_carry_is_refused_by_its_option(token: str) -> None:
    done = CliRunner().invoke(cli, ["--url", "http://127.0.0.1:1", "--token", token, "devices"])

    assert done.exit_code == 1
    assert "expected the operator's token as visible ASCII" in done.output
    assert "STREAMFLEET_TOKEN" in done.output


def test_nothing_is_said_while_no_file_tells_the_certificate(tmp_path: Path, first: Path) -> None:
    web = Web(first)
    try:
        with (
            httpx.Client(
                verify=FilePinnedContext(tmp_path / "none"), timeout=PATIENCE, trust_env=False
            ) as client,
            pytest.raises(httpx.ConnectError, match="none: no fingerprint can be read"),
        ):
            client.get(web.url("/x"))
        assert web.requests == []
    finally:
        web.close()


def test_a_fingerprint_is_read_as_openssl_writes_it() -> None:
    assert parse_fingerprint(f"sha256 Fingerprint={':'.join(['AB'] * 32)}\n") == "ab" * 32


def test_our_own_certificate_is_private_and_made_once(tmp_path: Path) -> None:
    files = own_certificate(tmp_path, ["10.0.0.9", "fleet.example", "fd00::1"])
    made = digest(files.certificate)

    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert digest(own_certificate(tmp_path, []).certificate) == made
    assert "PRIVATE" not in files.certificate.read_text()


def test_files_that_are_no_certificate_are_refused_by_their_names(tmp_path: Path, first: Path) -> None:
    other, empty = tmp_path / "other.pem", tmp_path / "empty.pem"
    shutil.copy2(first, other)
    other.chmod(0o644)
    empty.touch(0o600)

    for files, match in (
        (CertificateFiles(first, other), f"others may read the key {other}: run 'chmod 600"),
        (CertificateFiles(empty, empty), f"as PEM, got {empty} and {empty}"),
        (CertificateFiles(tmp_path / "none", first), "No such file"),
    ):
        with pytest.raises(BadCertificate, match=match):
            Certificate(files, tmp_path / "fingerprint")
