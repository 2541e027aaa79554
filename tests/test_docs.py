"""The documentation site: it builds strictly, its links hold, and it loads nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.fakes.ports_and_folders import ROOT

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
ABSOLUTE = ("http:", "https:", "//")


class Links(HTMLParser):
    """What a page loads, where it links, and which ids it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.ids |= {of[name] for name in ("id", "name") if name in of}
        if tag in LOADED and LOADED[tag] in of and of.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(of[LOADED[tag]])
        if tag == "a" and "href" in of:
            self.linked.append(of["href"])


pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="what mkdocstrings needs is of one version for Python 3.11 and newer"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Every page of it."""
    return {path: Links(path.read_text()) for path in sorted(site.rglob("*.html"))}


def targets(pages: dict[Path, Links]) -> Iterator[tuple[Path, str]]:
    """Every link and load within the site, with its page."""
    for path, links in pages.items():
        for target in (*links.loaded, *links.linked):
            if not target.startswith((*ABSOLUTE, "mailto:", "data:", "javascript:")):
                yield path, target


def test_no_link_is_broken(site: Path, pages: dict[Path, Links]) -> None:
    broken = []
    for path, target in targets(pages):
        address = urlsplit(target)
        file = path if not address.path else (path.parent / unquote(address.path)).resolve()
        if path.name == "404.html" and address.path.startswith("/"):
            file = site / address.path.lstrip("/")
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file() or (
            address.fragment and file in pages and address.fragment not in pages[file].ids
        ):
            broken.append((str(path.relative_to(site)), target))

    assert not [each for each in broken if not each[1].endswith("#__skip")]
    assert len(pages) >= 25


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[Path, Links]) -> None:
    elsewhere = [
        (path.name, each)
        for path, links in pages.items()
        for each in links.loaded
        if each.startswith(ABSOLUTE)
    ]
    imported = [
        (path.name, each)
        for path in site.rglob("*.css")
        for each in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text())
    ]

    assert elsewhere == []
    assert imported == []


def test_the_reference_names_every_route_command_metric_and_message(site: Path) -> None:
    from streamfleet_core.protocol.messages import MESSAGE_TYPES

    def text(page: str) -> str:
        return (site / "reference" / page).read_text()

    assert "/v2/pipelines/{pipeline_id}" in text("http.html") or "/v2/pipelines/{id}" in text("http.html")
    assert all(
        f"streamfleet {name}" in text("cli.html") for name in ("up", "run", "devices add", "samples export")
    )
    assert "streamfleet_broker_up" in text("metrics.html")
    assert all(f"{number} {of.__name__}" in text("protocol.html") for number, of in MESSAGE_TYPES.items())
    parts = {part.__name__ for of in MESSAGE_TYPES.values() for part in _values_of(of)}
    assert parts >= {"Assignment", "Cost", "Optimisation"}
    assert not [name for name in parts if f'id="value-{name.lower()}"' not in text("protocol.html")]
    assert all(
        f"usage: streamfleet-{name}" in text("configuration.html") for name in ("broker", "api", "worker")
    )


def _values_of(of: Any) -> Iterator[type]:
    """The dataclasses that a message consists of."""
    for hint in typing.get_type_hints(of).values():
        for part in _parts(hint):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield part
                yield from _values_of(part)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from _parts(inner)


def test_the_tree_has_one_line_for_each_folder() -> None:
    tree = re.search(r"```text\n(broker/\n.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert tree
    path: list[str] = []
    told = set()
    for line in tree[1].splitlines():
        found = re.match(r"( *)([\w]+)/", line)
        assert found, line
        path[len(found[1]) // 2 :] = [found[2]]
        told.add("/".join(path))
        assert len(line.split(maxsplit=1)) == 2 or len(path) == 1, line

    listed = subprocess.run(
        ["git", "ls-files", "broker", "worker", "api"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    there = {
        str(folder)
        for name in listed.stdout.splitlines()
        for folder in Path(name).parents
        if (ROOT / name).exists() and folder != Path()
    }
    assert there <= told, there - told
    assert all((ROOT / folder).is_dir() for folder in told), [
        each for each in told if not (ROOT / each).is_dir()
    ]


def test_security_names_files_that_are_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = listed.stdout.splitlines()
    named = re.findall(r"`([\w/…]+/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text())

    def is_there(name: str) -> bool:
        first, _, last = name.partition("/…/")
        return name in files or (last != "" and any(_is(each, first, last) for each in files))

    assert len(named) >= 60
    assert [name for name in named if not is_there(name)] == []


def _is(file: str, component: str, end: str) -> bool:
    return file.startswith(f"{component}/") and file.endswith(f"/{end}")


def test_the_glossary_says_each_word_once() -> None:
    terms = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [word.strip().lower() for term in terms for word in term.split(",")]

    assert len(words) == len(set(words)), sorted(word for word in words if words.count(word) > 1)
    assert len(words) >= 60
