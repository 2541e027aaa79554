"""The wheel and the sdist as users install them. Not among the tests: they install all that a fleet needs.

Nothing is fetched that is in the cache of uv already, which `make install` fills.

python -m pytest tests/check_package.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from streamfleet_api.local.demo import demo_model
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fleet.harness import Fleet

_OUTER = ("STREAM", "MAKE", "MFLAGS")  # what belongs to the make, and the fleet, that started us

UV = Path(sys.executable).with_name("uv")
PACKAGES = ("streamfleet", "streamfleet_api", "streamfleet_broker", "streamfleet_core", "streamfleet_worker")
PROGRAMS = ("streamfleet", "streamfleet-api", "streamfleet-broker", "streamfleet-worker")

TYPED = """
import streamfleet
from streamfleet.results import Pipeline

with streamfleet.Client() as client:
    made: Pipeline = client.put_pipeline("door", model="shapes/1", sources=[0])
    reveal_type(made.fps)
"""
LIBRARY = """
import sys
from streamfleet import InferencePipeline

found = []


def take(predictions, frame):
    found.append(len(predictions["predictions"]))
    pipeline.terminate()


pipeline = InferencePipeline.init("TestPatternStreamProducer", sys.argv[1], take)
pipeline.start()
pipeline.join()
print(found[0])
"""
FLEET = """
import sys
import streamfleet

with streamfleet.Client.from_environment() as client:
    client.add_model("shapes/1", sys.argv[1])
    client.put_pipeline("pattern", model="shapes/1", sources=["TestPatternStreamProducer"])
    with streamfleet.subscribe("pattern", timeout=30) as predictions:
        print(len(next(predictions).detections))
"""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a command says. Raises: AssertionError, with all of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OUTER)}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def installed(folder: Path, wheel: Path, extras: str = "") -> Path:
    """The `bin` of a new environment with the wheel, and what the lock holds of the rest."""
    run(UV, "venv", "--quiet", "--python", sys.executable, folder)
    target = f"{wheel}[{extras}]" if extras else str(wheel)
    install = (UV, "pip", "install", "--quiet", "--python", folder / "bin/python")
    what = ("--constraint", ROOT / "requirements.lock", target)
    try:
        run(*install, "--offline", *what)
    except AssertionError:  # the cache lacks something
        run(*install, *what)
    return folder / "bin"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder)
    (sdist,) = folder.glob("*.tar.gz")
    unpacked = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=source)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def everything(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with what a whole fleet needs."""
    extras = "worker,cpu,api,client,detections"
    return installed(tmp_path_factory.mktemp("everything") / "venv", wheel, extras)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the test pattern, as a file."""
    path = tmp_path_factory.mktemp("model") / "shapes.onnx"
    path.write_bytes(demo_model())
    return path


def test_the_wheel_holds_each_package_with_its_types_and_what_it_serves(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    folders = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert folders == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"streamfleet_api/dashboard/static/index.html", "streamfleet_api/local/conveyor.onnx"} <= names


def test_the_wheel_alone_subscribes_and_tells_what_the_rest_needs(wheel: Path, tmp_path: Path) -> None:
    programs = installed(tmp_path / "venv", wheel)
    python = programs / "python"

    assert run(python, "-c", "import streamfleet; print(streamfleet.subscribe.__name__)") == "subscribe\n"
    told = "import streamfleet\ntry: streamfleet.Client\nexcept ImportError as exc: print(exc)"
    assert run(python, "-c", told).endswith("pip install 'streamfleet[client]'\n")


def test_the_programs_and_the_package_run(everything: Path) -> None:
    python = everything / "python"
    version = run(
        python, "-I", "-c", "import streamfleet; streamfleet.Client; print(streamfleet.__version__)"
    )

    assert run(everything / "streamfleet", "--version") == f"streamfleet {version}"
    for program in PROGRAMS:
        assert "usage" in run(everything / program, "--help").lower()
    every = "import streamfleet; print(all(getattr(streamfleet, name) for name in streamfleet.__all__))"
    assert run(python, "-I", "-c", every) == "True\n"


def test_the_library_predicts(everything: Path, model: Path, tmp_path: Path) -> None:
    program = tmp_path / "library.py"
    program.write_text(LIBRARY)

    assert run(everything / "python", program, model, cwd=tmp_path) == "3\n"


def test_a_fleet_starts_and_predicts(everything: Path, model: Path, tmp_path: Path) -> None:
    program = tmp_path / "fleet.py"
    program.write_text(FLEET)
    with short_folder() as home:
        fleet = Fleet(home)
        fleet.command[0] = str(everything / "streamfleet")
        try:
            fleet.start()
            steered = {"HOME": str(home), "STREAMFLEET_URL": fleet.url}

            assert run(everything / "python", program, model, cwd=tmp_path, **steered) == "3\n"
        finally:
            fleet.stop()


def test_a_program_of_the_user_is_checked_against_its_types(everything: Path, tmp_path: Path) -> None:
    program = tmp_path / "typed.py"
    program.write_text(TYPED)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", everything / "python")

    said = run(*mypy, "--cache-dir", tmp_path / "cache", program, cwd=tmp_path)

    assert "float" in said
    assert "Any" not in said
