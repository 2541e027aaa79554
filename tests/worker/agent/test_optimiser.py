"""A device builds variants in a process of its own, and believes little of what that process says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from streamfleet_api.local.demo import conveyor_model
from streamfleet_core.datasets.spool import Spool
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.sampling import Random, Sampling
from streamfleet_core.protocol.tasks.optimisation import Optimisation, OptimisationStat
from streamfleet_core.protocol.values import Assignment, Manifest, ModelRef, PipelineSpec, SourceSpec
from streamfleet_worker.agent import optimiser as module
from streamfleet_worker.agent.blob_cache import Source
from streamfleet_worker.agent.optimiser import Optimiser
from streamfleet_worker.agent.paths import WorkerPaths
from streamfleet_worker.engine.accelerators.choice import CPU
from tests.fakes import web
from tests.fakes.patience import PATIENCE
from tests.fakes.samples import picked

BOARD = "this kind of board"
MODEL = conveyor_model()
VARIANT = b"a variant"
SAID = {
    "board": BOARD,
    "provider": CPU,
    "calibrated": 8,
    "compared": 8,
    "boxes": 9,
    "ms": 4.0,
    "trials": [],
}
TRIAL = {
    "precision": "int8",
    "path": "/elsewhere/int8.onnx",
    "weights": {"sha256": "ab" * 32, "size": len(VARIANT)},
    "ms": 2.0,
    "speedup": 2.0,
    "agreement": 0.99,
    "class_agreement": 1.0,
    "shift": 0.0,
    "blind_frames": 0,
}

# Programs in place of the one that builds.
BEGIN = "import json, os, signal, sys, time\njob = json.loads(sys.stdin.buffer.read())\n"
BUILDS = f"""{BEGIN}
open(job['folder'] + '/int8.onnx', 'wb').write({VARIANT!r})
print(json.dumps({{'progress': 'building'}}), flush=True)
print(json.dumps({{'outcome': {dict(SAID, trials=[TRIAL])!r}}}))
"""
WAITS = (
    f"{BEGIN}print(json.dumps({{'progress': f'building in {{os.getpid()}}'}}), flush=True)\ntime.sleep(600)"
)


@dataclass
class Api:
    """Serves blobs, and takes variants."""

    blobs: dict[str, bytes]
    status: int = 201  # of the answer to a variant
    put: list[tuple[str, dict[str, list[str]], bytes]] = field(default_factory=list)  # path, query, content
    url: str = ""


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = api.blobs.get(self.path.rpartition("/")[2])
            self.answer(404 if content is None else 200, content or b"")

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            url = urlsplit(self.path)
            api.put.append((url.path, parse_qs(url.query), content))
            self.answer(api.status, json.dumps({"detail": "it is not what was asked for"}).encode())

        def answer(self, status: int, content: bytes) -> None:
            if self.headers["Authorization"] != "Bearer ticket":
                status, content = 401, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with web.serving(Handler) as api.url:
        yield api


class Builder(Optimiser):
    """An optimiser whose progress a test can wait for."""

    def __init__(self, paths: WorkerPaths) -> None:
        super().__init__(paths, Spool(paths.samples), board=BOARD, accelerator="cpu", provider="auto")
        self.told = asyncio.Event()

    def _tell(self, **changes: object) -> None:
        super()._tell(**changes)
        self.told.set()

    async def ended(self) -> OptimisationStat:
        """What it says at the end."""
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), PATIENCE)
        assert self.stat is not None
        assert self.stat.ended
        return self.stat

    async def builder(self) -> int:
        """The process, as soon as it has said which it is."""
        while self.stat is None or not self.stat.progress.startswith("building in "):
            self.told.clear()
            await asyncio.wait_for(self.told.wait(), PATIENCE)
        return int(self.stat.progress.split()[-1])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    path = tmp_path / "conveyor.onnx"
    path.write_bytes(MODEL)
    return validate_model(path, digest_of(path))


@pytest.fixture
def api(manifest: Manifest) -> Iterator[Api]:
    with serving(Api({manifest.digest: manifest.encode(), manifest.weights.sha256: MODEL})) as api:
        yield api


@pytest.fixture
def paths(tmp_path: Path) -> WorkerPaths:
    paths = WorkerPaths(tmp_path / "data")
    paths.make()
    return paths


@pytest.fixture
async def optimiser(paths: WorkerPaths, api: Api) -> AsyncIterator[Builder]:
    made = Builder(paths)
    made.use(Source(api.url, "ticket"))
    yield made
    await made.close()
    assert not paths.optimise.exists()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this program run in place of the one that builds."""

    def use(text: str) -> None:
        (tmp_path / "builder.py").write_text(text)
        monkeypatch.setattr(module, "_PROGRAM", "builder")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return use


@pytest.fixture
def wanted(manifest: Manifest) -> Optimisation:
    return Optimisation(
        id="1234",
        model=ModelRef("parts/1", manifest.digest),
        board=BOARD,
        pictures="scene://conveyor/5",
        frames=8,
    )


def using(wanted: Optimisation, dataset: str) -> Assignment:
    """A pipeline that uses the model, and keeps samples."""
    sampling = Sampling(dataset=dataset, strategies=(Random(name="every", traffic_percentage=1),))
    return Assignment(
        pipeline_id="belt",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="stop",
        spec=PipelineSpec(model=wanted.model, sources=(SourceSpec(0),), sampling=sampling),
    )


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_nothing_is_uploaded_of_a_dry_run(
    optimiser: Builder, api: Api, wanted: Optimisation, program: Callable[[str], None]
) -> None:
    program(BUILDS)

    optimiser.adopt(replace(wanted, dry_run=True), [])

    stat = await optimiser.ended()
    assert (stat.failure, stat.registered, stat.progress) == ("", False, "")
    assert stat.outcome is not None
    assert [each.path for each in stat.outcome.trials] == [""]
    assert api.put == []


async def test_the_best_is_uploaded_from_its_own_folder_with_what_was_measured(
    optimiser: Builder, api: Api, wanted: Optimisation, program: Callable[[str], None]
) -> None:
    program(BUILDS)

    optimiser.adopt(wanted, [])

    stat = await optimiser.ended()
    assert (stat.failure, stat.registered) == ("", True)
    ((path, query, content),) = api.put
    assert (path, content) == ("/v2/optimisations/1234/variant", VARIANT)
    assert {name: values for name, (values,) in query.items()} == {
        "weights": "ab" * 32,
        "board": BOARD,
        "provider": CPU,
        "precision": "int8",
        "speedup": "2.000",
        "agreement": "0.9900",
    }


async def test_a_variant_that_the_api_refuses_is_not_registered(
    optimiser: Builder, api: Api, wanted: Optimisation, program: Callable[[str], None]
) -> None:
    program(BUILDS)
    api.status = 422

    optimiser.adopt(wanted, [])

    stat = await optimiser.ended()
    assert stat.failure == "the API has not taken the variant: it is not what was asked for"
    assert not stat.registered
    assert stat.outcome is not None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (f"{BEGIN}print('hello')", "said what it cannot mean"),
        (f"{BEGIN}print(json.dumps({{'outcome': {{'board': 7}}}}))", "said what it cannot mean"),
        (f"{BEGIN}print('x' * 100_000)", "said what it cannot mean"),
        (f"{BEGIN}print(json.dumps({{'failure': 'the film is dark'}}))", "the film is dark"),
        (f"{BEGIN}sys.exit('no room')", "building ended with code 1: no room"),
        (f"{BEGIN}os.kill(os.getpid(), signal.SIGKILL)", "building was ended by signal 9"),
        (BUILDS.replace("'/int8.onnx'", "'/another.onnx'"), "has not written the file"),
        (BUILDS.replace(f"{len(VARIANT)}", f"{2 * len(VARIANT)}"), "has not written the file"),
        ("import os\nos.close(0)\nos._exit(3)", "building ended with code 3: it said nothing"),
    ],
)
async def test_a_process_that_fails_is_a_failure_with_its_reason(
    optimiser: Builder,
    api: Api,
    wanted: Optimisation,
    program: Callable[[str], None],
    text: str,
    failure: str,
) -> None:
    program(text)

    optimiser.adopt(wanted, [])

    stat = await optimiser.ended()
    assert failure in stat.failure
    assert not stat.registered
    assert api.put == []


async def test_the_process_gets_no_secret(
    optimiser: Builder,
    wanted: Optimisation,
    program: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMFLEET_TOKEN", "a secret")
    program(f"{BEGIN}print(json.dumps({{'failure': ' '.join(sorted(os.environ))}}))")

    optimiser.adopt(wanted, [])

    names = (await optimiser.ended()).failure.split()
    assert {"ORT_DISABLE_TELEMETRY", "PYTHONPATH"} <= set(names)
    assert "STREAMFLEET_TOKEN" not in names


async def test_what_is_not_wanted_any_more_ends_with_its_process(
    optimiser: Builder, wanted: Optimisation, program: Callable[[str], None]
) -> None:
    program(WAITS)
    optimiser.adopt(wanted, [])
    builder = await optimiser.builder()
    task = optimiser._task

    optimiser.adopt(None, [])

    assert optimiser.stat is None
    assert task is not None
    await asyncio.wait_for(asyncio.wait([task]), PATIENCE)
    assert not is_alive(builder)


async def test_another_task_takes_the_place_of_one_and_the_same_does_not(
    optimiser: Builder, wanted: Optimisation, program: Callable[[str], None]
) -> None:
    program(WAITS)
    optimiser.adopt(wanted, [])
    first = await optimiser.builder()

    optimiser.adopt(wanted, [])
    goes_on = is_alive(first)
    optimiser.adopt(replace(wanted, id="5678"), [])
    second = await optimiser.builder()

    assert goes_on
    assert not is_alive(first)
    assert is_alive(second)
    await optimiser.close()
    assert not is_alive(second)


async def test_a_device_of_another_kind_builds_nothing(optimiser: Builder, wanted: Optimisation) -> None:
    optimiser.adopt(replace(wanted, board="another"), [])

    assert (await optimiser.ended()).failure == f"expected a device of the kind another, this one is {BOARD}"


async def test_a_model_that_is_not_there_is_a_failure(
    optimiser: Builder, api: Api, wanted: Optimisation
) -> None:
    api.blobs.clear()

    optimiser.adopt(wanted, [])

    assert "does not exist (HTTP 404)" in (await optimiser.ended()).failure


async def test_a_file_that_pipelines_use_is_not_fetched_again(
    optimiser: Builder,
    api: Api,
    paths: WorkerPaths,
    manifest: Manifest,
    wanted: Optimisation,
    program: Callable[[str], None],
) -> None:
    cached = paths.models / manifest.weights.sha256
    cached.write_bytes(MODEL)
    del api.blobs[manifest.weights.sha256]
    program(f"{BEGIN}print(json.dumps({{'failure': job['weights_path']}}))")

    optimiser.adopt(wanted, [])

    assert (await optimiser.ended()).failure.endswith(cached.name)
    assert cached.read_bytes() == MODEL


@pytest.mark.parametrize(("kept", "enough"), [(15, False), (40, True)])
async def test_samples_of_the_pipelines_that_use_it_are_its_pictures(
    optimiser: Builder,
    paths: WorkerPaths,
    wanted: Optimisation,
    program: Callable[[str], None],
    kept: int,
    enough: bool,
) -> None:
    spool = Spool(paths.samples)
    for number in range(40):
        item = picked(number, dataset="parts" if number < kept else "others")
        spool.put(item.sample, item.image)
    program(f"{BEGIN}print(json.dumps({{'failure': f'{{len(os.listdir(job[\"pictures\"]))}} pictures'}}))")

    optimiser.adopt(replace(wanted, pictures=""), [using(wanted, "parts")])

    failure = (await optimiser.ended()).failure
    assert failure == (
        "16 pictures" if enough else "expected at least 16 samples of parts on this device, got 15"
    )
