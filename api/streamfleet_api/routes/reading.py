"""What a request of `/v2` says in body, query and headers: each is checked, and refused by its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from streamfleet_api.auth import is_own_page
from streamfleet_api.filters import Selector, WrongParameter
from streamfleet_api.problems import Problem
from streamfleet_api.routes.endpoint import JSON, Header
from streamfleet_api.schemas import Invalid, validate
from streamfleet_api.wire import BadJson, parse_strictly

MERGE_PATCH = "application/merge-patch+json"
MAX_KEY = 255  # characters of an Idempotency-Key
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_VERSION = re.compile(r'"(\d{1,18})"')

B = TypeVar("B", bound=BaseModel)

IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "A request that is made again under its key gets the answer of the first, for a day.",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)
IF_MATCH = Header(
    "If-Match",
    "Only when the pipeline has this ETag still: otherwise 412.",
    {"type": "string", "pattern": r'^("[0-9]{1,18}"|\*)$'},
)


async def read(request: Request, of: type[B], *media: str) -> B:
    """A body that says that it is JSON: a web page of somebody else cannot send one. (S27)

    Raises: Problem, Invalid.
    """
    expected = media or (JSON,)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in expected:
        raise Problem(415, f"expected Content-Type {' or '.join(expected)}, came {kind[:64] or 'none'}")
    body = await request.body()
    try:
        value = parse_strictly(body)
    except BadJson as exc:
        error = {
            "type": "json_invalid",
            "loc": ["body", exc.position],
            "msg": f"Input should be JSON: {exc.reason}",
        }
        raise Invalid([error]) from exc
    if not isinstance(value, dict):
        raise Invalid(
            [{"type": "object", "loc": ["body"], "msg": "Input should be an object", "input": value}]
        )
    return validate(value, of)


def query(request: Request, of: type[B]) -> B:
    """The query, each name of it once. Raises: Invalid."""
    times = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in times.most_common(1):
        if count > 1:
            text = f"Input should be given once, came {count} times"
            raise Invalid([{"type": "repeated", "loc": ["query", name[:64]], "msg": text}])
    return validate(dict(request.query_params), of, "query")


def idempotency_key(request: Request) -> str:
    """The key under which a request may be made again, "" when it has none. Raises: Problem."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        text = f"expected an Idempotency-Key of 1 to {MAX_KEY} visible ASCII characters, came {len(key)}"
        raise Problem(400, f"{text} characters: {key[:40]!a}")
    return key


def if_match(request: Request) -> int | str | None:
    """The version that a pipeline must have, "*" for any; None when it does not matter. Raises: Problem."""
    tag = request.headers.get("if-match")
    if tag is None or tag.strip() == "*":
        return tag and "*"
    found = _VERSION.fullmatch(tag.strip())
    if found is None:
        raise Problem(400, f'expected If-Match as an ETag of a pipeline, as "7", or *, came {tag[:40]!a}')
    return int(found[1])


def selector_of(text: str | None) -> Selector:
    """Labels as `site=hall-1,line`; None needs none. Raises: Invalid."""
    if text is None:
        return Selector()
    try:
        return Selector.parse(text)
    except WrongParameter as exc:
        error = {"type": "selector", "loc": ["query", exc.name], "msg": str(exc), "input": exc.came}
        raise Invalid([error]) from exc


def refuse_foreign_pages(request: Request) -> None:
    """Refuse what a web page of somebody else could send without a question of its browser. (S27)

    Only what has no body needs it: `read` refuses what such a page may put into one. Raises: Problem.
    """
    if not is_own_page(request.headers):
        origin = request.headers["origin"][:80]
        raise Problem(403, f"expected a request of a program or of a page of this api, came one of {origin}")


def listed(names: Iterable[str]) -> str:
    """Names for people, at most ten of them."""
    known = sorted(names)
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f"{', '.join(known[:10])}{more}" if known else "none yet"
