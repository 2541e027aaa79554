"""JSON of a file, decoded into its type with one error, whatever the bytes are."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class InvalidJson(ValueError):
    """A text that is not JSON, or not of the expected type. The reason holds no value of the text."""


def decode_json(content: bytes, of: type[T]) -> T:
    """Decode JSON. Raises: InvalidJson."""
    try:
        return msgspec.json.decode(content, type=of)
    except RecursionError as exc:
        raise InvalidJson("it is nested too deeply") from exc
    except (msgspec.DecodeError, ValueError) as exc:  # invalid UTF-8 is only the latter
        raise InvalidJson(str(exc)) from exc
