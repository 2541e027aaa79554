"""`/openapi.json`, and `/docs`: the same for people, on pages of our own that need nothing from elsewhere.

Both are written when one is asked for: that takes a third of the time in which the api starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.docs.html import page
from streamfleet_api.docs.openapi import document
from streamfleet_api.monitoring.health import REFUSED
from streamfleet_api.web.endpoint import JSON, Answer, Endpoint
from streamfleet_api.web.json_codec import render

_FILES = {"docs.css": "text/css", "docs.js": "text/javascript"}
_TEXT = {"type": "string"}

# What stands on the page is text; should it ever get to be markup, it still runs nothing. (S28)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Documents:
    """The same for programs and for people."""

    openapi: bytes
    page: bytes

    @classmethod
    def of(cls, endpoints: Sequence[Endpoint]) -> Documents:
        """Write them. Pure."""
        described = document(endpoints)
        return cls(render(described), page(described).encode())


class DocumentRoutes:
    """The endpoints of the documentation. Call `describe` last, with all endpoints including these."""

    def __init__(self) -> None:
        self._described: tuple[Endpoint, ...] = ()
        self._documents: Documents | None = None  # None: not written yet
        self._writing = asyncio.Lock()

    def describe(self, endpoints: Sequence[Endpoint]) -> None:
        """Set what the documents describe."""
        self._described = tuple(endpoints)

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        return [
            Endpoint(
                *("GET", "/openapi.json", self.openapi, "openapi", "This document", "fleet"),
                {200: Answer("OpenAPI 3.1.", schema={"type": "object"}), **REFUSED},
                errors=frozenset(),
            ),
            Endpoint(
                *("GET", "/docs", self.docs, "docs", "This document for people", "fleet"),
                {200: Answer("A page.", media="text/html", schema=_TEXT), **REFUSED},
                errors=frozenset(),
            ),
            *(self._file(name, media) for name, media in _FILES.items()),
        ]

    def _file(self, name: str, media: str) -> Endpoint:
        content = (resources.files(__package__) / "static" / name).read_bytes()

        async def file(_request: Request) -> Response:
            return Response(content, media_type=media, headers=HEADERS)

        return Endpoint(
            *("GET", f"/docs/{name}", file, name.replace(".", "_"), "A file of that page", "fleet"),
            {200: Answer("The file.", media=media, schema=_TEXT), **REFUSED},
            errors=frozenset(),
        )

    async def openapi(self, _request: Request) -> Response:
        """Serve the OpenAPI document."""
        documents = await self._written()
        return Response(documents.openapi, media_type=JSON, headers={"cache-control": "no-cache"})

    async def docs(self, _request: Request) -> Response:
        """Serve the documentation page."""
        return Response((await self._written()).page, media_type="text/html", headers=HEADERS)

    async def _written(self) -> Documents:
        """Return the documents, written in a thread once: others are served meanwhile."""
        async with self._writing:
            if self._documents is None:
                self._documents = await asyncio.to_thread(Documents.of, self._described)
            return self._documents
