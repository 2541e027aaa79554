"""The public client for the command line: it asks once, and its errors come with the next step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
import msgspec

from streamfleet import api_calls, client, errors
from streamfleet.api_calls import Call, error_in, query_of, reads
from streamfleet.attempts import Answer
from streamfleet.connection import Connection, is_certificate_failure, path_of
from streamfleet.http_errors import unreachable
from streamfleet.results import AddedModel
from streamfleet.server_sent_events import EventParser, ServerSentEvent, TooLarge
from streamfleet_api.client.errors import CommandFailed, Rejected, Unreachable
from streamfleet_core.models.digest import digest_of
from streamfleet_core.protocol.source_reference import redacted
from streamfleet_core.protocol.values import Variant

T = TypeVar("T")

TIMEOUT = client.TIMEOUT
_CONTENT = 120.0  # seconds without progress of a long body
_SILENT = 30.0  # seconds after which a stream is lost; the api sends at least a comment every 5 s
_PAGE = 100  # samples of one answer
_VARIABLES = {"ca_file": "STREAMFLEET_CA", "fingerprint": "STREAMFLEET_FINGERPRINT:"}


@dataclass(frozen=True, slots=True)
class Past:
    """The last events with all that the api says of them, and the id after which a stream continues."""

    events: list[dict[str, Any]]
    last: str


@dataclass(frozen=True, slots=True)
class _Task:
    id: str


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str


@dataclass(frozen=True, slots=True)
class _Samples:
    """A page of samples."""

    samples: list[_Sample]
    next: str | None


class Client(client.Client):
    """One api. Where the public client raises a StreamfleetError, this one raises CommandFailed."""

    def __init__(self, connection: Connection, *, timeout: float = TIMEOUT) -> None:
        with _explained(connection):
            super().__init__(connection, timeout=timeout, retries=0)

    def past_events(self, limit: int) -> Past:
        """The last events, oldest first."""
        path = f"/v2/events/recent?limit={limit}"
        return self._send(Call(method="GET", path=path, read=reads(Past), is_repeatable=True))

    def add_variant(self, model_id: str, variant: Variant) -> AddedModel:
        """Register a variant of a model whose file was uploaded."""
        return self._send(api_calls.put_variant(model_id, variant))

    def download(self, digest: str, path: Path) -> None:
        """Write content of the fleet to a file, and check it. Raises: CommandFailed, OSError."""
        with path.open("wb") as file:
            self._fetch(f"/v2/blobs/{digest}", file)
        if (got := digest_of(path)) != digest:
            raise CommandFailed(f"expected content of sha256 {digest}, got {got}")

    def remove_blob(self, digest: str) -> None:
        """Remove content that no model and no pipeline needs. Raises: CommandFailed."""
        self._send(api_calls.remove_blob(digest))

    def start_optimisation(
        self, model_id: str, device: str, *, pictures: str, frames: int, agreement: float, dry_run: bool
    ) -> str:
        """Let a device build variants of a model, and return the id of the task. Raises: CommandFailed."""
        body = {
            "model_id": model_id,
            "device": device,
            "pictures": pictures,
            "frames": frames,
            "agreement": agreement,
            "dry_run": dry_run,
        }
        call = Call(
            method="POST",
            path="/v2/optimisations",
            read=reads(_Task),
            body=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
            is_repeatable=False,
        )
        return self._send(call).id

    def cancel_optimisation(self, task_id: str) -> None:
        """Cancel it. Raises: CommandFailed."""
        path = path_of("v2", "optimisations", task_id)
        self._send(Call(method="DELETE", path=path, read=lambda _: None, is_repeatable=True))

    def sample_names(self, dataset: str, most: int, *, device: str | None = None) -> list[str]:
        """The names of the oldest samples of a dataset, at most `most`. Raises: CommandFailed.

        `device`: that has taken them; None: any.
        """
        names: list[str] = []
        after: str | None = None
        while len(names) < most:
            query = query_of(limit=min(most - len(names), _PAGE), after=after, device=device)
            path = f"{path_of('v2', 'samples', dataset)}{query}"
            page = self._send(Call(method="GET", path=path, read=reads(_Samples), is_repeatable=True))
            names += [each.name for each in page.samples]
            after = page.next
            if after is None:
                break
        return names[:most]

    def sample_image(self, dataset: str, name: str, file: IO[bytes]) -> None:
        """Write the JPEG of a sample to a file. Raises: CommandFailed, OSError."""
        path = path_of("v2", "samples", dataset, f"{name}.jpg")
        self._fetch(path, file)

    def clock_offset(self) -> float | None:
        """Seconds that our clock is ahead of the api's, within one second; None: it does not tell the time.

        Raises: CommandFailed.
        """
        with _explained(self.connection):
            before = time.time()
            try:
                answer = self._http.get("/healthz")
            except (httpx.TransportError, httpx.InvalidURL) as exc:
                raise unreachable(self.connection, exc) from exc
            between = (before + time.time()) / 2
        try:
            told = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return None
        return between - (told + 0.5)  # it leaves out the part of a second

    def connect(self, path: str, last: str = "") -> Generator[ServerSentEvent, None, None]:
        """The server-sent events of one connection after the one of this id, after one named `open`.

        One named `silence` tells that the api had nothing to send for 5 s. Raises: CommandFailed.
        """
        timeout = httpx.Timeout(TIMEOUT, read=_SILENT)
        headers = {"last-event-id": last} if last else {}
        with _explained(self.connection):
            try:
                with self._http.stream("GET", path, timeout=timeout, headers=headers) as response:
                    if response.status_code != httpx.codes.OK:
                        raise error_in(Answer(response.status_code, response.headers, response.read()))
                    yield ServerSentEvent("open", "", "")
                    parser = EventParser()
                    for piece in response.iter_bytes():
                        yield from parser.feed(piece)
            except httpx.TransportError as exc:
                raise unreachable(self.connection, exc) from exc
            except TooLarge as exc:
                raise errors.UnexpectedAnswer(str(exc)) from exc

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        call = Call(
            method="GET", path=path, read=lambda _: None, into=file, timeout=_CONTENT, is_repeatable=False
        )
        self._send(call)

    def _send(self, call: Call[T]) -> T:
        with _explained(self.connection):
            return super()._send(call)


@contextlib.contextmanager
def _explained(connection: Connection) -> Iterator[None]:
    """Raises: CommandFailed, in the words of the command line."""
    try:
        yield
    except errors.StreamfleetError as exc:
        raise _failure(exc, connection) from exc


def _failure(exc: errors.StreamfleetError, connection: Connection) -> CommandFailed:
    if isinstance(exc, errors.ApiError):
        hint = "give the operator's token with --token or STREAMFLEET_TOKEN" if exc.status == 401 else ""
        return Rejected(exc.status, exc.detail, hint, exc.errors)
    if isinstance(exc, errors.UnexpectedAnswer):
        text = f"{connection.shown}: expected a Streamfleet API, got {exc.problem}"
        return CommandFailed(text, "--url names another")
    if isinstance(exc, errors.BadSetting):
        if exc.setting in _VARIABLES:
            return CommandFailed(f"{_VARIABLES[exc.setting]} {exc.problem}")
        text = "expected the operator's token as visible ASCII characters, got others"
        return CommandFailed(text, "look at --token or STREAMFLEET_TOKEN")
    why = exc.__cause__ or exc
    hint = "is the fleet running? 'streamfleet up' starts one; --url names another"
    if is_certificate_failure(why):
        hint = "give --fingerprint, which 'streamfleet up' shows, or --ca, its issuer"
    return Unreachable(f"cannot reach {connection.shown}: {redacted(str(why))}", hint)
