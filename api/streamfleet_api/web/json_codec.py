"""JSON as it comes in and goes out: bounded, finite, compact."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from starlette.responses import Response

MAX_DEPTH = 32
MAX_VALUES = 30_000  # in a body: a pipeline has 10,000 names of classes, and twice as many in its sampling


class BadJson(Exception):
    """A body that is not the JSON that we read: says where and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"{reason} at {position}")
        self.position = position
        self.reason = reason


def parse(body: bytes) -> Any:
    """The value in a body. Raises: BadJson, and nothing else, whatever the bytes are."""
    return _of_characters(_parse(body, _DECODER), body)


def parse_leniently(body: bytes) -> Any:
    """Parse JSON that may contain lone surrogates, which must not be written again. Raises: BadJson."""
    return _parse(body, _DECODER)


def _parse(body: bytes, decoder: json.JSONDecoder) -> Any:
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        _check_count(text)
        value = decoder.decode(text)
    except json.JSONDecodeError as exc:
        raise BadJson(exc.pos, exc.msg) from exc
    except UnicodeDecodeError as exc:
        raise BadJson(exc.start, "Expecting UTF-8") from exc
    except RecursionError as exc:
        raise BadJson(0, f"Nested deeper than {MAX_DEPTH}") from exc
    except ValueError as exc:  # a number of more digits than Python reads, NaN, Infinity
        raise BadJson(0, str(exc)) from exc
    _check_shape(value)
    return value


def _of_characters(value: Any, body: bytes) -> Any:
    if not body.isascii() or b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise BadJson(0, "A lone surrogate is not a character") from exc
    return value


def parse_strictly(body: bytes) -> Any:
    """Parse JSON, and refuse duplicate keys of an object. Raises: BadJson."""
    return _of_characters(_parse(body, _STRICT_DECODER), body)


def render(content: Any) -> bytes:
    """Compact JSON; a lone surrogate, which UTF-8 cannot hold, is escaped."""
    return _ENCODER.encode(content).encode("utf-8", "backslashreplace")


class Json(Response):
    """A JSON response that keeps the order of keys."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return render(content)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"The key {twice[:64]!a} occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:32]} is larger than a double holds")
    return number


def _check_count(text: str) -> None:
    """Refuse a text of too many values before any of them is built. Raises: BadJson."""
    if _separators(text) < MAX_VALUES:  # those within strings included: a bound that costs a look at the text
        return
    without_escapes = text.replace("\\\\", "").replace('\\"', "")
    without_strings = "0".join(without_escapes.split('"')[::2])
    structure = "".join(without_strings.split())
    # Each value but the first follows a comma or a bracket that is not closed at once.
    if 1 + _separators(structure) - structure.count("[]") - structure.count("{}") > MAX_VALUES:
        raise BadJson(0, f"More than {MAX_VALUES} values")


def _separators(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _check_shape(value: Any) -> None:
    """Refuse what is nested too deeply. Raises: BadJson."""
    level = [value]
    depth = -1  # of lists and objects within another
    while level:
        depth += 1
        if depth >= MAX_DEPTH and any(isinstance(each, (dict, list)) for each in level):
            raise BadJson(0, f"Nested deeper than {MAX_DEPTH}")
        level = [child for parent in level for child in _children(parent)]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


# Created once: `json.loads` and `json.dumps` create theirs for each text.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_STRICT_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
