"""Clients of streams, as users write them: server-sent events over httpx, WebSocket with `websockets`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.api.conftest import Api
from tests.fakes.patience import PATIENCE


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """(id or event, data) of each event."""
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field in ("id", "event"):
            name = value
        elif field == "data":
            yield name, json.loads(value)
            name = ""


def first(response: httpx.Response, count: int) -> list[tuple[str, Any]]:
    """The first events."""
    return [event for _, event in zip(range(count), events(response), strict=False)]


def websocket(api: Api, path: str, **options: Any) -> ClientConnection:
    """An open WebSocket."""
    address = api.url.replace("http", "ws") + path
    return connect(address, proxy=None, open_timeout=PATIENCE, close_timeout=1, compression=None, **options)


def said(connection: ClientConnection) -> dict[str, Any]:
    """The next message."""
    message: dict[str, Any] = json.loads(connection.recv(timeout=PATIENCE))
    return message
