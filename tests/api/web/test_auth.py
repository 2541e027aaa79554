"""Who may ask: this host, trusted networks, the operator's token; a device's ticket reads blobs, no more."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import zmq.asyncio
from starlette.datastructures import Headers
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import InvalidStatus

from streamfleet_api.app import Services, create_app
from streamfleet_api.config import BadConfig, parse
from streamfleet_api.web.access_policy import Asked, Decision, Kind, Policy, Refusal, address_of
from streamfleet_api.web.auth import MAX_WRONG_TICKETS, UnusableToken, load_token
from streamfleet_api.web.failed_logins import MAX_ADDRESSES, MOST, WINDOW, FailedLogins
from streamfleet_core.protocol.requests import CheckTicket
from streamfleet_core.runtime.private_file import KeyExposed
from tests.api.conftest import Api
from tests.fakes.broker import Peer, sha256
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import websocket

TOKEN = "t" * 43
POLICY = Policy(
    token=TOKEN,
    trust=(ipaddress.ip_network("10.1.0.0/16"),),
    names=frozenset({"localhost", "fleet-host"}),
    origins=frozenset({"https://own.example"}),
)
ELSEWHERE = {"host": "evil.example"}  # what a page whose name was rebound to this host sends


@pytest.mark.parametrize(
    ("peer", "headers", "admitted"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:8080"}, True),
        ("127.0.0.1", {"host": "localhost:8080"}, True),
        ("127.0.0.1", {"host": "fleet-host"}, True),
        ("::1", {"host": "[::1]:8080"}, True),
        ("::ffff:127.0.0.1", {"host": "127.0.0.1"}, True),
        ("127.0.0.1", {"host": "evil.example"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-for": "203.0.113.9"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "forwarded": "for=203.0.113.9"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "x-real-ip": "203.0.113.9"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-host": "fleet.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "via": "1.1 proxy"}, False),
        ("127.0.0.1", {"host": "127.0.0.1", "cf-connecting-ip": "203.0.113.9"}, False),
        ("127.0.0.1", {"host": "user@127.0.0.1"}, False),
        ("127.0.0.1", {"host": "127.0.0.1/evil.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1?evil.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1:80:90"}, False),
        ("10.1.2.3", {"host": "evil.example"}, False),
        ("10.1.2.3", {"host": "fleet-host:8080"}, True),
        ("10.1.2.3", {"host": "10.1.0.1"}, True),
        ("10.2.0.1", {"host": "127.0.0.1"}, False),
        ("::ffff:10.1.2.3", {"host": "10.1.0.1"}, True),
        ("10.1.2.3", {}, False),
        ("127.0.0.1", {"host": "["}, False),
        ("::1%lo", {"host": "[::1]"}, True),
        (None, {"host": "127.0.0.1"}, False),
        ("testclient", {"host": "127.0.0.1"}, False),
        ("127.0.0.1", {"host": "evil.example", "authorization": f"Bearer {TOKEN}"}, True),
        ("203.0.113.9", {"authorization": f"Bearer {TOKEN}"}, True),
        ("203.0.113.9", {"authorization": f"bearer {TOKEN}"}, True),
        ("203.0.113.9", {"authorization": f"Bearer {TOKEN}x"}, False),
        ("203.0.113.9", {"authorization": "Bearer"}, False),
        ("203.0.113.9", {"authorization": f"Basic {TOKEN}"}, False),
        ("203.0.113.9", {"authorization": "Bearer \u00e9"}, False),
        # The original's clients send their Roboflow key so: it does no harm.
        ("127.0.0.1", {"host": "127.0.0.1", "authorization": "Bearer rf_key"}, True),
    ],
)
def test_the_policy_admits(peer: str | None, headers: dict[str, str], admitted: bool) -> None:
    asked = Asked(method="GET", path="/v2/devices", headers=Headers(headers), peer=peer, is_encrypted=True)

    assert (POLICY.decide(asked).refusal is None) is admitted


HERE = {"host": "127.0.0.1:8080"}
BROWSER = {**HERE, "user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}
FOREIGN = Refusal.FOREIGN_PAGE


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        # Programs tell no origin, and pages of ours are as good as they.
        ("POST", "/terminate/x", HERE, Decision()),
        ("POST", "/terminate/x", {**HERE, "origin": "http://127.0.0.1:8080"}, Decision()),
        ("POST", "/v2/tickets", {**BROWSER, "sec-fetch-site": "same-origin"}, Decision()),
        ("GET", "/v2/devices", {**BROWSER, "sec-fetch-site": "none"}, Decision()),
        ("GET", "/metrics", {**BROWSER, "sec-fetch-site": "same-origin"}, Decision()),
        # A page of another origin tells its own with all that could write, and with what a script asks for.
        ("POST", "/terminate/x", {**HERE, "origin": "http://page.example"}, Decision(FOREIGN)),
        ("POST", "/terminate/x", {**HERE, "origin": "null"}, Decision(FOREIGN)),
        ("POST", "/terminate/x", {**HERE, "origin": "http://127.0.0.1:9090"}, Decision(FOREIGN)),
        ("POST", "/terminate/x", {**HERE, "origin": "http://127.0.0.1:8080.page.example"}, Decision(FOREIGN)),
        ("POST", "/terminate/x", {**HERE, "origin": "http://["}, Decision(FOREIGN)),
        ("POST", "/terminate/x", {**HERE, "origin": ""}, Decision(FOREIGN)),
        ("GET", "/list_pipelines", {**HERE, "origin": "http://page.example"}, Decision(FOREIGN)),
        ("GET", "/metrics", {**HERE, "origin": "http://page.example"}, Decision(FOREIGN)),
        # Pictures, scripts, frames and links tell no origin, but from where they come.
        ("GET", "/v2/pipelines/x/pictures", {**BROWSER, "sec-fetch-site": "cross-site"}, Decision(FOREIGN)),
        ("GET", "/v2/pipelines/x/pictures", {**BROWSER, "sec-fetch-site": "same-site"}, Decision(FOREIGN)),
        (
            "GET",
            "/inference_pipelines/x/consume",
            {**BROWSER, "sec-fetch-site": "cross-site"},
            Decision(FOREIGN),
        ),
        ("GET", "/metrics", {**BROWSER, "sec-fetch-site": "cross-site"}, Decision(FOREIGN)),
        ("HEAD", "/list_pipelines", {**BROWSER, "sec-fetch-site": "cross-site"}, Decision(FOREIGN)),
        ("OPTIONS", "/list_pipelines", {**HERE, "origin": "http://page.example"}, Decision(FOREIGN)),
        ("GET", "/v2/devices", {**HERE, "referer": "http://page.example/x"}, Decision(FOREIGN)),
        ("GET", "/v2/devices", {**HERE, "referer": "http://127.0.0.1:8080/"}, Decision()),
        # Without TLS and from another machine a browser may tell nothing at all.
        ("GET", "/v2/devices", BROWSER, Decision()),
        ("GET", "/inference_pipelines/x/consume", BROWSER, Decision(FOREIGN)),
        ("GET", "/inference_pipelines/x/consume", HERE, Decision()),
        ("POST", "/terminate/x", BROWSER, Decision(FOREIGN)),
        # A link to a page for people is a link.
        ("GET", "/docs", {**BROWSER, "sec-fetch-site": "cross-site"}, Decision()),
        ("GET", "/docs", {**HERE, "origin": "http://page.example"}, Decision(FOREIGN)),
        # The pages of --cors, whatever they ask for but /metrics.
        (
            "POST",
            "/terminate/x",
            {**HERE, "origin": "https://own.example"},
            Decision(None, "https://own.example"),
        ),
        (
            "GET",
            "/v2/devices",
            {**HERE, "origin": "https://OWN.example"},
            Decision(None, "https://own.example"),
        ),
        ("GET", "/list_pipelines", {**HERE, "origin": "http://own.example"}, Decision(FOREIGN)),
        ("GET", "/list_pipelines", {**HERE, "origin": "https://own.example:444"}, Decision(FOREIGN)),
        ("GET", "/metrics", {**HERE, "origin": "https://own.example"}, Decision(FOREIGN)),
        (
            "GET",
            "/list_pipelines",
            {"host": "evil.example", "origin": "https://own.example"},
            Decision(Refusal.TOKEN),
        ),
        # Whoever has the token has everything.
        (
            "POST",
            "/terminate/x",
            {**HERE, "origin": "http://page.example", "authorization": f"Bearer {TOKEN}"},
            Decision(None, "http://page.example"),
        ),
        (
            "GET",
            "/metrics",
            {**BROWSER, "sec-fetch-site": "cross-site", "authorization": f"Bearer {TOKEN}"},
            Decision(),
        ),
        (
            "POST",
            "/terminate/x",
            {**HERE, "origin": "http://page.example", "authorization": "Bearer rf_key"},
            Decision(FOREIGN, is_wrong_token=True),
        ),
    ],
)
def test_a_page_of_another_origin_is_no_program(
    method: str, path: str, headers: dict[str, str], expected: Decision
) -> None:
    for peer in ("127.0.0.1", "::1", "10.1.2.3"):
        assert (
            POLICY.decide(
                Asked(method=method, path=path, headers=Headers(headers), peer=peer, is_encrypted=True)
            )
            == expected
        ), peer


@pytest.mark.parametrize(
    ("origin", "path", "wanted", "expected"),
    [
        ("http://page.example", "/initialise", "content-type", Decision(FOREIGN)),
        ("null", "/v2/devices", "", Decision(FOREIGN)),
        ("https://own.example", "/initialise", "content-type", Decision(None, "https://own.example")),
        ("https://own.example", "/metrics", "", Decision(FOREIGN)),
        # It will show its token with the request.
        ("http://page.example", "/v2/devices", "X-A, Authorization", Decision(None, "http://page.example")),
    ],
)
def test_a_preflight_is_answered_as_the_request_will_be(
    origin: str, path: str, wanted: str, expected: Decision
) -> None:
    headers = {**HERE, "origin": origin, "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = wanted

    assert (
        POLICY.decide(Asked(method="OPTIONS", path=path, headers=Headers(headers), peer="127.0.0.1"))
        == expected
    )


@pytest.mark.parametrize(
    ("peer", "is_encrypted", "insecure", "refusal"),
    [
        ("203.0.113.9", False, False, Refusal.PLAIN),
        ("203.0.113.9", True, False, None),
        ("203.0.113.9", False, True, None),
        ("127.0.0.1", False, False, None),
        ("203.0.113.1", False, False, None),  # this machine, at an address of its own
        ("::ffff:203.0.113.1", False, False, None),
    ],
)
def test_a_token_from_another_machine_comes_over_tls(
    peer: str, is_encrypted: bool, insecure: bool, refusal: Refusal | None
) -> None:
    headers = Headers({"host": "fleet.example", "authorization": f"Bearer {TOKEN}"})
    policy = Policy(token=TOKEN, insecure=insecure)

    asked = Asked(
        method="GET",
        path="/v2/devices",
        headers=headers,
        peer=peer,
        is_encrypted=is_encrypted,
        server="203.0.113.1",
    )
    assert policy.decide(asked).refusal is refusal


@pytest.mark.parametrize(
    ("peer", "is_encrypted", "host", "is_moved"),
    [
        ("203.0.113.9", False, "fleet.example", True),
        ("203.0.113.9", True, "fleet.example", False),
        ("10.1.2.3", False, "10.1.0.1", False),  # trusted: it needs no token
        ("10.1.2.3", False, "fleet.example", True),
        ("127.0.0.1", False, "fleet.example", False),
    ],
)
def test_the_page_where_the_token_is_entered_moves_to_tls_where_there_is_some(
    peer: str, is_encrypted: bool, host: str, is_moved: bool
) -> None:
    asked = Asked(
        method="GET",
        path="/",
        headers=Headers({"host": host}),
        peer=peer,
        is_encrypted=is_encrypted,
        server="203.0.113.1",
    )

    assert replace(POLICY, has_tls=True).decide(asked) == Decision(is_moved=is_moved)
    assert replace(POLICY, has_tls=False).decide(asked) == Decision()


def test_a_right_token_is_not_looked_at_while_its_address_waits_and_a_near_program_needs_none() -> None:
    headers = {"host": "evil.example", "authorization": f"Bearer {TOKEN}"}

    def refusal(headers: dict[str, str]) -> Refusal | None:
        asked = Asked(method="GET", path="/v2/devices", headers=Headers(headers), peer="127.0.0.1")
        return POLICY.decide(asked, is_locked=lambda: True).refusal

    assert refusal(headers) is Refusal.TOO_MANY
    assert refusal({**headers, **HERE}) is None


def test_ten_wrong_tokens_a_minute_make_an_address_wait_and_no_other() -> None:
    logins = FailedLogins()
    here, there = address_of("203.0.113.9"), address_of("203.0.113.10")

    locked = [logins.failed(here, 100.0 + number) for number in range(MOST)]

    assert locked == [False] * (MOST - 1) + [True]
    assert logins.wait(here, 110.0) == pytest.approx(WINDOW - 10)
    assert logins.wait(there, 110.0) == 0.0
    assert logins.wait(here, 100.0 + WINDOW) == 0.0
    assert logins.count == MOST


def test_a_request_that_names_two_hosts_is_taken_for_none_of_ours() -> None:
    hosts = [(b"host", b"127.0.0.1"), (b"host", b"evil.example")]
    asked = Asked(method="GET", path="/v2/devices", headers=Headers(raw=hosts), peer="127.0.0.1")

    assert POLICY.decide(asked).refusal is Refusal.TOKEN


@pytest.mark.parametrize(
    "page",
    [
        {"origin": "http://page.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.example", "origin": "http://rebound.example"},
    ],
    ids=str,
)
def test_wrong_tokens_of_a_page_do_not_lock_out_whoever_looks_at_it(page: dict[str, str], api: Api) -> None:
    """From elsewhere, where the operator needs the token."""
    right = {"x-forwarded-for": "203.0.113.9", "authorization": f"Bearer {api.token}"}
    wrong = {**right, "authorization": "Bearer wrong", **page}
    transport = httpx.HTTPTransport(local_address=f"127.0.0.{20 + len(str(page)) % 200}")
    with httpx.Client(base_url=api.url, transport=transport, timeout=PATIENCE) as client:
        statuses = [client.get("/v2/devices", headers=wrong).status_code for _ in range(MOST + 2)]
        assert client.get("/v2/devices", headers=right).status_code == 200

    assert statuses[-1] in (403, 429)
    assert 429 in statuses


def test_the_addresses_of_one_ipv6_network_are_one_and_no_more_are_kept_than_fit() -> None:
    logins = FailedLogins()
    for number in range(MOST):
        logins.failed(address_of(f"2001:db8::{number}"), 0.0)

    assert logins.wait(address_of("2001:db8::ffff"), 1.0) > 0
    assert logins.wait(address_of("2001:db8:0:1::1"), 1.0) == 0.0

    for number in range(MAX_ADDRESSES):
        logins.failed(address_of(f"10.0.{number // 256}.{number % 256}"), 2.0)

    assert logins.wait(address_of("2001:db8::1"), 3.0) == 0.0


def test_the_token_is_256_bits_kept_private_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "api/token"

    first, made = load_token(path)
    again, made_again = load_token(path)

    assert (made, made_again) == (True, False)
    assert first == again
    assert len(first) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in repr(Policy(token=first))


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    load_token(path)
    path.chmod(0o644)

    with pytest.raises(KeyExposed, match="chmod 600"):
        load_token(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"\n \n", "an empty file"),
        (b"secret", "6 characters"),
        ("schl\u00fcssel-der-flotte".encode(), "other characters"),
        (b"\xff\xfe" + b"t" * 40, "other characters"),
        (b"two words are no token", "other characters"),
        (b"t" * 513, "513 characters"),
    ],
)
def test_a_token_file_that_nobody_could_use_is_refused_without_telling_it(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(UnusableToken, match=f"token of 16 to 512 .*, got {told}") as caught:
        load_token(path)

    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cors", "*"),
        ("--cors", "null"),
        ("--cors", "page.example"),
        ("--cors", "https://page.example/path"),
        ("--cors", "file://x"),
        ("--allowed-host", "*"),
        ("--allowed-host", "fleet.example:8080"),
        ("--allowed-host", ""),
    ],
)
def test_options_about_pages_name_what_they_expect(option: str, value: str) -> None:
    with pytest.raises(BadConfig, match=f"expected {option} as an? .*, got '{re.escape(value)}'"):
        parse([option, value], {})


def test_origins_and_names_come_from_options_and_environment() -> None:
    variables = {"STREAMFLEET_CORS": "http://a.example,https://B.example:8443", "STREAMFLEET_INSECURE": "1"}

    config = parse(["--cors", "http://[::1]:3000", "--allowed-host", "Fleet.example"], variables)

    assert config.cors == {"http://a.example", "https://b.example:8443", "http://[::1]:3000"}
    assert config.allowed_hosts == {"fleet.example"}
    assert config.insecure


ROUTES = [
    ("GET", "/list_pipelines"),
    ("GET", "/status/x"),
    ("POST", "/initialise"),
    ("POST", "/pause/x"),
    ("POST", "/resume/x"),
    ("POST", "/terminate/x"),
    ("GET", "/inference_pipelines/list"),
    ("GET", "/inference_pipelines/x/status"),
    ("POST", "/inference_pipelines/initialise"),
    ("POST", "/inference_pipelines/initialise_webrtc"),
    ("POST", "/inference_pipelines/x/pause"),
    ("POST", "/inference_pipelines/x/resume"),
    ("POST", "/inference_pipelines/x/terminate"),
    ("GET", "/inference_pipelines/x/consume"),
    ("GET", "/v2/devices"),
    ("POST", "/v2/devices"),
    ("GET", "/v2/devices/x"),
    ("PATCH", "/v2/devices/x"),
    ("DELETE", "/v2/devices/x"),
    ("POST", "/v2/devices/x/drill"),
    ("POST", "/v2/devices/x/cordon"),
    ("POST", "/v2/devices/x/uncordon"),
    ("POST", "/v2/devices/x/drain"),
    ("POST", "/v2/rebalance"),
    ("GET", "/v2/pipelines"),
    ("POST", "/v2/pipelines"),
    ("GET", "/v2/pipelines/x"),
    ("PUT", "/v2/pipelines/x"),
    ("PATCH", "/v2/pipelines/x"),
    ("DELETE", "/v2/pipelines/x"),
    ("POST", "/v2/pipelines/x/pause"),
    ("POST", "/v2/pipelines/x/resume"),
    ("POST", "/v2/pipelines/x/restart"),
    ("GET", "/v2/pipelines/x/status"),
    ("GET", "/v2/pipelines/x/picture"),
    ("GET", "/v2/pipelines/x/pictures"),
    ("GET", "/v2/pipelines/x/predictions/last"),
    ("POST", "/v2/commands"),
    ("POST", "/v2/plan"),
    ("POST", "/v2/apply"),
    ("GET", "/v2/export"),
    ("GET", "/v2/schema"),
    ("POST", "/v2/optimisations"),
    ("DELETE", "/v2/optimisations/x"),
    ("PUT", "/v2/optimisations/x/variant"),
    ("GET", "/v2/rollouts"),
    ("POST", "/v2/rollouts"),
    ("GET", "/v2/rollouts/x"),
    ("POST", "/v2/rollouts/x/cancel"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/a/1"),
    ("PUT", "/v2/models/a/1"),
    ("DELETE", "/v2/models/a/1"),
    ("GET", "/v2/samples"),
    ("GET", "/v2/samples/parts"),
    ("DELETE", "/v2/samples/parts"),
    ("GET", "/v2/samples/parts/coco"),
    ("PUT", "/v2/samples/parts/1-door-0-1"),
    ("GET", "/v2/samples/parts/1-door-0-1.jpg"),
    ("GET", "/v2/samples/parts/1-door-0-1.json"),
    ("POST", "/v2/subscribers"),
    ("GET", "/v2/subscribers"),
    ("DELETE", "/v2/subscribers/wall"),
    ("GET", "/v2/predictions"),
    ("GET", "/v2/status"),
    ("GET", "/v2/events"),
    ("GET", "/v2/events/recent"),
    ("POST", "/v2/tickets"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/docs.css"),
    ("GET", "/docs/docs.js"),
    ("POST", "/v2/models/a/1/variants"),
    ("PUT", f"/v2/blobs/{'0' * 64}"),
    ("GET", f"/v2/blobs/{'0' * 64}"),
    ("DELETE", f"/v2/blobs/{'0' * 64}"),
    ("GET", "/nothing"),
    ("GET", "/v2/nothing"),
]


KINDS = {
    "/": Kind.OPEN,
    "/page/main.js": Kind.OPEN,
    "/healthz": Kind.OPEN,
    "/readyz": Kind.OPEN,
    "/docs": Kind.DOCUMENT,
    "/metrics": Kind.METRICS,
    "/inference_pipelines/x/consume": Kind.TAKES,
}
WEBSOCKETS = ["/v2/predictions", "/v2/status", "/v2/events", "/v2/pipelines/x/pictures"]
OPEN = re.compile(r"/healthz|/readyz|/|/page/.*")


@pytest.mark.parametrize("given", ["10.1.0.0/16,192.168.7.0/24", "10.1.0.0/16 192.168.7.0/24"])
def test_several_networks_are_trusted_by_one_variable(given: str) -> None:
    config = parse([], {"STREAMFLEET_TRUST": given})

    assert [str(network) for network in config.trust] == ["10.1.0.0/16", "192.168.7.0/24"]


def test_every_route_is_in_the_tables_above(tmp_path: Path) -> None:
    config = parse(["--data-dir", f"/tmp/{tmp_path.name}"], {})
    context = zmq.asyncio.Context()
    app = create_app(config, Services.make(config, context), token=TOKEN)
    context.term()

    missing = [
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route) and not OPEN.fullmatch(route.path)
        for method in (route.methods or set()) - {"HEAD"}
        if not any(method == m and route.path_regex.match(path) for m, path in ROUTES)
    ]
    missing += [
        ("websocket", route.path)
        for route in app.routes
        if isinstance(route, WebSocketRoute) and not any(map(route.path_regex.match, WEBSOCKETS))
    ]

    assert missing == []


def test_every_route_is_of_the_kind_that_the_table_says() -> None:
    for _, path in [*ROUTES, *(("GET", path) for path in KINDS)]:
        assert Asked(method="GET", path=path, headers=Headers({}), peer=None).kind is KINDS.get(
            path, Kind.OTHER
        ), path


def test_what_a_get_takes_is_known_as_such(tmp_path: Path) -> None:
    """Starlette has a HEAD beside each GET that only reads."""
    config = parse(["--data-dir", f"/tmp/{tmp_path.name}"], {})
    context = zmq.asyncio.Context()
    app = create_app(config, Services.make(config, context), token=TOKEN)
    context.term()

    takes = {route.path for route in app.routes if isinstance(route, Route) and route.methods == {"GET"}}

    assert takes == {"/inference_pipelines/{pipeline_id}/consume"}


@pytest.mark.parametrize("path", WEBSOCKETS)
def test_from_elsewhere_no_websocket_is_open_without_the_token(api: Api, path: str) -> None:
    headers = {"x-forwarded-for": "203.0.113.9"}

    with pytest.raises(InvalidStatus) as caught:
        websocket(api, path, additional_headers=headers)

    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer wrong"}])
def test_from_elsewhere_nothing_is_open_without_the_token(
    api: Api, peer: Peer, method: str, path: str, authorization: dict[str, str]
) -> None:
    # An address has ten wrong tokens a minute.
    local = httpx.HTTPTransport(local_address=f"127.0.1.{1 + ROUTES.index((method, path))}")
    with httpx.Client(base_url=api.url, transport=local, timeout=PATIENCE) as client:
        answer = client.request(method, path, headers={**ELSEWHERE, **authorization})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    text = answer.json()["detail" if path.startswith("/v2") else "message"]
    assert "operator's token" in text
    assert not peer.pipelines


def test_from_elsewhere_the_token_opens_everything(api: Api) -> None:
    headers = {**ELSEWHERE, "authorization": f"Bearer {api.token}"}

    assert api.http.get("/list_pipelines", headers=headers).status_code == 200
    assert api.http.get("/v2/devices", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/style.css"])
def test_the_page_where_the_token_is_entered_needs_none(http: httpx.Client, path: str) -> None:
    assert http.get(path, headers=ELSEWHERE).status_code == 200
    assert http.request("POST", path, headers=ELSEWHERE).status_code == 405
    assert http.get("/page/../v2/devices", headers=ELSEWHERE).status_code == 401
    assert http.get("/page/..%2Fv2%2Fdevices", headers=ELSEWHERE).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_whoever_supervises_needs_no_token(http: httpx.Client, path: str) -> None:
    assert http.get(path, headers=ELSEWHERE).status_code in (200, 503)


def test_a_devices_ticket_opens_blobs_for_reading_and_nothing_else(http: httpx.Client, peer: Peer) -> None:
    content = os.urandom(64)
    path = f"/v2/blobs/{sha256(content)}"
    http.put(path, content=content)
    peer.tickets["ticket-1"] = "edge-1"
    ticket = {**ELSEWHERE, "authorization": "Bearer ticket-1"}

    assert http.get(path, headers=ticket).content == content
    assert http.head(path, headers=ticket).status_code == 200
    assert http.get(path, headers={**ELSEWHERE, "authorization": "Bearer ticket-2"}).status_code == 401
    # From an address of its own: one has ten wrong tokens a minute.
    transport = httpx.HTTPTransport(local_address="127.0.0.12")
    with httpx.Client(
        base_url=http.base_url, transport=transport, headers=ticket, timeout=PATIENCE
    ) as device:
        assert device.put(path, content=content).status_code == 401
        assert device.delete(path).status_code == 401
        assert device.get("/v2/devices").status_code == 401
        assert device.get("/list_pipelines").status_code == 401


def test_the_broker_is_asked_of_a_hundred_wrong_tickets_a_minute_of_one_address(api: Api, peer: Peer) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.10")
    headers = {**ELSEWHERE, "authorization": "Bearer ticket-9"}
    with httpx.Client(base_url=api.url, transport=transport, timeout=PATIENCE) as client:
        path = f"/v2/blobs/{'0' * 64}"
        statuses = [client.get(path, headers=headers).status_code for _ in range(MAX_WRONG_TICKETS + 2)]
        token = {**ELSEWHERE, "authorization": f"Bearer {api.token}"}
        assert client.get("/v2/devices", headers=token).status_code == 200  # which is another matter

    assert statuses == [401] * MAX_WRONG_TICKETS + [429] * 2
    assert len([asked for asked in peer.asked if isinstance(asked, CheckTicket)]) == MAX_WRONG_TICKETS


def test_a_ticket_opens_nothing_while_the_broker_is_away(http: httpx.Client, peer: Peer) -> None:
    peer.stop()
    try:
        headers = {**ELSEWHERE, "authorization": "Bearer ticket-1"}
        answer = http.get(f"/v2/blobs/{'0' * 64}", headers=headers)
    finally:
        peer.start()

    assert answer.status_code == 401


# web pages ------------------------------------------------------------------------------------------------


FOREIGN_PAGES = [
    {"origin": "http://page.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none", "sec-purpose": "prefetch;prerender"},
    {"sec-fetch-site": "none", "purpose": "prefetch"},
]


@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=str)
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route != ("GET", "/docs")])
def test_a_page_of_another_origin_can_use_no_route(
    http: httpx.Client, peer: Peer, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = http.request(method, path, headers={**headers, "content-type": "text/plain"})

    assert answer.status_code == 403
    assert "--cors ORIGIN" in answer.json()["detail" if path.startswith("/v2") else "message"]
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert not peer.asked


def test_a_page_of_another_origin_gets_no_answer_to_its_preflight(http: httpx.Client, peer: Peer) -> None:
    for path in ("/initialise", "/v2/devices"):
        preflight = {"origin": "http://page.example", "access-control-request-method": "POST"}
        answer = http.options(path, headers=preflight)

        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert not peer.asked


def test_a_page_that_has_the_token_may_ask_and_read(api: Api) -> None:
    page = {"origin": "http://page.example"}
    preflight = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}

    asked = api.http.options("/v2/devices", headers={**page, **preflight})
    answer = api.http.get("/v2/devices", headers={**page, "authorization": f"Bearer {api.token}"})

    for each in (asked, answer):
        assert each.status_code == 200
        assert each.headers["access-control-allow-origin"] == "http://page.example"
        assert "access-control-allow-credentials" not in each.headers
        assert "origin" in each.headers["vary"].lower()
    assert asked.headers["access-control-allow-headers"] == "authorization"


def test_answers_are_marked_as_ours_and_a_stream_once(http: httpx.Client) -> None:
    for _ in range(2):
        with http.stream("GET", "/v2/events") as response:
            assert response.headers.get_list("vary") == ["Origin"]
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert response.headers["x-content-type-options"] == "nosniff"


def test_an_eleventh_wrong_token_waits_is_logged_once_and_counted(api: Api, peer: Peer) -> None:
    """From an address of its own, so that no other test has to wait."""
    transport = httpx.HTTPTransport(local_address="127.0.0.9")
    wrong = {**ELSEWHERE, "authorization": "Bearer wrong"}
    right = {**ELSEWHERE, "authorization": f"Bearer {api.token}"}
    with httpx.Client(base_url=api.url, transport=transport, timeout=PATIENCE) as client:
        statuses = [client.get("/v2/devices", headers=wrong).status_code for _ in range(MOST + 3)]
        refused = client.get("/v2/devices", headers=right)
        near = client.get("/v2/devices")

    assert statuses == [401] * MOST + [429] * 3
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= WINDOW + 1
    assert near.status_code == 200
    assert api.http.get("/v2/devices", headers=right).status_code == 200
    assert api.log.read_text().count("wrong tokens a minute from 127.0.0.9") == 1
    found = re.search(r"^streamfleet_http_failed_logins_total (\S+)$", api.http.get("/metrics").text, re.M)
    assert found
    assert float(found[1]) >= MOST
