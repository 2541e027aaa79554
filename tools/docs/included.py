"""Pages whose files are in other folders of the repository, and the links between pages."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
DOCS = "docs"

# Page → file. The files stay in their folders, so there is one copy of each.
INCLUDED = {
    "how-to/deploy.md": "compose/README.md",
    "how-to/migrate.md": "MIGRATING.md",
    "reference/security.md": "SECURITY.md",
    "components/api.md": "api/README.md",
    "components/broker.md": "broker/README.md",
    "components/worker.md": "worker/README.md",
    "components/benchmarks.md": "benchmarks/README.md",
    "components/demo.md": "demo/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "code-of-conduct.md": "CODE_OF_CONDUCT.md",
}
_PAGES = {source: page for page, source in INCLUDED.items()} | {"README.md": "index.md"}
_FENCE = re.compile(r"^ *(```|~~~)")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


class BrokenLink(ValueError):
    """A link to a file that does not exist."""

    def __init__(self, page: str, target: str) -> None:
        super().__init__(f"{page}: expected a link to a file of the repository, got {target}")


def source_of(page: str) -> str:
    """Return the file of a page, relative to the repository."""
    return INCLUDED.get(page, f"{DOCS}/{page}")


def with_links_of_site(page: str, text: str) -> str:
    """Rewrite links to files: to the page of the file if it has one, otherwise to plain text.

    Raises: BrokenLink.
    """
    lines, fenced = [], False
    for line in text.splitlines(keepends=True):
        fenced ^= bool(_FENCE.match(line))
        lines.append(line if fenced else _LINK.sub(lambda found: _relinked(page, found), line))
    return "".join(lines)


def _relinked(page: str, found: re.Match[str]) -> str:
    text, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return found[0]
    folder = PurePosixPath(source_of(page)).parent
    file = os.path.normpath(folder / path)
    if (ROOT / file).is_dir() and f"{file}/README.md" in _PAGES:
        file += "/README.md"
    other = _PAGES.get(file)
    if other is None and file.startswith(f"{DOCS}/"):
        other = file.removeprefix(f"{DOCS}/")  # MkDocs checks that it exists
    if other is None:
        if not (ROOT / file).exists():
            raise BrokenLink(page, target)
        return text
    link = os.path.relpath(other, PurePosixPath(page).parent)
    return f"[{text}]({link}{'#' if anchor else ''}{anchor})"
