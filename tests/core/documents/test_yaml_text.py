"""YAML as people write it: the core schema, each value with its place, bounded whatever the text is."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.documents.errors import BadDocument
from streamfleet_core.documents.node import Node, node_of
from streamfleet_core.documents.yaml_text import MAX_TEXT_SIZE, read_yaml, write_yaml

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.sampled_from(["no", "on", "1e5", "0o17", "0x1f", "12:30", "2024-01-01", "~", "<<", "1_000", ".5"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def read(text: str) -> Any:
    return read_yaml(text.encode()).plain


def test_scalars_are_those_of_the_core_schema() -> None:
    text = "[no, on, Yes, true, 12:30, 2024-01-01, 010, 0o10, 0x1F, 1e3, .5, ~, '3', \"\", 1_000, =, 1.]"

    values = ["no", "on", "Yes", True, "12:30", "2024-01-01", 10, 8, 31, 1000.0, 0.5, None, "3", "", "1_000"]
    assert read(text) == [*values, "=", 1.0]


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert read(write_yaml(value)) == value


@given(VALUES.filter(lambda value: isinstance(value, dict)), st.sampled_from([None, "\t", 2]))
def test_json_is_read_as_json_reads_it(value: Any, indent: Any) -> None:
    for is_ascii in (True, False):
        text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)

        assert read(text) == value


def test_each_value_has_its_place() -> None:
    root = read_yaml(b"pipelines:\n  - id: door\n    sources: [a, 1]\n")

    source = root.entries["pipelines"].items[0].entries["sources"].items[1]
    assert (source.value, source.path) == (1, ("pipelines", 0, "sources", 1))
    assert (source.line, source.column) == (3, 18)
    sources = root.entries["pipelines"].items[0].entries["sources"]
    assert (sources.key_line, sources.key_column) == (3, 5)


def test_a_path_with_parts_of_pydantic_leads_to_the_value() -> None:
    root = node_of({"sources": [{"reference": "a"}]})

    assert root.find(["sources", 0, "source", "reference"]).value == "a"
    assert root.find(["sources", 0, "mode"]).path == ("sources", 0)


def test_a_long_value_is_not_repeated_whole_in_its_error() -> None:
    long = read_yaml(f"a: {'x' * 9000}\n".encode()).entries["a"]

    assert long.wrong("a number").got == "x" * 80
    assert long.wrong("a number", got="y" * 9000).got == "y" * 80


WRONG = {
    "a: 1\na: 3\n": "line 2, column 1: a: expected the key once in its object, first in line 1, got 'a'",
    "a: *b\n": "line 1, column 4: a: expected an anchor &b before its alias, got 'none'",
    "a: &b [*b]\n": "line 1, column 8: a.0: expected an anchor &b before its alias, got 'none'",
    "a: !!python/name:os.system x": "line 1, column 4: a: expected a value without a tag, got",
    "<<: {a: 1}": "line 1, column 1: expected no merge key",
    "a: [1, 2\nb: 3\n": "line 2, column 2: expected YAML (while parsing a flow sequence",
    "a: .inf": "line 1, column 4: a: expected a finite number, got '.inf'",
    "a: 1e999": "line 1, column 4: a: expected a finite number, got '1e999'",
    f"a: {'9' * 400}": "line 1, column 4: a: expected a number of at most 300 digits",
    "a: 1\n---\nb: 2\n": "line 2, column 1: expected one document, got 'another one'",
    "? [a]\n: b": "line 1, column 3: expected a text as a key",
    "a: \x01": "line 1, column 1: expected YAML (unacceptable character",
    "[" * 100: "expected at most 32 levels, got 'more'",
}


@pytest.mark.parametrize(("text", "error"), WRONG.items(), ids=[text[:12] for text in WRONG])
def test_an_error_has_a_line_and_a_column(text: str, error: str) -> None:
    with pytest.raises(BadDocument) as caught:
        read(text)

    assert error in str(caught.value)


def test_bytes_that_are_no_utf8_have_their_place() -> None:
    with pytest.raises(BadDocument, match="line 2, column 4: expected UTF-8, got 'byte 0xff'"):
        read_yaml(b"a: 1\nb: \xff\n")


def test_aliases_cost_what_they_stand_for() -> None:
    names = "abcdefgh"
    laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise(names)
    )

    with pytest.raises(BadDocument, match="line 5, column 36: expected at most 100000 values"):
        read(laughs)


def test_a_text_is_bounded_before_it_is_read() -> None:
    with pytest.raises(BadDocument, match=f"expected a document of at most {MAX_TEXT_SIZE} bytes"):
        read_yaml(b" " * (MAX_TEXT_SIZE + 1))


@given(st.binary(max_size=60))
def test_no_bytes_cause_another_error(content: bytes) -> None:
    with contextlib.suppress(BadDocument):
        assert isinstance(read_yaml(content), Node)
