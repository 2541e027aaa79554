"""The page at `/` in a real browser: pictures that move, and what happens to the fleet as it happens."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright  # noqa: E402

from tests.core.models.test_model_validation import NAMES, save  # noqa: E402
from tests.fakes.patience import PATIENCE  # noqa: E402
from tests.fakes.ports_and_folders import short_folder  # noqa: E402
from tests.fleet.harness import BIN, LOADING, Fleet  # noqa: E402

CHROMIUM = shutil.which("chromium")
# Where screenshots are kept, for whoever wants to look at them.
PICTURES = os.environ.get("STREAMFLEET_TEST_PICTURES")
PATTERN = "TestPatternStreamProducer"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Its broker hangs, and devices join it."""
    return own_fleet


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    expect.set_options(timeout=1000 * LOADING)  # ms
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, fleet: Fleet) -> Iterator[Page]:
    """The fleet's page, which says nothing on the console of the browser."""
    complaints: list[str] = []

    def complained(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(1000 * LOADING)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", complained)
    page.goto(fleet.url)
    yield page
    page.close()
    assert complaints == []


def keep(page: Page, name: str) -> None:
    """A screenshot, where they are wanted."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


# Pixels of the colours in which supervision draws its first three boxes; the pattern itself has none of them.
BOX_PIXELS = """canvas => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = [];
    for (let i = 0; i < data.length; i += 4) {
        const [red, green, blue] = [data[i], data[i + 1], data[i + 2]];
        const grey = Math.min(Math.abs(red - green), Math.abs(green - blue)) < 25;
        const mixed = Math.min(red, Math.max(green, blue)) > 60 && Math.max(red, green, blue) > 120;
        if (mixed && !grey) found.push(i / 4);
    }
    return found;
}"""


# Keeps what an element shows from now on: a broker that hangs is replaced, perhaps before the test reads it.
KEEP_TEXTS = """element => {
    window.shown = [];
    const keep = () => { if (!element.hidden) window.shown.push(element.textContent); };
    new MutationObserver(keep).observe(element, {attributes: true, childList: true, characterData: true});
}"""


def test_a_camera_shows_moving_pictures_with_boxes(clean: Fleet, page: Page) -> None:
    pipeline_id = clean.initialise(PATTERN, "shapes/1")
    canvas = page.locator(f"[data-pipeline='{pipeline_id}'] canvas")

    expect(page.locator(f"[data-pipeline='{pipeline_id}'] .badge")).to_have_text("running")
    page.wait_for_function("canvas => canvas.dataset.drawn >= 3", arg=canvas.element_handle())
    first, drawn = canvas.evaluate(BOX_PIXELS), canvas.evaluate("canvas => Number(canvas.dataset.drawn)")
    more = [canvas.element_handle(), drawn + 5]
    page.wait_for_function("([canvas, count]) => canvas.dataset.drawn >= count", arg=more)
    later = canvas.evaluate(BOX_PIXELS)

    keep(page, "camera")
    assert len(first) > 100
    assert len(later) > 100
    assert len(set(first) - set(later)) > len(first) / 4, "the boxes stand still"


def test_a_killed_worker_is_shown(clean: Fleet, page: Page, tmp_path: Path) -> None:
    with joined(clean, "edge", tmp_path / "worker.log") as worker:
        device = page.locator("[data-device='edge']")
        expect(device).to_have_attribute("data-state", "ready")
        pipeline_id = clean.initialise(PATTERN, "shapes/1", device="edge")
        expect(page.locator(f"[data-pipeline='{pipeline_id}'] .badge")).to_have_text("running")
        keep(page, "before")

        os.killpg(worker.pid, signal.SIGKILL)
        expect(device).not_to_have_attribute("data-state", "ready")

        expect(page.locator("#events li").first).to_contain_text("edge")
        keep(page, "after")


def test_a_device_whose_models_lack_its_accelerator_says_why_and_what_to_do(page: Page) -> None:
    def lacking(route: Route) -> None:
        response = route.fetch()
        devices = response.json()["devices"]
        missing = {"reason": "onnxruntime has no CUDA", "remedy": "pip install <b>another</b>"}
        engine = {"digest": "ab" * 32, "state": "ready", "provider": "CPUExecutionProvider"}
        engine["activity"] = "building a TensorRT plan, 3 min"
        devices[0] |= {"missing_accelerator": missing, "engines": [engine]}
        devices[0] |= {"state": "ready", "silent": 0.0, "age": 0.0}  # it may have been stopped before
        route.fulfill(response=response, json={"devices": devices})

    page.route("**/v2/devices?*", lacking)
    page.reload()

    device = page.locator("#devices li").first
    expect(device.locator(".problem")).to_have_text("onnxruntime has no CUDA. pip install <b>another</b>")
    expect(device.locator(".metrics")).to_contain_text("models on CPU · building a TensorRT plan, 3 min")


def test_a_device_that_takes_no_pipelines_says_so_in_its_badge(clean: Fleet, page: Page) -> None:
    badge = page.locator("[data-device='local-1'] .badge")
    expect(badge).to_have_text("ready")

    clean.cli("devices", "cordon", "local-1")
    try:
        expect(badge).to_have_text("cordoned")
        expect(badge).to_have_class("badge warn")
    finally:
        clean.cli("devices", "uncordon", "local-1")

    expect(badge).to_have_text("ready")


def test_a_long_list_is_shown_page_by_page(page: Page) -> None:
    names = [f"cam-{number:03}" for number in range(105)]
    shown = {"status": "paused", "device": "edge", "reason": "", "fps": None, "latency": None, "age": None}

    def listed(route: Route) -> None:
        asked = parse_qs(urlsplit(route.request.url).query)
        first, limit = int(asked.get("after", ["0"])[0]), int(asked["limit"][0])
        rows = [{"pipeline_id": name, **shown} for name in names[first : first + limit]]
        following = str(first + limit) if first + limit < len(names) else None
        route.fulfill(json={"pipelines": rows, "next": following})

    page.route("**/v2/pipelines?*", listed)
    page.route_web_socket(re.compile("/pictures"), lambda _: None)
    page.reload()

    pages = page.locator("#camera-pages")
    expect(page.locator("#cameras article")).to_have_count(100)
    expect(pages).to_contain_text(re.compile("1 . 100"))
    pages.get_by_text("Next").click()
    expect(page.locator("#cameras article")).to_have_count(5)
    expect(page.locator("#cameras article").first).to_contain_text("cam-100")
    keep(page, "second-page")
    del names[100:]
    expect(page.locator("#cameras article").first).to_contain_text("cam-000")
    expect(pages).to_be_hidden()
    expect(page.locator("#device-pages")).to_be_hidden()


def test_a_broker_that_hangs_is_shown(clean: Fleet, browser: Browser, fleet: Fleet) -> None:
    page = browser.new_page()  # whose console may complain of answers that do not come
    page.set_default_timeout(1000 * LOADING)
    page.goto(fleet.url)
    problem = page.locator("#problem")
    expect(page.locator("#devices li").first).to_be_visible()
    expect(problem).to_be_hidden()
    problem.evaluate(KEEP_TEXTS)

    broker = clean.kill("sf-broker", signal.SIGSTOP)
    try:
        page.wait_for_function("() => shown.some(text => text.includes('The broker does not respond'))")
        keep(page, "broker")
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have been replaced meanwhile
            os.kill(broker, signal.SIGCONT)

    expect(problem).to_be_hidden()
    page.close()


def test_the_details_of_a_camera_pause_and_resume_it(clean: Fleet, page: Page) -> None:
    pipeline_id = clean.initialise(PATTERN, "shapes/1")
    badge = page.locator(f"[data-pipeline='{pipeline_id}'] .badge")
    expect(badge).to_have_text("running")

    page.locator(f"[data-pipeline='{pipeline_id}'] .name").click()
    keep(page, "details")
    page.get_by_role("button", name="Pause").click()
    expect(badge).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()

    expect(badge).to_have_text("running")


@contextlib.contextmanager
def joined(fleet: Fleet, name: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that nobody restarts."""
    token = fleet.http.post("/v2/devices", json={"name": name}).json()["token"]
    with short_folder() as home, log.open("ab") as output:
        process = subprocess.Popen(
            [str(BIN / "streamfleet-worker"), "--data-dir", str(home / "worker"), "--join", token],
            env=fleet.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_model_has_a_card_with_an_address_of_its_own(
    clean: Fleet, page: Page, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    told = {"license": "AGPL-3.0", "author": "<img src=x onerror=alert(1)>", "description": "of cats"}
    file = save(tmp_path / "cats.onnx", metadata={**NAMES, **told})
    clean.add_model("cats/1", file, "--replace")
    pipeline_id = clean.initialise(PATTERN, "shapes/1")
    page.emulate_media(color_scheme=scheme)
    page.reload()

    page.locator("[data-model='cats/1'] a").click()

    facts = page.locator("#model-facts")
    expect(page.locator("#model-title")).to_have_text("cats/1")
    expect(facts).to_contain_text("AGPL-3.0")
    expect(facts).to_contain_text("<img src=x onerror=alert(1)>")
    expect(facts).to_contain_text("64, float32")
    expect(page.locator("#model-labels li")).to_have_text(["cat", "dog's"])
    keep(page, f"model-{scheme}")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#model")).to_be_hidden()
    expect(page).to_have_url(f"{clean.url}/")  # the card is gone from it, which the browser tells late
    keep(page, f"models-{scheme}")
    page.goto(f"{clean.url}/#model/shapes%2F1")
    page.reload()
    expect(page.locator("#model-title")).to_have_text("shapes/1")
    expect(facts).to_contain_text(pipeline_id)


def test_a_card_that_follows_another_one_at_once_keeps_its_address(
    clean: Fleet, page: Page, tmp_path: Path
) -> None:
    clean.add_model("cats/1", save(tmp_path / "cats.onnx", metadata=NAMES), "--replace")
    page.goto(f"{clean.url}/#model/cats%2F1")
    page.reload()
    expect(page.locator("#model-facts")).to_contain_text("float32")

    page.evaluate("() => { document.querySelector('#model').close(); location.hash = '#model/shapes%2F1'; }")
    expect(page.locator("#model-title")).to_have_text("shapes/1")
    expect(page.locator("#model-facts")).to_contain_text("float32")

    expect(page).to_have_url(f"{clean.url}/#model/shapes%2F1")


def test_a_model_that_is_gone_is_told_in_its_card(page: Page, fleet: Fleet, browser: Browser) -> None:
    other = browser.new_page()  # whose console may complain of the answer 404
    other.set_default_timeout(1000 * LOADING)
    other.goto(f"{fleet.url}/#model/gone%2F1")

    expect(other.locator("#model-note")).to_contain_text("no model gone/1")
    other.close()


def test_a_roll_out_is_listed_and_can_be_ended_there(clean: Fleet, page: Page, demo_file: Path) -> None:
    clean.add_model("shapes/2", demo_file, "--replace")
    pipeline_id = clean.initialise(PATTERN, "shapes/1")
    expect(page.locator("#rollouts-section")).to_be_hidden()
    started = {"id": "to-two", "model": "shapes/1", "to": "shapes/2", "observe": 600, "shadow": 0}
    assert clean.http.post("/v2/rollouts", json=started).status_code == 201
    page.on("dialog", lambda dialog: dialog.accept())

    entry = page.locator("[data-rollout='to-two']")
    expect(entry.locator("strong")).to_have_text("shapes/1 → shapes/2")
    expect(entry.locator(".badge")).to_have_text("measuring")
    expect(entry.locator(".metrics").first).to_have_text("1 pipeline · 1 waiting")
    keep(page, "rollout")
    entry.get_by_role("button", name="Return").click()

    expect(entry.locator(".badge")).to_have_text("returned")
    expect(entry.locator(".reason")).to_have_text("it was cancelled")
    expect(entry.get_by_role("button")).to_have_count(0)
    keep(page, "rollout-returned")
    assert clean.http.get(f"/v2/pipelines/{pipeline_id}").json()["spec"]["model"]["id"] == "shapes/1"
