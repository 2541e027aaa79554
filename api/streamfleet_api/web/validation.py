"""Requests checked against their models, and what is wrong with one: the errors as FastAPI lists them."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from streamfleet_api.web.json_codec import BadJson, parse
from streamfleet_core.protocol.limits import (
    ID_PATTERN,
    MAX_REFERENCE,
    MAX_SHOWN,
    MODEL_ID_PATTERN,
    schema_pattern,
)
from streamfleet_core.protocol.source_reference import shown_value

MAX_ERRORS = 20  # of one request that are shown
MAX_FOUND = 1000  # of one request that are looked at: Roboflow's routes list all of these
_HIDDEN = "***"
_KEY_IN_TEXT = re.compile(r'("api_key"\s*:\s*)"(?:[^"\\]|\\.)*"?')  # of JSON that was not sent as JSON

M = TypeVar("M", bound=BaseModel)

# In the schemas of paths.
ID_SCHEMA = {"type": "string", "pattern": schema_pattern(ID_PATTERN)}
MODEL_ID_SCHEMA = {"type": "string", "pattern": schema_pattern(MODEL_ID_PATTERN)}


class Invalid(Exception):
    """A request that is not what it should be: the errors as FastAPI lists them."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        super().__init__(f"{where}: {first['msg']}")
        self.errors = errors

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The first errors, each with the given value if it is short, without secrets."""
        return [_shown(error) for error in self.errors[:MAX_ERRORS]]

    @property
    def summary(self) -> str:
        """The first error, and the number of further ones, as text."""
        first = _shown(self.errors[0])
        where = ".".join(map(str, first["loc"]))
        got = f", got {first['input']!r}" if "input" in first else ""
        more = len(self.errors) - 1
        return f"{where}: {first['msg']}{got}{f' (and {more} more)' if more else ''}"


def _shown(error: dict[str, Any]) -> dict[str, Any]:
    loc = [part[:MAX_SHOWN] if isinstance(part, str) else part for part in error["loc"]]
    shown = {"loc": loc, "msg": error["msg"], "type": error["type"]}
    if error.get("line"):  # of a document
        shown |= {"line": error["line"], "column": error["column"]}
    got = error.get("input")
    if isinstance(got, str) and len(got) <= MAX_REFERENCE:
        got = shown_value(got)  # before it is cut, or half of an address is left
        return {**shown, "input": got if len(got) <= MAX_SHOWN else f"{got[:MAX_SHOWN]}…"}
    if isinstance(got, float) or (isinstance(got, int) and abs(got) < 2**63):
        return {**shown, "input": got}
    return shown


def read(body: bytes, is_json: bool, of: type[M]) -> M:
    """The request in a body. Raises: Invalid."""
    return validate(_value(body, is_json), of)


def validate(value: Any, of: type[M], where: str = "body") -> M:
    """The request in a JSON value. Raises: Invalid."""
    if value is None:
        raise Invalid([{"type": "missing", "loc": [where], "msg": "Field required", "input": None}])
    try:
        return of.model_validate(value, from_attributes=True)
    except ValidationError as exc:
        raise Invalid(_errors(exc, where)) from exc


def check_id(value: str, name: str) -> str:
    """A name in the path. Raises: Invalid."""
    return _check(value, name, ID_PATTERN)


def check_model_id(value: str) -> str:
    """A model's id in the path. Raises: Invalid."""
    return _check(value, "model_id", MODEL_ID_PATTERN)


def _check(value: str, name: str, pattern: str) -> str:
    try:
        checked: str = TypeAdapter(Annotated[str, Field(pattern=schema_pattern(pattern))]).validate_python(
            value
        )
    except ValidationError as exc:
        raise Invalid(_errors(exc, "path", name)) from exc
    return checked


def _value(body: bytes, is_json: bool) -> Any:
    if not body:
        return None
    if not is_json:
        return body.decode("utf-8", "replace")
    try:
        return parse(body)
    except BadJson as exc:
        error = {
            "type": "json_invalid",
            "loc": ["body", exc.position],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": exc.reason},
        }
        raise Invalid([error]) from exc


def _errors(exc: ValidationError, *where: str) -> list[dict[str, Any]]:
    found = exc.errors(include_url=False, include_context=True)[:MAX_FOUND]
    without_key = _WithoutKey()
    return [
        {
            **error,
            "loc": [*where, *map(_shown_place, error["loc"])],
            "input": without_key(error["input"], *error["loc"][-1:]),
        }
        for error in found
    ]


def _shown_place(part: str | int) -> str | int:
    """A key that a client made up may be anything."""
    return shown_value(part) if isinstance(part, str) else part


class _WithoutKey:
    """The given values, as Roboflow repeats them in its response, without secrets.

    Many errors may show the same list or object, which is gone through once.
    """

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}  # by the identity of what was given, which outlives this

    def __call__(self, got: Any, name: str | int = "") -> Any:
        if name == "api_key" and got is not None:
            return _HIDDEN
        if isinstance(got, str):
            return shown_value(_KEY_IN_TEXT.sub(rf'\1"{_HIDDEN}"', got) if "api_key" in got else got)
        if not isinstance(got, dict | list):
            return got
        if id(got) not in self._known:
            self._known[id(got)] = (
                {key: self(value, key) for key, value in got.items()}
                if isinstance(got, dict)
                else [self(value) for value in got]
            )
        return self._known[id(got)]
