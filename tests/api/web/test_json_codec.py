"""JSON of very many values is refused before any of them is built. (S22)"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamfleet_api.web import json_codec
from streamfleet_api.web.json_codec import MAX_VALUES, BadJson, parse, parse_leniently, parse_strictly

_TEXTS = st.text(alphabet='ab,[]{}:"\\ \n\ud800é', max_size=6)
_VALUES = st.recursive(
    st.none() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_TEXTS, inner, max_size=6),
    max_leaves=12,
)


def count(value: Any) -> int:
    """Itself, and all within it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(count(each) for each in inner)


@given(_VALUES, st.sampled_from([None, 1, "\t\r\n "]), st.booleans(), st.integers(1, 20))
@example([[], {}, [[]]], None, False, 5)
@example({'"': ['\\"', "\\", '[,{"']}, None, False, 5)
def test_exactly_the_values_are_counted(
    value: Any, indent: int | str | None, is_ascii: bool, limit: int
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_codec, "MAX_VALUES", limit)
        if count(value) <= limit:
            assert parse_leniently(body) == value
        else:
            with pytest.raises(BadJson, match=f"More than {limit} values"):
                parse_leniently(body)


@pytest.mark.parametrize("read", [parse, parse_leniently, parse_strictly])
@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 0' + b', "a": 0' * 100_000 + b"}",  # one value in the end
        b"[[]" + b",[]" * 300_000 + b"]",
        b"[" * 1_000_000,
    ],
    ids=["one key", "empty lists", "open lists"],
)
def test_values_are_counted_before_they_are_built(read: Any, body: bytes) -> None:
    with pytest.raises(BadJson, match=f"More than {MAX_VALUES} values"):
        read(body)


def test_signs_within_a_text_are_no_values() -> None:
    text = ',[{\\"' * 100_000

    assert parse_strictly(json.dumps([text]).encode()) == [text]
