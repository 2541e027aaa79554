"""Reads body, query and headers of requests to `/v2`. An error names the invalid part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from streamfleet_api.feeds.filters import Selector, WrongParameter
from streamfleet_api.web.endpoint import JSON, Header
from streamfleet_api.web.json_codec import BadJson, parse_strictly
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.validation import Invalid, validate
from streamfleet_core.protocol.limits import MAX_REQUEST_KEY, REQUEST_KEY_PATTERN, schema_pattern

MERGE_PATCH = "application/merge-patch+json"
_KEY = re.compile(REQUEST_KEY_PATTERN)
_VERSION = re.compile(r'"(\d{1,18})"')

B = TypeVar("B", bound=BaseModel)

IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "A repeated request with the same key gets the response of the first one, for a day.",
    {"type": "string", "pattern": schema_pattern(REQUEST_KEY_PATTERN)},
)
IF_MATCH = Header(
    "If-Match",
    "Change the pipeline only if it still has this ETag; otherwise 412.",
    {"type": "string", "pattern": r'^("[0-9]{1,18}"|\*)$'},
)


async def read(request: Request, of: type[B], *media: str) -> B:
    """Read and validate a JSON body.

    Raises: Problem, Invalid.
    """
    value = await parsed(request, *media)
    if not isinstance(value, dict):
        raise Invalid(
            [{"type": "object", "loc": ["body"], "msg": "Input should be an object", "input": value}]
        )
    return validate(value, of)


async def parsed(request: Request, *media: str) -> Any:
    """Read a JSON body of one of these media types. Raises: Problem, Invalid."""
    expected = media or (JSON,)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in expected:
        raise Problem(415, f"expected Content-Type {' or '.join(expected)}, got {kind[:64] or 'none'}")
    body = await request.body()
    try:
        return parse_strictly(body)
    except BadJson as exc:
        error = {
            "type": "json_invalid",
            "loc": ["body", exc.position],
            "msg": f"Input should be JSON: {exc.reason}",
        }
        raise Invalid([error]) from exc


def query(request: Request, of: type[B]) -> B:
    """Read and validate the query. Each name may be given once. Raises: Invalid."""
    times = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in times.most_common(1):
        if count > 1:
            text = f"Input should be given once, got it {count} times"
            raise Invalid([{"type": "repeated", "loc": ["query", name[:64]], "msg": text}])
    return validate(dict(request.query_params), of, "query")


def idempotency_key(request: Request) -> str:
    """The idempotency key of a request, "" without one. Raises: Problem."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        text = (
            f"expected an Idempotency-Key of 1 to {MAX_REQUEST_KEY} visible ASCII characters, got {len(key)}"
        )
        raise Problem(400, f"{text} characters: {key[:40]!a}")
    return key


def if_match(request: Request) -> int | str | None:
    """The required version of a pipeline, "*" for any; None without a condition. Raises: Problem."""
    tag = request.headers.get("if-match")
    if tag is None or tag.strip() == "*":
        return tag and "*"
    found = _VERSION.fullmatch(tag.strip())
    if found is None:
        raise Problem(400, f'expected If-Match as an ETag of a pipeline, as "7", or *, got {tag[:40]!a}')
    return int(found[1])


def selector_of(text: str | None, where: str = "query") -> Selector:
    """Parse a selector as `site=hall-1,line`; None matches everything. Raises: Invalid."""
    if text is None:
        return Selector()
    try:
        return Selector.parse(text)
    except WrongParameter as exc:
        error = {"type": "selector", "loc": [where, exc.name], "msg": str(exc), "input": exc.got}
        raise Invalid([error]) from exc


def listed(names: Iterable[str]) -> str:
    """At most ten names, as text."""
    known = sorted(names)
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f"{', '.join(known[:10])}{more}" if known else "none yet"
