"""The dashboard at `/`: static files that use the public API like any other client."""

from __future__ import annotations

from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ROOT = "/"
FILES = "/page/"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# The page inserts names as text. Even if one were parsed as markup, this policy blocks its scripts. (S28)
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page:
    """Serves the files of the dashboard, which are read once."""

    def __init__(self) -> None:
        folder = resources.files(__package__) / "static"
        self._files = {
            entry.name: entry.read_bytes()
            for entry in folder.iterdir()
            if entry.name.rpartition(".")[2] in _TYPES
        }

    def routes(self) -> list[Route]:
        """Return the routes of the page and its files."""
        return [
            Route(ROOT, self.index, methods=["GET"], include_in_schema=False),
            Route(f"{FILES}{{name}}", self.file, methods=["GET"], include_in_schema=False),
        ]

    async def index(self, _request: Request) -> Response:
        """Serve the page."""
        return self._answer("index.html")

    async def file(self, request: Request) -> Response:
        """Serve a file of the dashboard."""
        return self._answer(request.path_params["name"])

    def _answer(self, name: str) -> Response:
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404)
        return Response(content, headers=_HEADERS, media_type=_TYPES[name.rpartition(".")[2]])
