"""A Dockerfile carried out without Docker: its stages become folders, its commands run in them by chroot.

A base image is what debootstrap makes of the distribution that its tag names. A container is a process in
namespaces of its own (mounts, PIDs), with the image's user, environment, entrypoint and health check, and
with what a Compose file of ours says of it: a read-only root, no capabilities, volumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fakes.compose import Service, Volume
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT

CONTEXT = ROOT
DOCKERFILE = CONTEXT / "compose/Dockerfile"
TOOLS = ("debootstrap", "unshare", "chroot", "mount", "setpriv")

_BUILD_TIMEOUT = 400  # seconds for one command of the Dockerfile
_STOP_TIMEOUT = 15.0  # seconds, as `stop_grace_period` has it
_RESOLVER, _CERTIFICATES = "/etc/resolv.conf", "/run/certificates.crt"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of a Dockerfile, its lines joined."""

    word: str
    rest: str


@dataclass(frozen=True, slots=True)
class Image:
    """A stage that has been built."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


def instructions(text: str) -> list[Instruction]:
    """What a Dockerfile says, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(None, 1) for line in joined.splitlines()]
    return [Instruction(word, rest) for word, rest in found]


class NoBase(Exception):
    """There is no base image to be had, as there is no network or no archive of the distribution."""


class Images:
    """The images of our Dockerfile, made below a folder, each stage when it is first wanted."""

    def __init__(self, folder: Path, **arguments: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._arguments = dict(arguments)
        self._stages: dict[str, tuple[str, list[Instruction]]] = {}  # name → base, instructions
        self._built: dict[str, Image] = {}
        self._network = _network()
        self._certificates: dict[str, str] = {}
        if certificates := self._network.get("PIP_CERT"):  # of this machine, whose registries may need it
            self._certificates[certificates] = self._network["PIP_CERT"] = _CERTIFICATES
        self._read(instructions(DOCKERFILE.read_text()))

    def build(self, name: str) -> Image:
        """A stage, or the image that a base names. Raises: NoBase."""
        if name not in self._built:
            self._built[name] = self._stage(name) if name in self._stages else self._base(name)
        return self._built[name]

    def _read(self, all_of_it: list[Instruction]) -> None:
        stage: list[Instruction] | None = None
        for each in all_of_it:
            if each.word == "FROM":
                base, _, name = each.rest.partition(" AS ")
                stage = []
                self._stages[name] = (self._filled(base, {}), stage)
            elif stage is not None:
                stage.append(each)
            elif each.word == "ARG":
                name, _, default = each.rest.partition("=")
                self._arguments.setdefault(name, default)

    def _base(self, image: str) -> Image:
        found = re.fullmatch(r"debian:(\w+)-slim", image)
        assert found, f"expected debian:SUITE-slim, got {image}: debootstrap makes no other"
        root = self._folder / f"base-{found[1]}"
        try:
            _run(["debootstrap", "--variant=minbase", found[1], str(root)], {**os.environ})
        except AssertionError as exc:
            raise NoBase(str(exc)) from exc
        return Image(root)

    def _stage(self, name: str) -> Image:
        base, steps = self._stages[name]
        before = self.build(base)
        image = replace(before, root=self._folder / name, environment=dict(before.environment))
        _run(["cp", "-a", "--reflink=auto", str(before.root), str(image.root)], {**os.environ})
        arguments: dict[str, str] = {}
        for step in steps:
            image = self._carried_out(image, step, arguments)
        return image

    def _carried_out(self, image: Image, step: Instruction, arguments: dict[str, str]) -> Image:
        match step.word:
            case "ARG":
                arguments[step.rest] = self._arguments[step.rest]
            case "RUN":
                environment = {**image.environment, **arguments, **self._network, "HOME": "/root"}
                command = ["/bin/sh", "-c", f"cd {image.folder} && {step.rest}"]
                _run(
                    _isolated(image.root, command, {_RESOLVER: _RESOLVER, **self._certificates}), environment
                )
            case "COPY" | "ADD":
                self._copy(image, shlex.split(self._filled(step.rest, arguments)))
            case "ENV":
                told = dict(each.split("=", 1) for each in shlex.split(step.rest))
                filled = {key: self._filled(value, image.environment) for key, value in told.items()}
                return replace(image, environment={**image.environment, **filled})
            case "WORKDIR":
                (image.root / step.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
                return replace(image, folder=step.rest)
            case "USER":
                return replace(image, user=step.rest)
            case "EXPOSE":
                return replace(image, ports=tuple(map(int, step.rest.split())))
            case "HEALTHCHECK":
                return replace(image, health=tuple(json.loads(step.rest.partition(" CMD ")[2])))
            case "ENTRYPOINT":
                return replace(image, entrypoint=tuple(json.loads(step.rest)))
            case _:
                raise AssertionError(f"{step.word} is not carried out here")
        return image

    def _copy(self, image: Image, words: list[str]) -> None:
        options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--"))
        *sources, target = (word for word in words if not word.startswith("--"))
        context = self.build(options["from"]).root if "from" in options else CONTEXT
        into = image.root / (image.folder + "/" + target if target[0] != "/" else target).lstrip("/")
        (into if target.endswith("/") else into.parent).mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source.startswith(("http://", "https://")):
                _fetch(source, into)
                continue
            path = context / source.lstrip("/")
            if not path.is_dir():
                shutil.copy2(path, into)
            elif into.exists():
                _run(["cp", "-a", f"{path}/.", str(into)], {**os.environ})
            else:
                _run(["cp", "-a", str(path), str(into)], {**os.environ})
        if "chown" in options:
            _run(["chown", "-R", options["chown"], str(into)], {**os.environ})

    def _filled(self, text: str, environment: Mapping[str, str]) -> str:
        known = {**self._arguments, **environment}
        return re.sub(r"\$\{?(\w+)\}?", lambda found: known[found[1]], text)


class Container:
    """A service that runs in its image, as `docker compose up` runs it."""

    def __init__(self, image: Image, service: Service, folder: Path, log: Path) -> None:
        self._image = image
        self._service = service
        self._folder = folder
        self._log = log
        self._environment = {**image.environment, **service.environment, "HOME": "/var/lib/streamfleet"}
        entrypoint = service.keys.get("entrypoint", image.entrypoint)
        self._command = [*entrypoint, *service.keys.get("command", ())]
        for volume in service.volumes:
            self._prepare(volume)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text()

    def start(self) -> None:
        """Begin."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._inside(self._command),
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait(self, timeout: float) -> int:
        """The exit code of one that ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same image and volumes, as `docker compose exec`."""
        return subprocess.run(
            self._inside(list(command)),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def is_healthy(self) -> bool:
        """What the image's own health check says."""
        assert self._process is not None
        assert self._process.poll() is None, f"{self._service.name} has ended\n{self.log}"
        return self.execute(*self._image.health).returncode == 0

    def stop(self) -> int:
        """SIGTERM, as `docker stop`; the exit code. Raises: AssertionError when it takes too long."""
        assert self._process is not None
        (first,) = _children(self._process)
        os.kill(first, signal.SIGTERM)
        try:
            return self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired as exc:
            self.kill()
            raise AssertionError(f"{self._service.name} did not stop\n{self.log}") from exc

    def kill(self) -> None:
        """The end of all its processes: the kernel's, with the first of their PID namespace.

        That one does not go with its parent: who takes another user is no more told of its parent's death.
        """
        if self._process is not None and self._process.poll() is None:
            children = _children(self._process)
            for first in children:
                os.kill(first, signal.SIGKILL)
            if not children:
                self._process.kill()
            self._process.wait(_STOP_TIMEOUT)

    def path(self, volume: Volume) -> Path:
        """Where the host has it."""
        return self._folder / volume.source if volume.named else Path(volume.source)

    def _prepare(self, volume: Volume) -> None:
        """A volume that is new gets what the image has there, and whose it is."""
        path = self.path(volume)
        if volume.named and not path.exists():
            original = self._image.root / volume.target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if original.exists():
                _run(["cp", "-a", str(original), str(path)], {**os.environ})
            else:
                path.mkdir()

    def _inside(self, command: list[str]) -> list[str]:
        user, _, group = self._image.user.partition(":")
        numbers = [
            group,
            *(_group(self._image.root, name) for name in self._service.keys.get("group_add", ())),
        ]
        limited = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={','.join(numbers)}"]
        assert self._service.keys["cap_drop"] == ["ALL"]
        limited += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--", *command]
        assert self._service.keys["read_only"]
        assert self._service.keys["tmpfs"] == ["/tmp"]
        mounts = [(self.path(each), each.target, each.read_only) for each in self._service.volumes]
        return _isolated(self._image.root, limited, {_RESOLVER: _RESOLVER}, mounts, read_only=True)


def _fetch(address: str, path: Path) -> None:
    """A file from an address, which root alone may read, as Docker's ADD makes it."""
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        path.write_bytes(answer.read())
    path.chmod(0o600)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _isolated(
    root: Path,
    command: list[str],
    shared: Mapping[str, str],  # files of this machine → where the command has them
    volumes: Sequence[tuple[Path, str, bool]] = (),
    *,
    read_only: bool = False,
) -> list[str]:
    """A command in a root of its own. What is mounted for it goes with it."""
    at = shlex.quote(str(root))
    steps = [f"mount --bind {at} {at}"]
    for path, there in shared.items():
        _place(root, there).touch()
        steps += [f"mount --bind {path} {at}{there}", f"mount -o remount,bind,ro {at}{there}"]
    if read_only:
        steps += [f"mount -o remount,bind,ro {at}", f"mount -t tmpfs -o nosuid,nodev,noexec tmpfs {at}/tmp"]
    for source, target, is_fixed in volumes:
        _place(root, target).mkdir(exist_ok=True)
        if target.startswith("/tmp/"):  # which is another one by now
            steps.append(f"mkdir -p {at}{target}")
        steps.append(f"mount --bind {shlex.quote(str(source))} {at}{target}")
        if is_fixed:
            steps.append(f"mount -o remount,bind,ro {at}{target}")
    steps += [f"mount -t proc proc {at}/proc", f"mount --rbind /dev {at}/dev"]
    script = " && ".join([*steps, f"exec chroot {at} {shlex.join(command)}"])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script]


def _place(root: Path, path: str) -> Path:
    """Where a container's path is, in a folder that is there."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _group(root: Path, name: str) -> str:
    """The number that a name has in an image."""
    lines = [line.split(":") for line in (root / "etc/group").read_text().splitlines()]
    return next(fields[2] for fields in lines if fields[0] == name)


def _network() -> dict[str, str]:
    """How this machine reaches packages: its proxies, and how its pip is set up."""
    kept = re.compile(r"(?i)pip_.*|.*_proxy")
    environment = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    listed = subprocess.run(
        ["pip", "config", "list"], capture_output=True, text=True, timeout=30, check=False
    )
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = "PIP_" + key.rpartition(".")[2].upper().replace("-", "_")
        if name == "PIP_CONSTRAINT":  # a file of this machine; the locks say which versions
            continue
        environment.setdefault(name, value.strip("'\"").replace("\\n", " "))
    return environment | {"DEBIAN_FRONTEND": "noninteractive"}


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, timeout=_BUILD_TIMEOUT, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)[-600:]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again. Raises: AssertionError at the deadline."""
    deadline = time.monotonic() + 2 * PATIENCE  # a container loads its programs first
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)


@contextlib.contextmanager
def ended(containers: list[Container]) -> Iterator[None]:
    """None of them is left, whatever happens."""
    try:
        yield
    finally:
        for container in reversed(containers):
            container.kill()
