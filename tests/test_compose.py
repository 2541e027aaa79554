"""What is deployed agrees with what is in it: Compose files, Dockerfile, locks, units, and the programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from streamfleet_api.config import parse as parse_api
from streamfleet_broker.__main__ import parse as parse_broker
from streamfleet_broker.config import BrokerConfig
from streamfleet_worker.config import parse as parse_worker
from tests.fakes import compose
from tests.fakes.images import DOCKERFILE, Instruction, instructions
from tests.fakes.ports_and_folders import ROOT

BIN = Path(sys.executable).parent
UNITS = sorted(ROOT.glob("*/streamfleet-*.service"))
LOCKS = sorted((ROOT / "compose/locks").glob("*.txt"))

_PORTS = re.compile(r"^(\w+_)?PORT$")
_SAMPLES = {  # a value that is not the default
    "STREAMFLEET_ADVERTISE": "10.0.0.9",
    "STREAMFLEET_BROKER": "tcp://10.0.0.9:7771",
    "STREAMFLEET_CAPACITY": "3",
    "STREAMFLEET_DEVICE_BYTES": "2345678",
    "STREAMFLEET_DEVICE_MESSAGES": "7",
    "STREAMFLEET_ENGINE_THREADS": "3",
    "STREAMFLEET_ACCELERATOR": "require",
    "STREAMFLEET_PROVIDER": "cuda",
    "STREAMFLEET_JOIN": "sf1.abc",
    "STREAMFLEET_TRUST": "10.0.0.0/8",
    "STREAMFLEET_ALLOWED_HOST": "fleet.example",
    "STREAMFLEET_CORS": "https://page.example",
    "STREAMFLEET_HEARTBEAT": "2",
    "STREAMFLEET_LEASE": "30",
    "STREAMFLEET_INSECURE": "1",
    "STREAMFLEET_TLS_CERT": "/certificate.pem",
    "STREAMFLEET_KEEP_AGE": "60",
    "STREAMFLEET_KEEP_DISK": "7654321",
    "STREAMFLEET_KEEP_MEMORY": "654321",
    "STREAMFLEET_SAMPLES_AGE": "7200",
    "STREAMFLEET_SAMPLES_SIZE": "1234567",
    "STREAMFLEET_SAMPLES_UPLOAD": "false",
    "ACTIVE_LEARNING_ENABLED": "True",
    "ACTIVE_LEARNING_TAGS": "night",
    "CONFIDENCE": "0.9",
    "IOU_THRESHOLD": "0.9",
    "CLASS_AGNOSTIC_NMS": "True",
    "MAX_CANDIDATES": "7",
    "MAX_DETECTIONS": "7",
}


def told_broker(environment: Mapping[str, str]) -> object:
    return BrokerConfig(**vars(parse_broker(["--data-dir", "/d"], environment)))


def told_api(environment: Mapping[str, str]) -> object:
    return parse_api(["--data-dir", "/d/api"], environment)


def told_worker(environment: Mapping[str, str]) -> object:
    return parse_worker(["--data-dir", "/d"], environment)


PROGRAMS: dict[str, Callable[[Mapping[str, str]], object]] = {
    "broker": told_broker,
    "api": told_api,
    "worker": told_worker,
}


# Compose files --------------------------------------------------------------------------------------------


def test_each_file_is_what_the_official_schema_says() -> None:
    checker = BIN / "check-jsonschema"
    if not checker.exists():
        pytest.skip("needs check-jsonschema")

    command = [str(checker), "--builtin-schema", "vendor.compose-spec", *map(str, compose.FILES)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", compose.FILES, ids=lambda path: path.name)
def test_docker_compose_itself_reads_a_file_as_these_tests_do(path: Path) -> None:
    reader = docker_compose()
    told = {"STREAMFLEET_HOST": "0.0.0.0", "CONFIDENCE": "0.7", "STREAMFLEET_VIDEOS": "/srv/films"}
    if reader is None:
        pytest.skip("needs Docker Compose, for which no engine must run")

    command = [*reader, "-f", str(path), "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **told}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    theirs, ours = json.loads(done.stdout)["services"], compose.load(path, told).services
    assert theirs.keys() == ours.keys()
    for name, service in ours.items():
        known = {key: value for key, value in theirs[name]["environment"].items() if value is not None}
        mounts = [
            (each["source"], each["target"], each.get("read_only", False)) for each in theirs[name]["volumes"]
        ]
        needs = {other: each["condition"] for other, each in theirs[name].get("depends_on", {}).items()}
        assert known == service.environment
        assert mounts == [(each.source, each.target, each.read_only) for each in service.volumes]
        assert needs == service.depends_on
        assert theirs[name]["build"].get("args") == service.keys["build"].get("args")
        for key in ("image", "read_only", "cap_drop", "security_opt", "restart", "runtime", "group_add"):
            assert theirs[name].get(key) == service.keys.get(key), key


def docker_compose() -> list[str] | None:
    """The command, if there is one that is newer than the first generation."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            said = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, timeout=30
            )
            if said.returncode == 0 and not said.stdout.startswith(("1.", "v1.")):
                return command
    return None


@pytest.mark.parametrize("path", compose.FILES, ids=lambda path: path.name)
def test_all_that_a_file_names_is_there(path: Path) -> None:
    fleet = compose.load(path)
    named = {each.source for service in fleet.services.values() for each in service.volumes if each.named}
    stages, arguments = stages_and_arguments()

    assert set(fleet.services) == {"broker", "api", "join", "worker"}
    assert named == fleet.volumes
    for service in fleet.services.values():
        build = service.keys["build"]
        assert service.depends_on.keys() <= fleet.services.keys()
        assert service.target in stages
        assert build.get("args", {}).keys() <= arguments
        assert (path.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    kind = fleet.services["worker"].keys["build"].get("args", {}).get("WORKER_KIND", "cpu")
    assert (ROOT / f"compose/locks/worker-{kind}.txt").exists()


@pytest.mark.parametrize("path", compose.FILES, ids=lambda path: path.name)
def test_nobody_has_more_rights_than_needed_and_all_come_back(path: Path) -> None:
    fleet = compose.load(path)

    for service in fleet.services.values():
        keys = service.keys
        assert (keys["cap_drop"], keys["read_only"]) == (["ALL"], True)
        assert keys["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in keys
        assert "cap_add" not in keys
        assert keys["restart"] == ("no" if service.name == "join" else "unless-stopped")


def test_a_device_begins_when_it_has_its_token_and_the_token_is_made_when_the_broker_is_there() -> None:
    services = compose.load(compose.FOLDER / "compose.cpu.yaml").services

    assert {name: dict(service.depends_on) for name, service in services.items()} == {
        "broker": {},
        "api": {"broker": "service_healthy"},
        "join": {"api": "service_started"},
        "worker": {"join": "service_completed_successfully"},
    }


@pytest.mark.parametrize("part", PROGRAMS)
def test_every_variable_that_is_passed_on_changes_what_the_program_is_told(part: str) -> None:
    service = compose.load(compose.FOLDER / "compose.cpu.yaml").services[part]
    passed = [name for name, value in service.keys["environment"].items() if value is None]

    for name in passed:
        assert PROGRAMS[part]({name: sample(name)}) != PROGRAMS[part]({}), name


def test_every_variable_is_explained() -> None:
    text = (compose.FOLDER / "README.md").read_text()
    explained = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text))
    for first, rest in re.findall(r"`(STREAMFLEET)_DEVICES_PORT`, (.*?) \|", text):
        explained |= {first + name for name in re.findall(r"`…(\w+)`", rest)}

    assert {name for path in compose.FILES for name in compose.variables(path)} <= explained


def sample(name: str) -> str:
    """A value that is not the default."""
    if _PORTS.match(name):
        return "12345"
    if name.endswith("_TIMEOUT"):
        return "7.5"
    return _SAMPLES.get(name, "0.0.0.0")


# Dockerfile -----------------------------------------------------------------------------------------------


def stages_and_arguments() -> tuple[set[str], set[str]]:
    """The names that the Dockerfile defines."""
    found = instructions(DOCKERFILE.read_text())
    stages = {each.rest.partition(" AS ")[2] for each in found if each.word == "FROM"}
    return stages, {each.rest.partition("=")[0] for each in found if each.word == "ARG"}


def of_stage(name: str) -> list[Instruction]:
    """What one stage says."""
    found = instructions(DOCKERFILE.read_text())
    begins = next(
        i for i, each in enumerate(found) if each.word == "FROM" and each.rest.endswith(f" AS {name}")
    )
    ends = next((i for i in range(begins + 1, len(found)) if found[i].word == "FROM"), len(found))
    return found[begins + 1 : ends]


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=f"{BIN}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("needs hadolint")

    linted = subprocess.run(
        [linter, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, timeout=60
    )

    assert linted.stdout + linted.stderr == ""


def test_an_image_says_the_ports_that_its_program_has() -> None:
    ports: Any = {
        part: {int(port) for each in of_stage(part) if each.word == "EXPOSE" for port in each.rest.split()}
        for part in ("broker", "api", "worker")
    }
    broker, api = BrokerConfig(data_dir=Path("/d")), parse_api(["--data-dir", "/d/api"], {})

    assert ports == {
        "broker": {
            broker.devices_port,
            broker.relay_in_port,
            broker.relay_out_port,
            broker.pictures_in_port,
            broker.pictures_out_port,
        },
        "api": {api.port, api.manager_port},
        "worker": set(),
    }


@pytest.mark.parametrize("part", PROGRAMS)
def test_an_image_runs_as_nobody_in_particular_and_can_be_asked_how_it_is(part: str) -> None:
    words = {each.word: each.rest for each in of_stage(part)}

    assert words["USER"] == "10001:10001"
    assert words["ENTRYPOINT"].startswith(f'["streamfleet-{part}"')
    assert "CMD" in words["HEALTHCHECK"]


def test_the_wheel_is_built_of_all_our_packages() -> None:
    tomllib = pytest.importorskip("tomllib")  # it came with 3.11
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {each.rest.split()[0] for each in of_stage("build") if each.word == "COPY"}

    assert {package.split("/")[0] + "/" for package in built["packages"]} == {
        folder for folder in copied if "/" in folder and not folder.startswith("compose/")
    }


def test_the_dockerfile_fetches_from_nowhere_by_name() -> None:
    assert not re.search(r"https?://|--index-url|--extra-index-url", DOCKERFILE.read_text())


def test_the_commands_without_compose_name_what_compose_names() -> None:
    text = (compose.FOLDER / "README.md").read_text()
    lines = [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ docker run ")]
    services = compose.load(compose.FOLDER / "compose.cpu.yaml").services
    mounted = {each.target: each for service in services.values() for each in service.volumes if each.named}

    assert [line[-1] for line in lines] == ["streamfleet-broker", "streamfleet-api", "streamfleet-worker"]
    for line in lines:
        assert {"--init", "unless-stopped", "host"} <= set(line)
        for volume in (line[i + 1] for i, word in enumerate(line) if word == "-v"):
            source, target, *_ = volume.split(":")
            assert mounted[target].source == source


# Jetson ---------------------------------------------------------------------------------------------------

_JETSON_PAGE = ROOT / "docs/how-to/jetson.md"


def jetson_arguments(version: str) -> dict[str, str]:
    """What the Compose file of a JetPack tells its Dockerfile."""
    services = compose.load(compose.FOLDER / f"compose.jetpack-{version}.yaml").services
    return dict(services["worker"].keys["build"]["args"])


def commands_of(stage: str) -> str:
    """All commands of a stage."""
    return " ".join(each.rest for each in of_stage(stage) if each.word == "RUN")


@pytest.mark.parametrize("version", compose.JETPACKS)
def test_the_image_of_a_jetson_is_built_and_run_with_its_own_parts(version: str) -> None:
    worker = compose.load(compose.FOLDER / f"compose.jetpack-{version}.yaml").services["worker"]

    assert (worker.target, worker.keys["runtime"]) == ("worker-jetson", "nvidia")
    assert worker.keys["image"] == f"streamfleet-worker:jetpack-{version}"
    asked = {each.rest for each in of_stage("worker-jetson") if each.word == "ARG"}
    told = {name for name, value in jetson_arguments(version).items() if value}
    assert told - {"WORKER_BASE", "WORKER_KIND"} >= asked - {"L4T_PACKAGES"}


@pytest.mark.parametrize("version", compose.JETPACKS)
def test_the_page_says_the_versions_that_the_image_of_a_jetson_gets(version: str) -> None:
    told = jetson_arguments(version)
    (row,) = re.findall(rf"^\| {version} \|.*$", _JETSON_PAGE.read_text(), re.MULTILINE)
    cells = [cell.strip(" `") for cell in row.strip("|").split("|")]

    assert cells == [
        version,
        f"compose.jetpack-{version}.yaml",
        told["WORKER_BASE"],
        compose.JETPACKS[version],
        told["L4T_RELEASE"],
        told["CUDA"].replace("-", "."),
        told["TENSORRT"],
    ]


def test_a_device_alone_on_a_jetson_is_run_as_compose_runs_it() -> None:
    worker = compose.load(compose.FOLDER / "compose.jetpack-6.2.yaml").services["worker"]
    (line,) = re.findall(r"^\$ (docker run .*)$", _JETSON_PAGE.read_text(), re.MULTILINE)
    options = dict(re.findall(r"--?([a-z-]+)(?: ([^-\s]\S*))?", line))

    assert shlex.split(line)[-1] == worker.keys["image"]
    assert options["runtime"] == worker.keys["runtime"]
    assert options["network"] == worker.keys["network_mode"]
    assert [options["cap-drop"]] == worker.keys["cap_drop"]
    assert [options["group-add"]] == worker.keys["group_add"]
    assert worker.keys["security_opt"][0].startswith(options["security-opt"])
    assert {"read-only", "init"} <= options.keys()


def test_the_image_of_a_jetson_can_list_modules_of_the_kernel() -> None:
    assert re.search(r"\bkmod\b", commands_of("worker-jetson"))


def test_the_packages_of_nvidia_have_the_version_that_was_asked_for_and_are_signed() -> None:
    commands = commands_of("worker-jetson")

    assert '"python3-libnvinfer=${TENSORRT}.*"' in commands
    assert '"cuda-cudart-${CUDA}"' in commands
    assert "[signed-by=" in commands
    assert "trusted=yes" not in commands
    assert "unauthenticated" not in commands


def test_no_base_image_floats() -> None:
    named = {
        each.rest.partition(" AS ")[0] for each in instructions(DOCKERFILE.read_text()) if each.word == "FROM"
    }
    stages, _ = stages_and_arguments()
    bases = {
        each.rest.partition("=")[2]
        for each in instructions(DOCKERFILE.read_text())
        if each.word == "ARG" and each.rest.partition("=")[0].endswith("BASE")
    }
    bases |= {jetson_arguments(version)["WORKER_BASE"] for version in compose.JETPACKS}

    assert {base for base in named - stages if not base.startswith("${")} == set()
    assert all(re.fullmatch(r"(debian|ubuntu):(?!latest)[\w.-]+", base) for base in bases), bases


def test_the_engine_sees_of_the_systems_packages_tensorrt_alone() -> None:
    commands = " ".join(each.rest for each in instructions(DOCKERFILE.read_text()) if each.word == "RUN")

    assert "system-site-packages" not in commands
    assert ".pth" not in commands


# locks ----------------------------------------------------------------------------------------------------


def pinned(path: Path) -> set[tuple[str, str]]:
    """Names and versions in a lock; the same name may have several, for several Pythons."""
    return set(re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_an_image_has_what_was_tested(path: Path) -> None:
    tested = dict(pinned(ROOT / "requirements.lock")).keys()
    here = pinned(path)

    assert here
    assert {each for each in here if each[0] in tested} <= pinned(ROOT / "requirements.lock")
    others = {name for name, _ in here if name not in tested}
    assert all(name.startswith(("onnxruntime-gpu", "nvidia-")) for name in others), others


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_nothing_is_installed_without_a_hash(path: Path) -> None:
    for entry in re.split(r"\n(?=[\w])", path.read_text()):
        if "==" in entry:
            assert "--hash=sha256:" in entry, entry[:80]


@pytest.mark.parametrize(
    ("lock", "extras"), [("broker", []), ("api", ["api"]), ("worker-cpu", ["worker", "cpu"])]
)
def test_a_lock_has_all_that_its_program_asks_for(lock: str, extras: list[str]) -> None:
    tomllib = pytest.importorskip("tomllib")  # it came with 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]

    names = {re.match(r"[\w.-]+", each)[0].lower() for each in wanted}  # type: ignore[index]

    assert names <= {name for name, _ in pinned(ROOT / f"compose/locks/{lock}.txt")}


# units ----------------------------------------------------------------------------------------------------


def settings(path: Path) -> dict[str, str]:
    """The lines of a unit; of those that come twice, the last."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"\w+=", line))


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for unit in UNITS:
        # Whether the programs are there is looked at too, and here they are elsewhere.
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/streamfleet/bin", str(BIN)))

    command = ["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert len(UNITS) == 3
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_gives_its_program_what_it_needs(path: Path) -> None:
    part = path.stem.removeprefix("streamfleet-")
    found = settings(path)
    program, *options = found["ExecStart"].replace("%S", "/var/lib").split()

    assert Path(program).name == f"streamfleet-{part}"
    parse: Any = {"broker": parse_broker, "api": parse_api, "worker": parse_worker}[part]
    assert str(parse(options, {}).data_dir) == f"/var/lib/{found['StateDirectory']}"
    assert (found["Restart"], found["RestartSec"], found["User"]) == ("always", "3", "streamfleet")
    assert int(found["TimeoutStopSec"]) > 5
    assert ("PrivateDevices" in found) == (part != "worker")  # it has the cameras
