"""What a web page of another origin gets of the api in a real browser, by each way that it has: nothing."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.patience import PATIENCE

cv2 = pytest.importorskip("cv2")
sync_api = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from streamfleet_core.protocol.requests import (  # noqa: E402
    GetFigures,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListPipelines,
)
from streamfleet_core.protocol.tasks.rollouts import ListRollouts  # noqa: E402
from tests.api.conftest import Api  # noqa: E402
from tests.fakes.broker import Peer, pipeline  # noqa: E402

CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("STREAMFLEET_TEST_PICTURES")  # where screenshots are kept
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

READS = [
    "/list_pipelines",
    "/status/door",
    "/v2/devices",
    "/v2/pipelines",
    "/metrics",
    "/inference_pipelines/door/consume",
]
WRITES = ["/terminate/door", "/initialise", "/v2/devices", "/v2/tickets", "/v2/pipelines/door/pause"]
# Each way resolves to what it got: "" when that is nothing.
ATTACK = """async ([base, reads, writes, wait = 3000]) => {
    const got = [];
    const within = (promise, name) => Promise.race([
        promise.then((value) => value && got.push(`${name}: ${value}`), () => {}),
        new Promise((done) => setTimeout(done, wait)),
    ]);
    const loads = (tag, attribute, path) => new Promise((done) => {
        const element = document.createElement(tag);
        element.onload = () => done("loaded");
        element.onerror = () => done("");
        element[attribute] = base + path;
        document.body.append(element);
    });
    const said = (source, event) => new Promise((done) => {
        source[event] = () => done("opened");
        source.onerror = () => done("");
    });
    const post = (path, type) => {
        const form = document.createElement("form");
        const frame = document.createElement("iframe");
        frame.name = `f${document.querySelectorAll("iframe").length}`;
        Object.assign(form, {method: "post", action: base + path, enctype: type, target: frame.name});
        form.innerHTML = `<input name='{"name": "' value='x"}'>`;
        document.body.append(frame, form);
        return new Promise((done) => { frame.onload = () => done(""); form.submit(); });
    };
    const socket = base.replace("http", "ws");
    await Promise.all([
        ...reads.map((path) => within(fetch(base + path).then((answer) => answer.ok && answer.text()), path)),
        ...reads.map((path) => within(fetch(base + path, {mode: "no-cors"}).then(() => ""), path)),
        ...writes.flatMap((path) => [
            within(fetch(base + path, {method: "POST"}).then((answer) => answer.ok && answer.text()), path),
            within(fetch(base + path, {method: "POST", mode: "no-cors", body: "{}"}).then(() => ""), path),
            within(fetch(base + path, {
                method: "POST", body: '{"name": "x"}', headers: {"content-type": "application/json"},
            }).then((answer) => answer.ok && answer.text()), path),
            within(post(path, "text/plain"), path),
        ]),
        within(fetch(base + "/v2/pipelines/door", {method: "DELETE"}).then(({ok}) => ok && "done"), "delete"),
        within(loads("img", "src", "/v2/pipelines/door/picture"), "picture"),
        within(loads("img", "src", "/v2/pipelines/door/pictures"), "pictures"),
        within(loads("img", "src", "/inference_pipelines/door/consume"), "consume"),
        within(loads("script", "src", "/list_pipelines"), "script"),
        within(said(new WebSocket(socket + "/v2/predictions"), "onopen"), "websocket"),
        within(said(new EventSource(base + "/v2/events"), "onopen"), "events"),
    ]);
    return got;
}"""

# What a page does without reading an answer: frames, media, beacons, forms, what is fetched ahead.
BLIND = """async ([base, reads, writes]) => {
    const add = (tag, attributes) => {
        const element = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        document.body.append(element);
        return element;
    };
    const frame = () => add("iframe", {name: `f${document.querySelectorAll("iframe").length}`}).name;
    const takes = base + "/inference_pipelines/door/consume";
    for (const path of [...reads, "/v2/pipelines/door/picture", "/docs", "/"]) {
        for (const tag of ["iframe", "embed", "video", "audio", "script"]) add(tag, {src: base + path});
        add("object", {data: base + path});
        for (const rel of ["prefetch", "prerender", "stylesheet"]) add("link", {rel, href: base + path});
        add("link", {rel: "preload", as: "fetch", href: base + path});
        add("form", {action: base + path, target: frame()}).submit();
    }
    const rules = document.createElement("script");
    rules.type = "speculationrules";
    rules.textContent = JSON.stringify({prerender: [{urls: [takes], eagerness: "immediate"}]});
    document.head.append(rules);
    for (const path of writes) {
        navigator.sendBeacon(base + path, new Blob(["{}"], {type: "text/plain"}));
        fetch(base + path, {method: "POST", mode: "no-cors", keepalive: true, body: "{}"}).catch(() => {});
        for (const enctype of ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]) {
            add("form", {method: "post", action: base + path, enctype, target: frame()}).submit();
        }
        const link = add("a", {href: "#", ping: base + path});
        link.click();
    }
    add("iframe", {sandbox: "allow-scripts allow-forms", srcdoc:
        `<form method=post action="${base}${writes[0]}"></form>` +
        `<script>document.forms[0].submit()<${"/"}script>`});
    add("iframe", {srcdoc:
        `<meta name=referrer content=no-referrer><meta http-equiv=refresh content="0;url=${takes}">`});
    add("iframe", {srcdoc:
        `<meta http-equiv=content-security-policy content="img-src 'none'"><img src="${takes}">`});
    await new Promise((done) => setTimeout(done, 2000));  // nothing tells of what is fetched ahead
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """An empty page, whatever was asked for."""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window, to which every name is this host."""
    with sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP * 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        expect.set_options(timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def door(peer: Peer) -> Iterator[None]:
    """A camera of which there are pictures."""
    peer.pipelines["door"] = pipeline("door")
    stop = threading.Event()
    content = cv2.imencode(".jpg", np.zeros((24, 32, 3), np.uint8))[1].tobytes()

    def show() -> None:
        seq = 0
        while not stop.wait(0.05):
            peer.picture("door", seq := seq + 1, content)

    thread = threading.Thread(target=show)
    thread.start()
    yield
    stop.set()
    thread.join(PATIENCE)


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("site", ["http://127.0.0.1", "http://localhost", "http://page.example"])
def test_a_page_of_another_origin_gets_and_does_nothing(
    api: Api, peer: Peer, page: Page, elsewhere: int, site: str
) -> None:
    page.goto(f"{site}:{elsewhere}/")

    assert page.evaluate(ATTACK, [api.url, READS, WRITES]) == []
    assert peer.asked == []


def test_a_sandboxed_page_gets_and_does_nothing(api: Api, peer: Peer, page: Page) -> None:
    page.goto("data:text/html,<!doctype html>")

    assert page.evaluate(ATTACK, [api.url, READS, WRITES]) == []
    assert peer.asked == []


@pytest.mark.usefixtures("door")
def test_a_page_of_another_server_whose_name_was_rebound_to_this_host_gets_and_does_nothing(
    api: Api, peer: Peer, page: Page, elsewhere: int
) -> None:
    """To the browser it asks its own site, on another port."""
    page.goto(f"http://evil.example:{elsewhere}/")
    attack = [f"http://evil.example:{api.port}", READS, WRITES]

    assert page.evaluate(ATTACK, attack) == []
    page.evaluate(BLIND, attack)
    assert peer.asked == []
    assert "door" in peer.pipelines


def test_a_page_whose_name_was_rebound_to_this_host_gets_and_does_nothing(
    api: Api, peer: Peer, page: Page
) -> None:
    base = f"http://evil.example:{api.port}"
    answer = page.goto(f"{base}/nothing")

    assert answer is not None
    assert answer.status == 401
    assert page.evaluate(ATTACK, [base, READS, WRITES]) == []
    assert peer.asked == []


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("site", ["http://localhost", "http://page.example"])
def test_a_page_of_another_origin_does_nothing_without_reading(
    api: Api, peer: Peer, page: Page, elsewhere: int, site: str
) -> None:
    page.goto(f"{site}:{elsewhere}/")

    page.evaluate(BLIND, [api.url, READS, WRITES])

    assert peer.asked == []
    assert "door" in peer.pipelines


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_this_api_gets_everything(api: Api, page: Page, host: str) -> None:
    """Which shows that the attacks above would get something."""
    base = f"http://{host}:{api.port}"
    page.goto(f"{base}/v2/models")

    got = page.evaluate(ATTACK, [base, READS[:5], ["/v2/tickets"], PATIENCE * 1000])

    ways = {each.partition(":")[0] for each in got}
    assert {
        "/list_pipelines",
        "/v2/devices",
        "/metrics",
        "/v2/tickets",
        "websocket",
        "events",
        "delete",
    } <= ways


@pytest.fixture
def named(short_dir: Path, peer: Peer, elsewhere: int) -> Iterator[Api]:
    """An api under a name, which a page may use whose origin has one too."""
    folder = short_dir / f"named-{peer.generation}"
    folder.mkdir()
    api = Api(folder, peer, "--allowed-host", "fleet.example", "--cors", f"http://own.example:{elsewhere}")
    yield api
    assert api.stop() == 0


@pytest.mark.usefixtures("door")
def test_a_browser_that_tells_nothing_of_a_page_shows_it_no_picture_and_takes_nothing(
    named: Api, peer: Peer, page: Page, elsewhere: int
) -> None:
    """Over plain HTTP and from another machine there is no `Sec-Fetch-Site`, and of pictures no `Origin`."""
    page.goto(f"http://page.example:{elsewhere}/")

    got = page.evaluate(ATTACK, [f"http://fleet.example:{named.port}", READS, WRITES])

    page.evaluate(BLIND, [f"http://fleet.example:{named.port}", READS, WRITES])
    assert got in ([], ["script: loaded"])  # it was loaded, and is no script: `nosniff`
    assert {type(asked) for asked in peer.asked} <= {
        GetFigures,
        GetFleet,
        GetPipeline,
        ListDevices,
        ListPipelines,
        ListRollouts,
    }
    assert "door" in peer.pipelines


def test_a_page_of_an_origin_of_cors_may_ask(named: Api, peer: Peer, page: Page, elsewhere: int) -> None:
    page.goto(f"http://own.example:{elsewhere}/")
    attack = [f"http://fleet.example:{named.port}", READS, ["/v2/devices"], PATIENCE * 1000]

    ways = {each.partition(":")[0] for each in page.evaluate(ATTACK, attack)}

    assert {"/list_pipelines", "/v2/devices", "websocket", "events"} <= ways
    assert "/metrics" not in ways


def test_the_dashboard_says_that_a_token_is_wrong_and_asks_once_with_each(api: Api, page: Page) -> None:
    """By a name that is not the api's own, so that it wants the token."""
    before = failed_logins(api)
    page.goto(f"http://elsewhere.example:{api.port}/")
    door, note = page.locator("#login"), page.locator("#login-note")
    expect(door).to_be_visible()

    for number in range(3):
        page.fill("#token", f"wrong {number}")
        with page.expect_response(lambda answer: answer.status == 401):  # the note of the last one stays
            page.get_by_role("button", name="Log in").click()
        expect(note).to_have_text("Wrong token.")
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / "wrong-token.png")
    assert failed_logins(api) - before == 3

    page.fill("#token", api.token)
    page.get_by_role("button", name="Log in").click()
    expect(door).to_be_hidden()
    expect(page.locator("#no-devices")).to_be_visible()


def test_the_dashboard_shows_what_steers_its_text_and_obeys_none_of_it(
    api: Api, peer: Peer, page: Page
) -> None:
    reason = "there is no file /\u202egpj.\u0007<img src=x onerror=alert(1)>"
    peer.pipelines["door"] = replace(pipeline("door"), reason=reason)
    page.goto(f"{api.url}/")

    shown = r"there is no file /\u{202e}gpj.\u{7}<img src=x onerror=alert(1)>"
    expect(page.locator("#cameras .reason")).to_have_text(shown)


def failed_logins(api: Api) -> float:
    """As `/metrics` tells."""
    found = re.search(r"^streamfleet_http_failed_logins_total (\S+)$", api.http.get("/metrics").text, re.M)
    assert found
    return float(found[1])
