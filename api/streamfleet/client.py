"""The client for programs without asyncio."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
from typing_extensions import Self, Unpack

from streamfleet import calls, streams
from streamfleet.attempts import Answer, Attempts
from streamfleet.calls import Call
from streamfleet.connection import Connection
from streamfleet.errors import StreamfleetError
from streamfleet.http_errors import is_final, unreachable, was_sent
from streamfleet.prediction import Prediction
from streamfleet.requests import PipelineChanges, PipelineSettings
from streamfleet.results import (
    AddedModel,
    CommandResult,
    Dataset,
    Device,
    DeviceStat,
    Event,
    Health,
    JoinToken,
    Model,
    Pipeline,
    PipelineReport,
    PipelineStat,
    Readiness,
    Subscriber,
    SubscriberKeys,
)
from streamfleet_core.models.digest import digest_of, pieces_of

T = TypeVar("T")

TIMEOUT = 15.0  # seconds for an answer
# Idle connections are closed well before the api does so, after 5 s: a request could meet that end.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
RETRIES = 4


class Client:
    """A client of one fleet's HTTP API. It may be used by one thread at a time.

    Requests that change nothing when sent twice are retried after a connection failure and after 502, 503 and
    504: GET, PUT without `if_match`, DELETE, and `create_pipeline`, which carries an `Idempotency-Key`. Other
    requests are retried only if they never reached the server or were refused with 429.

    Every method may raise `Unreachable` if there is no answer in time, `ApiError` if the api refuses the
    request (a subclass names the reason), and `UnexpectedAnswer` if the server is not a Streamfleet api.

    Args:
        connection: Where the fleet is. None: on this machine.
        timeout: Seconds for an answer.
        retries: Attempts after the first, with pauses of 0.1 s to 5 s between them.

    Raises:
        BadSetting: The token, the CA file or the fingerprint cannot be used.

    Example:
        ```python
        with streamfleet.Client() as client:
            client.add_model("yolox-nano/1", "yolox_nano.onnx")
            client.put_pipeline("door", model="yolox-nano/1", sources=["rtsp://10.0.0.9/door"])
            for prediction in client.predictions("door", timeout=60):
                print(prediction.frame_id, len(prediction.objects))
        ```
    """

    def __init__(
        self, connection: Connection | None = None, *, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        self.connection = connection or Connection()
        self._timeout = timeout
        self._retries = retries
        # Proxies of the environment are not asked: a fleet is on this host or on the network beside it.
        try:
            self._http = httpx.Client(
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
        """A client that reads the variables of the command line: see `Connection.from_environment`."""
        return cls(Connection.from_environment(), timeout=timeout, retries=retries)

    def close(self) -> None:
        """Close the connections. An iterator that is still open raises a RuntimeError when it reconnects."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # the fleet --------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Ask whether the api answers."""
        return self._send(calls.health())

    def ready(self) -> Readiness:
        """Ask the broker whether pipelines can run: see `Readiness.is_ready`."""
        return self._send(calls.ready())

    # pipelines --------------------------------------------------------------------------------------------

    def create_pipeline(
        self, pipeline_id: str | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """Create a pipeline.

        Args:
            pipeline_id: Its id, of letters, digits, `.`, `_` and `-`. None: the api makes one.
            **settings: See `PipelineSettings`; `model` and `sources` are required.

        Raises:
            Conflict: Another pipeline has this id.
            Invalid: A value is wrong, or the fleet does not have the model or device.
        """
        return self._send(calls.create_pipeline(pipeline_id, settings, uuid.uuid4().hex))

    def put_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """Create a pipeline, or make an existing one exactly like this.

        A repetition changes nothing. Thresholds, rates, sinks, tracker and labels change while it runs;
        another model, source or device restarts it.

        Args:
            pipeline_id: Its id, of letters, digits, `.`, `_` and `-`.
            if_match: The `version` that it must have.
            **settings: See `PipelineSettings`; `model` and `sources` are required.

        Raises:
            PreconditionFailed: It has another version.
            Invalid: A value is wrong, or the fleet does not have the model or device.
        """
        return self._send(calls.put_pipeline(pipeline_id, settings, if_match))

    def patch_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **changes: Unpack[PipelineChanges]
    ) -> Pipeline:
        """Change a pipeline in part.

        Args:
            pipeline_id: Its id.
            if_match: The `version` that it must have.
            **changes: See `PipelineChanges`.

        Raises:
            NotFound: There is no such pipeline.
            PreconditionFailed: It has another version.
        """
        return self._send(calls.patch_pipeline(pipeline_id, changes, if_match))

    def get_pipeline(self, pipeline_id: str) -> Pipeline:
        """Get one pipeline. Raises: NotFound."""
        return self._send(calls.get_pipeline(pipeline_id))

    def list_pipelines(
        self, selector: str | None = None, *, status: str | None = None, device: str | None = None
    ) -> tuple[Pipeline, ...]:
        """List pipelines, oldest first.

        Args:
            selector: Labels, as `site=hall-1,line`: this value, and any value.
            status: Only those with this status.
            device: Only those on this device.
        """
        return self._send(calls.list_pipelines(selector, status, device))

    def pipeline_report(self, pipeline_id: str) -> PipelineReport:
        """Get the whole present state of a pipeline. Raises: NotFound."""
        return self._send(calls.pipeline_report(pipeline_id))

    def pipeline_picture(self, pipeline_id: str, *, source: int | None = None) -> bytes:
        """Get the next picture of a pipeline with what was found in it: a JPEG of at most 640 pixels' width.

        Args:
            pipeline_id: Its id.
            source: By its index. None: the first.

        Raises:
            NotFound: There is no such pipeline or source.
            Unavailable: No picture came within 5 s.
        """
        return self._send(calls.pipeline_picture(pipeline_id, source))

    def pause_pipeline(self, pipeline_id: str) -> Pipeline:
        """Stop emitting; a file waits at its frame.

        It returns when the device has confirmed, and after 5 s at the latest: then `status` is not yet
        `paused`.

        Raises:
            NotFound: There is no such pipeline.
            Conflict: It has ended or failed.
        """
        return self._send(calls.command_pipeline(pipeline_id, "pause"))

    def resume_pipeline(self, pipeline_id: str) -> Pipeline:
        """Continue after a pause. Raises: NotFound, Conflict, as `pause_pipeline`."""
        return self._send(calls.command_pipeline(pipeline_id, "resume"))

    def restart_pipeline(self, pipeline_id: str) -> Pipeline:
        """Run from the beginning, even a file that has ended. Raises: NotFound."""
        return self._send(calls.command_pipeline(pipeline_id, "restart"))

    def delete_pipeline(self, pipeline_id: str) -> None:
        """End a pipeline and remove it. Raises: NotFound."""
        self._send(calls.delete_pipeline(pipeline_id))

    def command_pipelines(
        self, command: str, *, ids: Iterable[str] | None = None, selector: str | None = None
    ) -> tuple[CommandResult, ...]:
        """Pause, resume, restart or terminate many pipelines in one request.

        Args:
            command: `pause`, `resume`, `restart` or `terminate`.
            ids: Those with these ids. Give either `ids` or `selector`.
            selector: Those with these labels, as `site=hall-1,line`.
        """
        return self._send(calls.command_pipelines(command, ids, selector))

    # devices ----------------------------------------------------------------------------------------------

    def list_devices(self, selector: str | None = None, *, state: str | None = None) -> tuple[Device, ...]:
        """List devices by name.

        Args:
            selector: Labels, as `site=hall-1,line`: this value, and any value.
            state: Only those in this state.
        """
        return self._send(calls.list_devices(selector, state))

    def get_device(self, name: str) -> Device:
        """Get one device. Raises: NotFound."""
        return self._send(calls.get_device(name))

    def add_device(self, name: str, *, ttl: float = 900.0) -> JoinToken:
        """Get a token with which one device may join, once.

        Args:
            name: Of the device.
            ttl: Seconds for which the token is good.

        Raises:
            Conflict: A device has this name.
        """
        return self._send(calls.add_device(name, ttl))

    def label_device(self, name: str, labels: Mapping[str, str | None]) -> Device:
        """Change the labels of a device key by key; None removes one. Raises: NotFound."""
        return self._send(calls.label_device(name, labels))

    def remove_device(self, name: str) -> None:
        """Forget a device and its key. Raises: NotFound, Conflict."""
        self._send(calls.remove_device(name))

    # models -----------------------------------------------------------------------------------------------

    def list_models(self) -> tuple[Model, ...]:
        """List the models that pipelines may name, by id."""
        return self._send(calls.list_models())

    def get_model(self, model_id: str) -> Model:
        """Get one model. Raises: NotFound."""
        return self._send(calls.get_model(model_id))

    def add_model(
        self,
        model_id: str,
        file: str | Path,
        *,
        family: str | None = None,
        labels: Iterable[str] | None = None,
        replace: bool = False,
    ) -> AddedModel:
        """Upload an ONNX file, and let pipelines name it.

        Args:
            model_id: As `yolox-nano/1`.
            file: The ONNX file.
            family: How its output is laid out. None: the file tells.
            labels: The names of its classes. None: those in the file.
            replace: Whether an id that stands for another content may change its meaning.

        Raises:
            Conflict: The id stands for another content, and `replace` is false.
            Invalid: The file is not a model that the fleet can run.
            OSError: The file cannot be read.
        """
        path = Path(file).expanduser()
        digest = digest_of(path)
        self.upload_weights(digest, path)
        return self.register_model(model_id, digest, family=family, labels=labels, replace=replace)

    def upload_weights(self, digest: str, content: Path | Iterable[bytes]) -> bool:
        """Upload an ONNX file from wherever it is, for `register_model`.

        Args:
            digest: The SHA-256 of the whole content, in hexadecimal.
            content: A file, or pieces. Pieces are taken once, so that a failed upload is not repeated.

        Returns:
            Whether it was uploaded. False: the fleet has it already, and no piece was taken.

        Raises:
            Invalid: The content has another SHA-256.
            OSError: The file cannot be read.
        """
        if self._send(calls.has_blob(digest)):
            return False
        self._send(calls.put_blob(digest, content))
        return True

    def register_model(
        self,
        model_id: str,
        digest: str,
        *,
        family: str | None = None,
        labels: Iterable[str] | None = None,
        replace: bool = False,
    ) -> AddedModel:
        """Let pipelines name a model whose ONNX file the fleet has.

        Args:
            model_id: As `yolox-nano/1`.
            digest: The SHA-256 of the ONNX file, in hexadecimal.
            family: How its output is laid out. None: the file tells.
            labels: The names of its classes. None: those in the file.
            replace: Whether an id that stands for another content may change its meaning.

        Raises:
            Conflict: The id stands for another content, and `replace` is false.
            Invalid: The file is not there, or is not a model that the fleet can run.
        """
        return self._send(calls.put_model(model_id, digest, family=family, labels=labels, replace=replace))

    def remove_model(self, model_id: str, *, force: bool = False) -> None:
        """Let pipelines no longer name a model; those that run continue.

        Args:
            model_id: Its id.
            force: Even if pipelines use it.

        Raises:
            NotFound: There is no such model.
            Conflict: Pipelines use it, and `force` is false.
        """
        self._send(calls.remove_model(model_id, force=force))

    # samples --------------------------------------------------------------------------------------------

    def list_datasets(self) -> tuple[Dataset, ...]:
        """List the datasets of pictures that pipelines picked for labelling, by name."""
        return self._send(calls.list_datasets())

    def export_dataset(self, dataset: str, file: IO[bytes]) -> None:
        """Save a dataset as a ZIP with COCO's `annotations.json` and a folder `images`.

        Args:
            dataset: Its name.
            file: Where the ZIP is written, in pieces. After an error it may hold some of them.

        Raises:
            NotFound: There is no such dataset.
            OSError: The file cannot be written.
        """
        self._send(calls.export_dataset(dataset, file))

    def remove_dataset(self, dataset: str) -> None:
        """Remove all pictures of a dataset; devices may still send others. Raises: NotFound."""
        self._send(calls.remove_dataset(dataset))

    # subscribers ------------------------------------------------------------------------------------------

    def add_subscriber(
        self,
        name: str,
        *,
        pipelines: Iterable[str] = (),
        selector: Mapping[str, str] | None = None,
        device: str | None = None,
    ) -> SubscriberKeys:
        """Make keys with which a program elsewhere may `subscribe`.

        An existing name gets a new key, and the connections with the old one are cut.

        Args:
            name: Of the program.
            pipelines: It may receive these, besides those with the labels of `selector`. Without both: all.
            selector: Labels of pipelines that it may receive.
            device: Connect to this device itself, instead of the broker.
        """
        url = self.connection.url
        return self._send(
            calls.add_subscriber(name, url, device=device, pipelines=pipelines, selector=dict(selector or {}))
        )

    def list_subscribers(self) -> tuple[Subscriber, ...]:
        """List the programs that may `subscribe` from elsewhere, by name."""
        return self._send(calls.list_subscribers())

    def remove_subscriber(self, name: str) -> None:
        """Accept the key of a subscriber no longer. Raises: NotFound."""
        self._send(calls.remove_subscriber(name))

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
    ) -> Iterator[Prediction]:
        """Iterate over predictions as they happen, over HTTP. `subscribe` takes less of both machines.

        It reconnects. `Prediction.missing` counts what a slow reader lost.

        Args:
            *pipelines: Only of these. Without any: of all.
            devices: Only from these.
            selector: Only of pipelines with these labels, as `site=hall-1,line`.
            sources: Only of these sources, by index.
            classes: Only objects of these classes.
            min_confidence: Only objects of at least this confidence, from 0 to 1.
            empty: Also frames of which no object is left.
            timeout: Seconds without a prediction after which NothingReceived is raised. None: never.

        Raises:
            NothingReceived: No prediction within `timeout`.
            NotFound: There is no such pipeline.
        """
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
    ) -> Iterator[PipelineStat | DeviceStat]:
        """Iterate over statuses: the last of each pipeline and device, and then each as it comes.

        Args:
            *pipelines: Only of these. Without any: of all.
            devices: Only of these, and of pipelines on them.
            selector: Only of pipelines with these labels, as `site=hall-1,line`.
            timeout: Seconds without a status after which NothingReceived is raised. None: never.
        """
        return self._follow(streams.statuses(pipelines, devices=devices, selector=selector), timeout)

    def events(self, *, after: str | None = None, timeout: float | None = None) -> Iterator[Event]:
        """Iterate over what happens to pipelines and devices. After a reconnect nothing is missing.

        Args:
            after: The `Event.cursor` behind which to begin. None: with what happens next.
            timeout: Seconds without an event after which NothingReceived is raised. None: never.
        """
        return self._follow(streams.events(after), timeout)

    def recent_events(self, limit: int = 100) -> tuple[Event, ...]:
        """Get the last events, oldest first."""
        return self._send(calls.recent_events(limit))

    # driver -----------------------------------------------------------------------------------------------

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._retries, random.random, is_repeatable=call.is_repeatable)
        while True:
            try:
                answer = self._answer(call)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                pause = None if is_final(exc) else attempts.pause_after_failure(was_sent=was_sent(exc))
                if pause is None:
                    raise unreachable(self.connection, exc) from exc
            else:
                pause = attempts.pause_after(answer)
                if pause is None:
                    return call.result(answer, may_be_done=attempts.may_be_done)
            time.sleep(pause)

    def _answer(self, call: Call[Any]) -> Answer:
        with self._http.stream(
            call.method,
            call.path,
            content=pieces_of(call.body) if isinstance(call.body, Path) else call.body,
            headers=dict(call.headers),
            timeout=call.timeout or self._timeout,
        ) as response:
            if call.into is None or not response.is_success:
                return Answer(response.status_code, response.headers, response.read())
            for piece in response.iter_bytes():
                call.into.write(piece)
            return Answer(response.status_code, response.headers, b"")

    def _follow(self, stream: streams.Stream[T], timeout: float | None) -> Iterator[T]:
        following = streams.Following(stream, timeout, time.monotonic())
        attempts = Attempts(self._retries, random.random, is_repeatable=True)
        limits = httpx.Timeout(self._timeout, read=following.read_timeout)
        while True:
            failure: StreamfleetError
            cause: Exception | None = None
            try:
                with self._http.stream(
                    "GET", following.path, headers=following.headers(), timeout=limits
                ) as response:
                    if response.status_code == httpx.codes.OK:
                        following.opened()
                        for content in response.iter_bytes():
                            yield from following.feed(content, time.monotonic())
                            if following.is_proven:
                                attempts.succeeded()
                        failure = unreachable(self.connection, "the stream ended")
                        pause = attempts.pause_after_failure(was_sent=True)
                    else:
                        answer = Answer(response.status_code, response.headers, response.read())
                        failure = calls.error_in(answer)
                        pause = attempts.pause_after(answer)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                following.check(time.monotonic())
                failure, cause = unreachable(self.connection, exc), exc
                pause = None if is_final(exc) else attempts.pause_after_failure(was_sent=True)
            if pause is None:
                raise failure from cause
            time.sleep(pause)
