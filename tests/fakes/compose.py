"""Compose files as Docker Compose reads them, as far as ours go: extends, interpolation, names of volumes.

Whatever else a file of ours came to use is not understood here and raises.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.ports_and_folders import ROOT

FOLDER = ROOT / "compose"
FILES = sorted(FOLDER.glob("compose.*.yaml"))
JETPACKS = {"6.2": "3.10", "7.2": "3.12"}  # version → its Python

_VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^${}]|\$\{[^{}]*\})*))?\}")


@dataclass(frozen=True, slots=True)
class Volume:
    """One mount: a folder of the host, or a volume by its name."""

    source: str
    target: str
    read_only: bool

    @property
    def named(self) -> bool:
        return not self.source.startswith(("/", ".", "~"))


@dataclass(frozen=True, slots=True)
class Service:
    """One service, after all that a file leaves to others has been filled in."""

    name: str
    keys: Mapping[str, Any]  # the whole of it
    environment: Mapping[str, str]
    volumes: tuple[Volume, ...] = ()
    depends_on: Mapping[str, str] = field(default_factory=dict)  # service → condition

    @property
    def target(self) -> str:
        return str(self.keys["build"]["target"])


@dataclass(frozen=True, slots=True)
class Fleet:
    """One Compose file."""

    services: Mapping[str, Service]
    volumes: frozenset[str]


def load(path: Path, environment: Mapping[str, str] | None = None) -> Fleet:
    """A file with the variables of a shell. Raises: ValueError, KeyError for what cannot be."""
    content = yaml.safe_load(path.read_text())
    services = {name: _extended(entry, path.parent) for name, entry in content["services"].items()}
    filled = _filled(services, environment or {})
    return Fleet(
        {name: _service(name, entry, environment or {}) for name, entry in filled.items()},
        frozenset(content.get("volumes", {})),
    )


def variables(path: Path) -> set[str]:
    """All names that a file takes from the shell or from .env."""
    text = path.read_text()
    passed = {
        name
        for service in load(path).services.values()
        for name, value in service.keys["environment"].items()
        if value is None
    }
    return passed | set(re.findall(r"\$\{(\w+)", text))


def _extended(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    base = entry.pop("extends", None)
    if base is None:
        return entry
    other = yaml.safe_load((folder / base["file"]).read_text())["services"][base["service"]]
    return _merged(_extended(other, folder), entry)


def _merged(base: Any, over: Any) -> Any:
    """Maps key by key; our files extend no lists."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: _merged(base.get(key), over.get(key, base.get(key))) for key in {**base, **over}}
    if isinstance(base, list) and base != over:
        raise ValueError(f"expected no list that is extended, got {over}")
    return copy.deepcopy(over)


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, environment) for each in value]
    return interpolated(value, environment) if isinstance(value, str) else value


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME}` and `${NAME:-default}`, where a default may hold others. Raises: ValueError."""

    def replace(found: re.Match[str]) -> str:
        default = interpolated(found[2] or "", environment)
        return environment.get(found[1], "") or default

    filled = _VARIABLE.sub(replace, text)
    if "$" in filled:
        raise ValueError(f"expected ${{NAME}} or ${{NAME:-default}}, got {text}")
    return filled


def _service(name: str, entry: dict[str, Any], environment: Mapping[str, str]) -> Service:
    told = {
        key: environment.get(key) if value is None else value for key, value in entry["environment"].items()
    }
    return Service(
        name,
        entry,
        {key: str(value) for key, value in told.items() if value is not None},
        tuple(map(_volume, entry.get("volumes", []))),
        {other: each["condition"] for other, each in entry.get("depends_on", {}).items()},
    )


def _volume(text: str) -> Volume:
    source, target, *options = text.split(":")
    if options not in ([], ["ro"]):
        raise ValueError(f"expected source:target or source:target:ro, got {text}")
    return Volume(source, target, options == ["ro"])
