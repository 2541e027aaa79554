"""The asyncio client of a fleet's HTTP API, with the same requests and results as `client`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
from typing_extensions import Self, Unpack

from streamfleet import api_calls, streams
from streamfleet.api_calls import Call
from streamfleet.attempts import Answer, Attempts
from streamfleet.client import LIMITS, RETRIES, TIMEOUT
from streamfleet.connection import Connection
from streamfleet.errors import StreamfleetError
from streamfleet.http_errors import is_final, unreachable, was_sent
from streamfleet.prediction import Prediction
from streamfleet.requests import PipelineChanges, PipelineSettings, RolloutSettings
from streamfleet.results import (
    AddedModel,
    ApplyResult,
    CommandResult,
    Dataset,
    Device,
    DevicePage,
    DeviceStat,
    Event,
    Health,
    JoinToken,
    Model,
    ModelCard,
    Pipeline,
    PipelinePage,
    PipelineReport,
    PipelineStat,
    Plan,
    Readiness,
    Rebalance,
    Rollout,
    Subscriber,
    SubscriberKeys,
)
from streamfleet_core.models.digest import digest_of, pieces_of

T = TypeVar("T")


class AsyncClient:
    """An asyncio client of one fleet's HTTP API, with the methods of `Client`.

    Args:
        connection: Address and credentials of the API. None: the fleet on this machine.
        timeout: Seconds to wait for a response.
        retries: Attempts after the first one, with pauses of 0.1 s to 5 s.

    Raises:
        BadSetting: The token, the CA file or the fingerprint is invalid.

    Example:
        ```python
        async with streamfleet.AsyncClient() as client:
            async for prediction in client.predictions("door", timeout=60):
                print(prediction.frame_id, len(prediction.objects))
        ```
    """

    def __init__(
        self, connection: Connection | None = None, *, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        self.connection = connection or Connection()
        self._timeout = timeout
        self._retries = retries
        # Ignore the proxy variables: a fleet is on this host or on a network nearby.
        try:
            self._http = httpx.AsyncClient(
                base_url=self.connection.url.rstrip("/"),
                headers=self.connection.headers(),
                verify=self.connection.verification(),
                timeout=timeout,
                limits=LIMITS,
                trust_env=False,
            )
        except httpx.InvalidURL as exc:
            raise unreachable(self.connection, exc) from exc

    @classmethod
    def from_environment(cls, *, timeout: float = TIMEOUT, retries: int = RETRIES) -> Self:
        """See `Client.from_environment`."""
        return cls(Connection.from_environment(), timeout=timeout, retries=retries)

    async def close(self) -> None:
        """See `Client.close`."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # the fleet --------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """See `Client.health`."""
        return await self._send(api_calls.health())

    async def ready(self) -> Readiness:
        """See `Client.ready`."""
        return await self._send(api_calls.ready())

    # pipelines --------------------------------------------------------------------------------------------

    async def create_pipeline(
        self, pipeline_id: str | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """See `Client.create_pipeline`."""
        return await self._send(api_calls.create_pipeline(pipeline_id, settings, uuid.uuid4().hex))

    async def put_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """See `Client.put_pipeline`."""
        return await self._send(api_calls.put_pipeline(pipeline_id, settings, if_match))

    async def plan_pipelines(self, pipelines: Mapping[str, PipelineSettings]) -> Plan:
        """See `Client.plan_pipelines`."""
        return await self._send(api_calls.plan_pipelines(pipelines))

    async def patch_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **changes: Unpack[PipelineChanges]
    ) -> Pipeline:
        """See `Client.patch_pipeline`."""
        return await self._send(api_calls.patch_pipeline(pipeline_id, changes, if_match))

    async def get_pipeline(self, pipeline_id: str) -> Pipeline:
        """See `Client.get_pipeline`."""
        return await self._send(api_calls.get_pipeline(pipeline_id))

    async def list_pipelines(
        self, selector: str | None = None, *, status: str | None = None, device: str | None = None
    ) -> tuple[Pipeline, ...]:
        """See `Client.list_pipelines`."""
        return await self._send(api_calls.list_pipelines(selector, status, device))

    async def page_of_pipelines(
        self,
        limit: int = 100,
        after: str | None = None,
        *,
        selector: str | None = None,
        status: str | None = None,
        device: str | None = None,
    ) -> PipelinePage:
        """See `Client.page_of_pipelines`."""
        return await self._send(api_calls.page_of_pipelines(limit, after, selector, status, device))

    async def pipeline_report(self, pipeline_id: str) -> PipelineReport:
        """See `Client.pipeline_report`."""
        return await self._send(api_calls.pipeline_report(pipeline_id))

    async def pipeline_picture(self, pipeline_id: str, *, source: int | None = None) -> bytes:
        """See `Client.pipeline_picture`."""
        return await self._send(api_calls.pipeline_picture(pipeline_id, source))

    async def pause_pipeline(self, pipeline_id: str) -> Pipeline:
        """See `Client.pause_pipeline`."""
        return await self._send(api_calls.command_pipeline(pipeline_id, "pause"))

    async def resume_pipeline(self, pipeline_id: str) -> Pipeline:
        """See `Client.resume_pipeline`."""
        return await self._send(api_calls.command_pipeline(pipeline_id, "resume"))

    async def restart_pipeline(self, pipeline_id: str) -> Pipeline:
        """See `Client.restart_pipeline`."""
        return await self._send(api_calls.command_pipeline(pipeline_id, "restart"))

    async def delete_pipeline(self, pipeline_id: str) -> None:
        """See `Client.delete_pipeline`."""
        await self._send(api_calls.delete_pipeline(pipeline_id))

    async def command_pipelines(
        self, command: str, *, ids: Iterable[str] | None = None, selector: str | None = None
    ) -> tuple[CommandResult, ...]:
        """See `Client.command_pipelines`."""
        return await self._send(api_calls.command_pipelines(command, ids, selector))

    # a fleet as a file ------------------------------------------------------------------------------------

    async def apply(
        self,
        document: Path | str | bytes | Mapping[str, Any],
        *,
        dry_run: bool = False,
        prune: bool = True,
        take_over: bool = False,
        delete: bool = False,
    ) -> ApplyResult:
        """See `Client.apply`."""
        if isinstance(document, Path):
            document = await asyncio.to_thread(document.expanduser().read_bytes)
        return await self._send(
            api_calls.apply(document, dry_run=dry_run, prune=prune, take_over=take_over, delete=delete)
        )

    async def export(self, manager: str | None = None) -> dict[str, Any]:
        """See `Client.export`."""
        return await self._send(api_calls.export(manager))

    async def file_schema(self) -> dict[str, Any]:
        """See `Client.file_schema`."""
        return await self._send(api_calls.file_schema())

    # devices ----------------------------------------------------------------------------------------------

    async def list_devices(
        self, selector: str | None = None, *, state: str | None = None
    ) -> tuple[Device, ...]:
        """See `Client.list_devices`."""
        return await self._send(api_calls.list_devices(selector, state))

    async def page_of_devices(
        self,
        limit: int = 100,
        after: str | None = None,
        *,
        selector: str | None = None,
        state: str | None = None,
    ) -> DevicePage:
        """See `Client.page_of_devices`."""
        return await self._send(api_calls.page_of_devices(limit, after, selector, state))

    async def get_device(self, name: str) -> Device:
        """See `Client.get_device`."""
        return await self._send(api_calls.get_device(name))

    async def add_device(self, name: str, *, ttl: float = 900.0) -> JoinToken:
        """See `Client.add_device`."""
        return await self._send(api_calls.add_device(name, ttl))

    async def label_device(self, name: str, labels: Mapping[str, str | None]) -> Device:
        """See `Client.label_device`."""
        return await self._send(api_calls.label_device(name, labels))

    async def cordon_device(self, name: str) -> Device:
        """See `Client.cordon_device`."""
        return await self._send(api_calls.cordon_device(name, cordoned=True))

    async def uncordon_device(self, name: str) -> Device:
        """See `Client.uncordon_device`."""
        return await self._send(api_calls.cordon_device(name, cordoned=False))

    async def drain_device(self, name: str, *, force_after: float | None = None) -> Device:
        """See `Client.drain_device`."""
        return await self._send(api_calls.drain_device(name, force_after))

    async def rebalance_devices(self, *, dry_run: bool = False) -> Rebalance:
        """See `Client.rebalance_devices`."""
        return await self._send(api_calls.rebalance_devices(dry_run=dry_run))

    async def remove_device(self, name: str) -> None:
        """See `Client.remove_device`."""
        await self._send(api_calls.remove_device(name))

    async def drill_device(
        self, name: str, fault: str, *, pipeline: str | None = None, seconds: float = 0.0
    ) -> None:
        """See `Client.drill_device`."""
        await self._send(api_calls.drill_device(name, fault, pipeline, seconds))

    # models -----------------------------------------------------------------------------------------------

    async def list_models(self) -> tuple[Model, ...]:
        """See `Client.list_models`."""
        return await self._send(api_calls.list_models())

    async def get_model(self, model_id: str) -> ModelCard:
        """See `Client.get_model`."""
        return await self._send(api_calls.get_model(model_id))

    async def add_model(
        self,
        model_id: str,
        file: str | Path,
        *,
        family: str | None = None,
        labels: Iterable[str] | None = None,
        replace: bool = False,
    ) -> AddedModel:
        """See `Client.add_model`."""
        path = Path(file).expanduser()
        digest = await asyncio.to_thread(digest_of, path)
        await self.upload_weights(digest, path)
        return await self.register_model(model_id, digest, family=family, labels=labels, replace=replace)

    async def upload_weights(self, digest: str, content: Path | Iterable[bytes]) -> bool:
        """See `Client.upload_weights`."""
        if await self._send(api_calls.has_blob(digest)):
            return False
        await self._send(api_calls.put_blob(digest, content))
        return True

    async def register_model(
        self,
        model_id: str,
        digest: str,
        *,
        family: str | None = None,
        labels: Iterable[str] | None = None,
        replace: bool = False,
    ) -> AddedModel:
        """See `Client.register_model`."""
        return await self._send(
            api_calls.put_model(model_id, digest, family=family, labels=labels, replace=replace)
        )

    async def remove_model(self, model_id: str, *, force: bool = False) -> None:
        """See `Client.remove_model`."""
        await self._send(api_calls.remove_model(model_id, force=force))

    # samples --------------------------------------------------------------------------------------------

    async def list_datasets(self) -> tuple[Dataset, ...]:
        """See `Client.list_datasets`."""
        return await self._send(api_calls.list_datasets())

    async def export_dataset(self, dataset: str, file: IO[bytes]) -> None:
        """See `Client.export_dataset`."""
        await self._send(api_calls.export_dataset(dataset, file))

    async def remove_dataset(self, dataset: str) -> None:
        """See `Client.remove_dataset`."""
        await self._send(api_calls.remove_dataset(dataset))

    # roll-outs --------------------------------------------------------------------------------------------

    async def start_rollout(
        self, old: str, new: str, *, rollout_id: str | None = None, **settings: Unpack[RolloutSettings]
    ) -> Rollout:
        """See `Client.start_rollout`."""
        return await self._send(
            api_calls.start_rollout(old, new, rollout_id or f"rollout-{uuid.uuid4().hex[:8]}", settings)
        )

    async def list_rollouts(self) -> tuple[Rollout, ...]:
        """See `Client.list_rollouts`."""
        return await self._send(api_calls.list_rollouts())

    async def get_rollout(self, rollout_id: str) -> Rollout:
        """See `Client.get_rollout`."""
        return await self._send(api_calls.get_rollout(rollout_id))

    async def cancel_rollout(self, rollout_id: str, *, keep: bool = False) -> Rollout:
        """See `Client.cancel_rollout`."""
        return await self._send(api_calls.cancel_rollout(rollout_id, keep=keep))

    # subscribers ------------------------------------------------------------------------------------------

    async def add_subscriber(
        self,
        name: str,
        *,
        pipelines: Iterable[str] = (),
        selector: Mapping[str, str] | None = None,
        device: str | None = None,
    ) -> SubscriberKeys:
        """See `Client.add_subscriber`."""
        url = self.connection.url
        return await self._send(
            api_calls.add_subscriber(
                name, url, device=device, pipelines=pipelines, selector=dict(selector or {})
            )
        )

    async def list_subscribers(self) -> tuple[Subscriber, ...]:
        """See `Client.list_subscribers`."""
        return await self._send(api_calls.list_subscribers())

    async def remove_subscriber(self, name: str) -> None:
        """See `Client.remove_subscriber`."""
        await self._send(api_calls.remove_subscriber(name))

    # streams ----------------------------------------------------------------------------------------------

    def predictions(
        self,
        *pipelines: str,
        devices: Iterable[str] = (),
        selector: str | None = None,
        sources: Iterable[int] = (),
        classes: Iterable[str] = (),
        min_confidence: float | None = None,
        empty: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Prediction]:
        """See `Client.predictions`."""
        stream = streams.predictions(
            pipelines,
            devices=devices,
            selector=selector,
            sources=sources,
            classes=classes,
            min_confidence=min_confidence,
            empty=empty,
        )
        return self._follow(stream, timeout)

    def statuses(
        self,
        *pipelines: str,
        devices: Iterable[str] = (),
        selector: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[PipelineStat | DeviceStat]:
        """See `Client.statuses`."""
        return self._follow(streams.statuses(pipelines, devices=devices, selector=selector), timeout)

    def events(self, *, after: str | None = None, timeout: float | None = None) -> AsyncIterator[Event]:
        """See `Client.events`."""
        return self._follow(streams.events(after), timeout)

    async def recent_events(self, limit: int = 100) -> tuple[Event, ...]:
        """See `Client.recent_events`."""
        return await self._send(api_calls.recent_events(limit))

    # transport ---------------------------------------------------------------------------------------------

    async def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._retries, random.random, is_repeatable=call.is_repeatable)
        while True:
            try:
                answer = await self._answer(call)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                pause = None if is_final(exc) else attempts.pause_after_failure(was_sent=was_sent(exc))
                if pause is None:
                    raise unreachable(self.connection, exc) from exc
            else:
                pause = attempts.pause_after(answer)
                if pause is None:
                    return call.result(answer, may_have_succeeded=attempts.may_have_succeeded)
            await asyncio.sleep(pause)

    async def _answer(self, call: Call[Any]) -> Answer:
        async with self._http.stream(
            call.method,
            call.path,
            content=call.body if isinstance(call.body, bytes) else _pieces(call.body),
            headers=dict(call.headers),
            timeout=call.timeout or self._timeout,
        ) as response:
            if call.into is None or not response.is_success:
                return Answer(response.status_code, response.headers, await response.aread())
            async for piece in response.aiter_bytes():
                await asyncio.to_thread(call.into.write, piece)
            return Answer(response.status_code, response.headers, b"")

    async def _follow(self, stream: streams.Stream[T], timeout: float | None) -> AsyncIterator[T]:
        following = streams.Following(stream, timeout, time.monotonic())
        attempts = Attempts(self._retries, random.random, is_repeatable=True)
        limits = httpx.Timeout(self._timeout, read=following.read_timeout)
        while True:
            failure: StreamfleetError
            cause: Exception | None = None
            try:
                async with self._http.stream(
                    "GET", following.path, headers=following.headers(), timeout=limits
                ) as response:
                    if response.status_code == httpx.codes.OK:
                        following.opened()
                        async for content in response.aiter_bytes():
                            for value in following.feed(content, time.monotonic()):
                                yield value
                            if following.is_proven:
                                attempts.succeeded()
                        failure = unreachable(self.connection, "the stream ended")
                        pause = attempts.pause_after_failure(was_sent=True)
                    else:
                        answer = Answer(response.status_code, response.headers, await response.aread())
                        failure = api_calls.error_in(answer)
                        pause = attempts.pause_after(answer)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                following.check(time.monotonic())
                failure, cause = unreachable(self.connection, exc), exc
                pause = None if is_final(exc) else attempts.pause_after_failure(was_sent=True)
            if pause is None:
                raise failure from cause
            await asyncio.sleep(pause)


async def _pieces(content: Path | Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces of a body, which a thread reads."""
    made: contextlib.AbstractContextManager[Iterator[bytes]] = (
        contextlib.closing(pieces_of(content))
        if isinstance(content, Path)
        else contextlib.nullcontext(iter(content))
    )
    with made as pieces:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
