"""Who may ask: this host, trusted networks, the operator's token; a device's ticket reads blobs, no more."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path

import httpx
import pytest
import zmq.asyncio
from starlette.datastructures import Headers
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from streamfleet_api.app import Services, create_app
from streamfleet_api.auth import Door, load_token
from streamfleet_api.config import parse
from streamfleet_broker.protocol.keyfile import KeyExposed
from tests.api.conftest import Api
from tests.api.peer import Peer, sha256

TOKEN = "t" * 43
DOOR = Door(TOKEN, (ipaddress.ip_network("10.1.0.0/16"),), frozenset({"localhost", "fleet-host"}))
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
        ("10.1.2.3", {"host": "evil.example"}, True),
        ("10.2.0.1", {"host": "127.0.0.1"}, False),
        ("::ffff:10.1.2.3", {}, True),
        (None, {"host": "127.0.0.1"}, False),
        ("testclient", {"host": "127.0.0.1"}, False),
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
def test_the_door_admits(peer: str | None, headers: dict[str, str], admitted: bool) -> None:
    assert DOOR.admits(peer, Headers(headers)) is admitted


def test_the_token_is_256_bits_kept_private_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "api/token"

    first, made = load_token(path)
    again, made_again = load_token(path)

    assert (made, made_again) == (True, False)
    assert first == again
    assert len(first) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in repr(Door(first))


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    load_token(path)
    path.chmod(0o644)

    with pytest.raises(KeyExposed, match="chmod 600"):
        load_token(path)


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
    ("PUT", f"/v2/blobs/{'0' * 64}"),
    ("GET", f"/v2/blobs/{'0' * 64}"),
    ("GET", "/nothing"),
    ("GET", "/v2/nothing"),
]


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


@pytest.mark.parametrize("path", WEBSOCKETS)
def test_from_elsewhere_no_websocket_is_open_without_the_token(api: Api, path: str) -> None:
    headers = {"x-forwarded-for": "203.0.113.9"}

    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{api.port}{path}", proxy=None, additional_headers=headers)

    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer wrong"}])
def test_from_elsewhere_nothing_is_open_without_the_token(
    http: httpx.Client, peer: Peer, method: str, path: str, authorization: dict[str, str]
) -> None:
    answer = http.request(method, path, headers={**ELSEWHERE, **authorization})

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
    assert http.put(path, content=content, headers=ticket).status_code == 401
    assert http.get("/v2/devices", headers=ticket).status_code == 401
    assert http.get("/list_pipelines", headers=ticket).status_code == 401


def test_a_ticket_opens_nothing_while_the_broker_is_away(http: httpx.Client, peer: Peer) -> None:
    peer.stop()
    try:
        headers = {**ELSEWHERE, "authorization": "Bearer ticket-1"}
        answer = http.get(f"/v2/blobs/{'0' * 64}", headers=headers)
    finally:
        peer.start()

    assert answer.status_code == 401


# web pages ------------------------------------------------------------------------------------------------


def test_any_origin_may_use_the_originals_routes_without_credentials(http: httpx.Client) -> None:
    origin = {"origin": "http://page.example"}
    preflight = {**origin, "access-control-request-method": "POST"}

    answer = http.get("/list_pipelines", headers=origin)
    asked = http.options("/initialise", headers=preflight)

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert asked.status_code == 200
    assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.parametrize("path", ["/v2/devices", "/v2/subscribers"])
def test_no_page_of_somebody_else_can_use_ours(http: httpx.Client, peer: Peer, path: str) -> None:
    origin = {"origin": "http://page.example"}

    simple = http.post(path, content=b'{"name": "x"}', headers={**origin, "content-type": "text/plain"})
    nameless = http.post(path, content=b'{"name": "x"}', headers=origin)
    preflight = http.options(path, headers={**origin, "access-control-request-method": "POST"})

    assert (simple.status_code, nameless.status_code) == (415, 415)
    assert "access-control-allow-origin" not in preflight.headers
    assert not peer.asked
