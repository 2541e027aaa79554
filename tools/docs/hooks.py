"""Hooks of MkDocs: pages from other folders of the repository, and the generated reference."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[2]))  # MkDocs loads this file by its path

from tools.docs import reference
from tools.docs.included import INCLUDED, ROOT, BrokenLink, with_links_of_site

_MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from other folders."""
    for page, source in INCLUDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_of_mkdocs: Any) -> str:
    """Rewrite links to pages, and insert the generated sections."""
    try:
        linked = with_links_of_site(page.file.src_uri, markdown)
    except BrokenLink as exc:
        raise PluginError(str(exc)) from exc
    return _MARK.sub(lambda found: _generated(reference.SECTIONS, found[1], page), linked)


def _generated(sections: Mapping[str, Any], name: str, page: Page) -> str:
    if name not in sections:
        raise PluginError(f"{page.file.src_uri}: expected one of {sorted(sections)}, got {name}")
    text: str = sections[name]()
    return text
