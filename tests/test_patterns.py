"""No regular expression takes long over a long text, whoever wrote that text."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.test_architecture import modules

LENGTH = 1 << 16  # characters: a whole frame of the control plane, or a whole head of an HTTP request
LIMIT = 1.0  # seconds of the processor; a linear pattern takes a few milliseconds
TRIES = 3  # a virtual machine that stands still counts that as work; a pattern is slow each time
VERBS = {"match", "fullmatch", "search", "findall", "finditer", "split", "sub", "subn"}


def uses(module: ModuleType, path: Any) -> Iterator[tuple[re.Pattern[str], str]]:
    """Each pattern that a module looks for, and how."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS
        ):
            continue
        owner = node.func.value
        name = node.args[0] if isinstance(owner, ast.Name) and owner.id == "re" else owner
        pattern = name.value if isinstance(name, ast.Constant) else vars(module).get(getattr(name, "id", ""))
        if isinstance(pattern, str):
            yield re.compile(pattern), node.func.attr
        elif isinstance(pattern, re.Pattern):
            yield pattern, node.func.attr


def found() -> list[tuple[str, re.Pattern[str], str]]:
    every = []
    for name, path in modules():
        if "__main__" not in name and "re" in path.read_text():
            module = importlib.import_module(name)
            every += [(name, pattern, verb) for pattern, verb in uses(module, path)]
    return list(dict.fromkeys(every))


def long_texts(pattern: str) -> list[str]:
    """What a pattern might go through again and again: its own words and letters, repeated."""
    words = re.findall(r"[A-Za-z0-9_]{2,}", pattern)
    signs = set(re.findall(r"[^A-Za-z0-9\\]", pattern)) | set('aA1 "\\\n=,:/%@.-')
    pairs = ["".join(pair) for pair in itertools.permutations('aA1 =:/"\\', 2)]
    units = [*words, *signs, *pairs, *(f'"{word}":"' for word in words[:2])]
    texts = [(unit * LENGTH)[:LENGTH] for unit in units]
    return texts + [f"{word}{text[len(word) :]}" for word in words[:2] for text in texts[:12]]


@pytest.mark.parametrize(
    ("name", "pattern", "verb"), found(), ids=lambda value: getattr(value, "pattern", str(value))[:40]
)
def test_a_pattern_takes_time_by_the_length_of_its_text(
    name: str, pattern: re.Pattern[str], verb: str
) -> None:
    for text in long_texts(pattern.pattern):
        took: list[float] = []
        while len(took) < TRIES and (not took or took[-1] >= LIMIT):
            took.append(seconds(pattern, verb, text))
        assert took[-1] < LIMIT, f"{name}: {pattern.pattern!r}.{verb} over {text[:20]!r}… took {took} s"


def seconds(pattern: re.Pattern[str], verb: str, text: str) -> float:
    """Of the processor, to look through a text once."""
    method = getattr(pattern, verb)
    began = time.thread_time()
    result = method("", text) if verb.startswith("sub") else method(text)
    if verb == "finditer":
        list(result)
    return time.thread_time() - began


def test_the_patterns_of_all_parts_are_seen() -> None:
    seen = {name.split(".")[0] for name, _, _ in found()}

    assert seen == {"streamfleet_api", "streamfleet_core", "streamfleet_worker"}
