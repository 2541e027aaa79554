"""The synchronous client of a fleet's HTTP API."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
from typing_extensions import Self, Unpack

from streamfleet import api_calls, streams
from streamfleet.api_calls import Call
from streamfleet.attempts import Answer, Attempts
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

TIMEOUT = 15.0  # seconds for a response
# The API closes idle connections after 5 s. Close them earlier: no request may meet a closing connection.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
RETRIES = 4


class Client:
    """A client of one fleet's HTTP API. It may be used by one thread at a time.

    Requests that change nothing when sent twice are retried after a connection failure and after 502, 503 and
    504: GET, PUT without `if_match`, DELETE, and `create_pipeline`, which carries an `Idempotency-Key`. Other
    requests are retried only if they never reached the server or were refused with 429.

    Every method may raise `Unreachable` if there is no response in time, `ApiError` if the API refuses the
    request (the subclass gives the reason), and `UnexpectedAnswer` if the server is not a Streamfleet API.

    Args:
        connection: Address and credentials of the API. None: the fleet on this machine.
        timeout: Seconds to wait for a response.
        retries: Attempts after the first one, with pauses of 0.1 s to 5 s.

    Raises:
        BadSetting: The token, the CA file or the fingerprint is invalid.

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
        # Ignore the proxy variables: a fleet is on this host or on a network nearby.
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
        """Create a client from environment variables: see `Connection.from_environment`."""
        return cls(Connection.from_environment(), timeout=timeout, retries=retries)

    def close(self) -> None:
        """Close the connections. An open iterator raises RuntimeError when it reconnects."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # the fleet --------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Get the health of the API process."""
        return self._send(api_calls.health())

    def ready(self) -> Readiness:
        """Get from the broker whether the fleet can run pipelines: see `Readiness.is_ready`."""
        return self._send(api_calls.ready())

    # pipelines --------------------------------------------------------------------------------------------

    def create_pipeline(
        self, pipeline_id: str | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """Create a pipeline.

        Args:
            pipeline_id: The id: letters, digits, `.`, `_` and `-`. None: the API generates one.
            **settings: See `PipelineSettings`; `model` and `sources` are required.

        Raises:
            Conflict: A pipeline with this id exists.
            Invalid: A value is invalid, or the fleet does not have the model or device.
        """
        return self._send(api_calls.create_pipeline(pipeline_id, settings, uuid.uuid4().hex))

    def put_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **settings: Unpack[PipelineSettings]
    ) -> Pipeline:
        """Create a pipeline, or replace all settings of an existing one.

        The call is idempotent. Changed thresholds, rates, sinks, tracker and labels apply while the pipeline
        runs; a changed model, source or device restarts it.

        Args:
            pipeline_id: The id: letters, digits, `.`, `_` and `-`.
            if_match: The `version` that the pipeline must have. None: any.
            **settings: See `PipelineSettings`; `model` and `sources` are required.

        Raises:
            PreconditionFailed: The pipeline has another version.
            Invalid: A value is invalid, or the fleet does not have the model or device.

        Example:
            ```python
            pipeline = client.put_pipeline(
                "door",
                model="yolox-nano/1",
                sources=[{"reference": "rtsp://10.0.0.9/door", "max_fps": 10}],
                sinks=[{"host": "10.0.0.5", "port": 5005}],
                labels={"site": "hall-1"},
            )
            print(pipeline.status)
            ```
        """
        return self._send(api_calls.put_pipeline(pipeline_id, settings, if_match))

    def plan_pipelines(self, pipelines: Mapping[str, PipelineSettings]) -> Plan:
        """Say where pipelines would go, and what would be left of each device. Nothing changes.

        They are placed by priority, then in their order, as if those before them were there. One whose id
        exists takes the place of that pipeline.

        Args:
            pipelines: The settings of each pipeline, by id: see `PipelineSettings`.

        Raises:
            Invalid: A value is invalid, or the fleet does not have the model or device.

        Example:
            ```python
            plan = client.plan_pipelines(
                {f"door-{n}": {"model": "yolox-nano/1", "sources": [url], "max_fps": 5} for n, url in doors}
            )
            print([each.reason for each in plan.pipelines if each.device is None])
            ```
        """
        return self._send(api_calls.plan_pipelines(pipelines))

    def patch_pipeline(
        self, pipeline_id: str, *, if_match: int | None = None, **changes: Unpack[PipelineChanges]
    ) -> Pipeline:
        """Change some settings of a pipeline.

        Args:
            pipeline_id: The id of the pipeline.
            if_match: The `version` that the pipeline must have. None: any.
            **changes: See `PipelineChanges`.

        Raises:
            NotFound: There is no such pipeline.
            PreconditionFailed: The pipeline has another version.
            Invalid: A value is invalid, or the fleet does not have the model or device.

        Example:
            ```python
            client.patch_pipeline("door", confidence=0.6, labels={"line": None})
            ```
        """
        return self._send(api_calls.patch_pipeline(pipeline_id, changes, if_match))

    def get_pipeline(self, pipeline_id: str) -> Pipeline:
        """Get one pipeline. Raises: NotFound."""
        return self._send(api_calls.get_pipeline(pipeline_id))

    def list_pipelines(
        self, selector: str | None = None, *, status: str | None = None, device: str | None = None
    ) -> tuple[Pipeline, ...]:
        """List pipelines, oldest first.

        Args:
            selector: Labels that the pipelines must have, for example `site=hall-1,line`: `site` with this
                value, and `line` with any value. None: all pipelines.
            status: Only pipelines with this status: see `Pipeline.status`.
            device: Only pipelines on this device.
        """
        return self._send(api_calls.list_pipelines(selector, status, device))

    def page_of_pipelines(
        self,
        limit: int = 100,
        after: str | None = None,
        *,
        selector: str | None = None,
        status: str | None = None,
        device: str | None = None,
    ) -> PipelinePage:
        """List the pipelines of a large fleet page by page, oldest first.

        Args:
            limit: The most pipelines of the page.
            after: `next` of the page before. None: the first page.
            selector: As in `list_pipelines`.
            status: As in `list_pipelines`.
            device: As in `list_pipelines`.
        """
        return self._send(api_calls.page_of_pipelines(limit, after, selector, status, device))

    def pipeline_report(self, pipeline_id: str) -> PipelineReport:
        """Get the full status of a pipeline. Raises: NotFound."""
        return self._send(api_calls.pipeline_report(pipeline_id))

    def pipeline_picture(self, pipeline_id: str, *, source: int | None = None) -> bytes:
        """Get the next picture of a pipeline, with its detections drawn: a JPEG up to 640 pixels wide.

        Args:
            pipeline_id: The id of the pipeline.
            source: The index of the source, from 0. None: the first source.

        Raises:
            NotFound: There is no such pipeline or source.
            Unavailable: The pipeline sent no picture within 5 s.

        Example:
            ```python
            Path("door.jpg").write_bytes(client.pipeline_picture("door"))
            ```
        """
        return self._send(api_calls.pipeline_picture(pipeline_id, source))

    def pause_pipeline(self, pipeline_id: str) -> Pipeline:
        """Pause a pipeline. A video file continues at the same frame when the pipeline is resumed.

        The call returns when the device has confirmed. If the device does not confirm within 5 s, the call
        returns with a `status` that is not yet `paused`.

        Raises:
            NotFound: There is no such pipeline.
            Conflict: The pipeline has ended or failed.
        """
        return self._send(api_calls.command_pipeline(pipeline_id, "pause"))

    def resume_pipeline(self, pipeline_id: str) -> Pipeline:
        """Resume a paused pipeline. Raises: NotFound, Conflict, like `pause_pipeline`."""
        return self._send(api_calls.command_pipeline(pipeline_id, "resume"))

    def restart_pipeline(self, pipeline_id: str) -> Pipeline:
        """Restart a pipeline. A video file starts at its first frame, even if it ended. Raises: NotFound."""
        return self._send(api_calls.command_pipeline(pipeline_id, "restart"))

    def delete_pipeline(self, pipeline_id: str) -> None:
        """Stop a pipeline and delete it. Raises: NotFound."""
        self._send(api_calls.delete_pipeline(pipeline_id))

    def command_pipelines(
        self, command: str, *, ids: Iterable[str] | None = None, selector: str | None = None
    ) -> tuple[CommandResult, ...]:
        """Pause, resume, restart or terminate many pipelines in one request.

        Args:
            command: `pause`, `resume`, `restart` or `terminate`.
            ids: The ids of the pipelines. Give either `ids` or `selector`.
            selector: Labels that the pipelines must have, for example `site=hall-1,line`.

        Returns:
            One result per pipeline. A failure of one pipeline does not raise: see `CommandResult.status`.

        Example:
            ```python
            for result in client.command_pipelines("pause", selector="site=hall-1"):
                print(result.pipeline_id, result.status, result.detail)
            ```
        """
        return self._send(api_calls.command_pipelines(command, ids, selector))

    # a fleet as a file ------------------------------------------------------------------------------------

    def apply(
        self,
        document: Path | str | bytes | Mapping[str, Any],
        *,
        dry_run: bool = False,
        prune: bool = True,
        take_over: bool = False,
        delete: bool = False,
    ) -> ApplyResult:
        """Let the fleet be as a document says: its models, settings of devices, and pipelines.

        All pipelines change in one write, or none of them if another client changes one meanwhile.

        Args:
            document: The path of a YAML or JSON file, its text, or the value that it has. Its models need
                `weights`: only the command line uploads a `file`.
            dry_run: Change nothing, and return what would change.
            prune: Remove pipelines of the document's `manager` that it does not have.
            take_over: Also change pipelines of other managers.
            delete: Remove the pipelines of the document instead.

        Returns:
            What was done with each object. A failure of one object does not raise: see
            `AppliedObject.problem`.

        Raises:
            Invalid: A value is invalid, or the fleet does not have a model or device. Nothing was changed.
            Conflict: A pipeline belongs to another manager, or others change the same pipelines.
            OSError: The file cannot be read.

        Example:
            ```python
            for each in client.apply(Path("fleet.yaml"), dry_run=True).changed:
                print(each.action, each.id, each.device)
            ```
        """
        content = document.expanduser().read_bytes() if isinstance(document, Path) else document
        return self._send(
            api_calls.apply(content, dry_run=dry_run, prune=prune, take_over=take_over, delete=delete)
        )

    def export(self, manager: str | None = None) -> dict[str, Any]:
        """Get the document for what is there: applied, it changes nothing. Sources have no credentials.

        Args:
            manager: Whose pipelines; empty: those without a manager. None: the only manager that there is.

        Raises:
            Conflict: There are several managers, and `manager` is None.
        """
        return self._send(api_calls.export(manager))

    def file_schema(self) -> dict[str, Any]:
        """Get the JSON Schema of such a document, for editors and checkers."""
        return self._send(api_calls.file_schema())

    # devices ----------------------------------------------------------------------------------------------

    def list_devices(self, selector: str | None = None, *, state: str | None = None) -> tuple[Device, ...]:
        """List devices, sorted by name.

        Args:
            selector: Labels that the devices must have, for example `site=hall-1,line`: `site` with this
                value, and `line` with any value. None: all devices.
            state: Only devices in this state: see `Device.state`.
        """
        return self._send(api_calls.list_devices(selector, state))

    def page_of_devices(
        self,
        limit: int = 100,
        after: str | None = None,
        *,
        selector: str | None = None,
        state: str | None = None,
    ) -> DevicePage:
        """List the devices of a large fleet page by page, sorted by name.

        Args:
            limit: The most devices of the page.
            after: `next` of the page before. None: the first page.
            selector: As in `list_devices`.
            state: As in `list_devices`.
        """
        return self._send(api_calls.page_of_devices(limit, after, selector, state))

    def get_device(self, name: str) -> Device:
        """Get one device. Raises: NotFound."""
        return self._send(api_calls.get_device(name))

    def add_device(self, name: str, *, ttl: float = 900.0) -> JoinToken:
        """Create a token with which one device can join the fleet once.

        Args:
            name: The name of the new device.
            ttl: Seconds until the token expires.

        Raises:
            Conflict: A device with this name exists.
        """
        return self._send(api_calls.add_device(name, ttl))

    def label_device(self, name: str, labels: Mapping[str, str | None]) -> Device:
        """Change labels of a device.

        Args:
            name: The name of the device.
            labels: New values by key. None removes a label; other labels stay.

        Raises:
            NotFound: There is no such device.
        """
        return self._send(api_calls.label_device(name, labels))

    def cordon_device(self, name: str) -> Device:
        """Place no pipeline on a device any more. What runs there goes on. Raises: NotFound."""
        return self._send(api_calls.cordon_device(name, cordoned=True))

    def uncordon_device(self, name: str) -> Device:
        """Place pipelines on a device again. It ends a drain: what has not moved stays. Raises: NotFound."""
        return self._send(api_calls.cordon_device(name, cordoned=False))

    def drain_device(self, name: str, *, force_after: float | None = None) -> Device:
        """Cordon a device, and move all pipelines to others. `Device.remaining` tells how far it is.

        Each pipeline runs on until another device is ready for it. The drain lasts until `uncordon_device`.

        Args:
            name: The name of the device.
            force_after: Seconds after which nothing is waited for any more: files begin again on other
                devices, and pipelines move although no device got ready for them. None: never.

        Raises:
            NotFound: There is no such device.
        """
        return self._send(api_calls.drain_device(name, force_after))

    def rebalance_devices(self, *, dry_run: bool = False) -> Rebalance:
        """Move running pipelines from devices with much load to others with less, a few at a time.

        Each runs on until another device is ready for it. Pipelines that would be interrupted stay.

        Args:
            dry_run: Only say what would move.
        """
        return self._send(api_calls.rebalance_devices(dry_run=dry_run))

    def remove_device(self, name: str) -> None:
        """Remove a device and its key from the fleet. Raises: NotFound, Conflict."""
        self._send(api_calls.remove_device(name))

    def drill_device(
        self, name: str, fault: str, *, pipeline: str | None = None, seconds: float = 0.0
    ) -> None:
        """Have a device cause a fault, to try what then happens.

        Args:
            name: The name of the device. Its worker must run with `--allow-drills true`.
            fault: `camera`, `engine` or `publisher` kills such a process; `isolate` keeps the device from the
                broker for a while.
            pipeline: The pipeline whose camera is killed. None: any.
            seconds: How long the device is isolated.

        Raises:
            Conflict: The device takes part in no drills, or is not ready.
        """
        self._send(api_calls.drill_device(name, fault, pipeline, seconds))

    # models -----------------------------------------------------------------------------------------------

    def list_models(self) -> tuple[Model, ...]:
        """List the models that pipelines can use, sorted by id."""
        return self._send(api_calls.list_models())

    def get_model(self, model_id: str) -> ModelCard:
        """Get one model, with what its file says about itself. Raises: NotFound."""
        return self._send(api_calls.get_model(model_id))

    def add_model(
        self,
        model_id: str,
        file: str | Path,
        *,
        family: str | None = None,
        labels: Iterable[str] | None = None,
        replace: bool = False,
    ) -> AddedModel:
        """Upload an ONNX file and register it as a model.

        Args:
            model_id: The id of the model, for example `yolox-nano/1`.
            file: The path of the ONNX file.
            family: The layout of its input and output. None: detect it from the file.
            labels: The class names, in the order of the model's output. None: read them from the file.
            replace: Allow an existing id to refer to a new file.

        Raises:
            Conflict: The id refers to another file, and `replace` is false.
            Invalid: The file is not a model that the fleet can run.
            OSError: The file cannot be read.

        Example:
            ```python
            model = client.add_model("yolox-nano/1", "yolox_nano.onnx")
            print(model.family, model.labels)
            ```
        """
        path = Path(file).expanduser()
        digest = digest_of(path)
        self.upload_weights(digest, path)
        return self.register_model(model_id, digest, family=family, labels=labels, replace=replace)

    def upload_weights(self, digest: str, content: Path | Iterable[bytes]) -> bool:
        """Upload an ONNX file, from a path or as a sequence of bytes, for `register_model`.

        Args:
            digest: The SHA-256 of the whole content, in hexadecimal.
            content: A path, or an iterable of bytes. An iterable is read once, so a failed upload is not
                retried.

        Returns:
            Whether the content was uploaded. False: the fleet already has it, and the iterable was not read.

        Raises:
            Invalid: The content has another SHA-256.
            OSError: The file cannot be read.
        """
        if self._send(api_calls.has_blob(digest)):
            return False
        self._send(api_calls.put_blob(digest, content))
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
        """Register a model whose ONNX file was uploaded.

        Args:
            model_id: The id of the model, for example `yolox-nano/1`.
            digest: The SHA-256 of the ONNX file, in hexadecimal.
            family: The layout of its input and output. None: detect it from the file.
            labels: The class names, in the order of the model's output. None: read them from the file.
            replace: Allow an existing id to refer to a new file.

        Raises:
            Conflict: The id refers to another file, and `replace` is false.
            Invalid: The file was not uploaded, or is not a model that the fleet can run.
        """
        return self._send(
            api_calls.put_model(model_id, digest, family=family, labels=labels, replace=replace)
        )

    def remove_model(self, model_id: str, *, force: bool = False) -> None:
        """Remove a model, so that no new pipeline can use it. Running pipelines continue.

        Args:
            model_id: The id of the model.
            force: Remove it although pipelines use it.

        Raises:
            NotFound: There is no such model.
            Conflict: Pipelines use the model, and `force` is false.
        """
        self._send(api_calls.remove_model(model_id, force=force))

    # samples --------------------------------------------------------------------------------------------

    def list_datasets(self) -> tuple[Dataset, ...]:
        """List the datasets of pictures that pipelines selected for labelling, sorted by name."""
        return self._send(api_calls.list_datasets())

    def export_dataset(self, dataset: str, file: IO[bytes]) -> None:
        """Export a dataset as a ZIP file with a COCO `annotations.json` and a folder `images`.

        Args:
            dataset: The name of the dataset.
            file: A binary file to which the ZIP is written. After an error it may be incomplete.

        Raises:
            NotFound: There is no such dataset.
            OSError: The file cannot be written.

        Example:
            ```python
            with open("parts.zip", "wb") as file:
                client.export_dataset("parts", file)
            ```
        """
        self._send(api_calls.export_dataset(dataset, file))

    def remove_dataset(self, dataset: str) -> None:
        """Delete all pictures of a dataset. Devices may still add new ones. Raises: NotFound."""
        self._send(api_calls.remove_dataset(dataset))

    # roll-outs --------------------------------------------------------------------------------------------

    def start_rollout(
        self, old: str, new: str, *, rollout_id: str | None = None, **settings: Unpack[RolloutSettings]
    ) -> Rollout:
        """Move all pipelines of a model to another one in waves, and back if it is worse.

        The broker carries it out: it goes on without this program. `get_rollout` tells how far it is.

        Args:
            old: The id of the model that pipelines use.
            new: The id of the model that they get.
            rollout_id: Its name. None: one is made.
            settings: See `RolloutSettings`.

        Raises:
            Conflict: No pipeline uses the model, or one is part of another roll-out.
            Invalid: A value is invalid.

        Example:
            ```python
            rollout = client.start_rollout("parts/1", "parts/2", canary=0.05, max_unavailable=5)
            ```
        """
        return self._send(
            api_calls.start_rollout(old, new, rollout_id or f"rollout-{uuid.uuid4().hex[:8]}", settings)
        )

    def list_rollouts(self) -> tuple[Rollout, ...]:
        """List the last roll-outs, the oldest first, without their pipelines."""
        return self._send(api_calls.list_rollouts())

    def get_rollout(self, rollout_id: str) -> Rollout:
        """Get one roll-out, and how far each of its pipelines is. Raises: NotFound."""
        return self._send(api_calls.get_rollout(rollout_id))

    def cancel_rollout(self, rollout_id: str, *, keep: bool = False) -> Rollout:
        """End a roll-out: all pipelines go back to the old model, or `keep` the one that they have.

        Raises:
            NotFound: There is no such roll-out.
            Conflict: It is over.
        """
        return self._send(api_calls.cancel_rollout(rollout_id, keep=keep))

    # subscribers ------------------------------------------------------------------------------------------

    def add_subscriber(
        self,
        name: str,
        *,
        pipelines: Iterable[str] = (),
        selector: Mapping[str, str] | None = None,
        device: str | None = None,
    ) -> SubscriberKeys:
        """Create keys with which a program on another machine can `subscribe`.

        If the name exists, its key is replaced, and connections with the old key are closed.

        Args:
            name: The name of the subscriber.
            pipelines: Ids of pipelines that it may receive, in addition to those that match `selector`.
                Without `pipelines` and `selector`: all pipelines.
            selector: Labels of pipelines that it may receive.
            device: Connect directly to this device instead of the broker. None: the broker.

        Raises:
            Invalid: A value is invalid.

        Example:
            ```python
            keys = client.add_subscriber("wall", selector={"site": "hall-1"})
            with streamfleet.subscribe(keys=keys) as predictions:
                print(next(predictions))
            ```
        """
        url = self.connection.url
        return self._send(
            api_calls.add_subscriber(
                name, url, device=device, pipelines=pipelines, selector=dict(selector or {})
            )
        )

    def list_subscribers(self) -> tuple[Subscriber, ...]:
        """List the subscribers with keys, sorted by name."""
        return self._send(api_calls.list_subscribers())

    def remove_subscriber(self, name: str) -> None:
        """Revoke the key of a subscriber. Raises: NotFound."""
        self._send(api_calls.remove_subscriber(name))

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
        """Iterate over live predictions, over HTTP. `subscribe` costs less CPU on both machines.

        The iterator reconnects automatically. `Prediction.missing` counts the predictions that a slow reader
        lost.

        Args:
            *pipelines: Ids of pipelines. Without any: all pipelines.
            devices: Only predictions of these devices. Empty: all devices.
            selector: Only pipelines with these labels, for example `site=hall-1,line`.
            sources: Only these source indexes, from 0. Empty: all sources.
            classes: Only objects of these classes. Empty: all classes.
            min_confidence: Only objects with at least this confidence, from 0 to 1.
            empty: Also yield predictions without objects.
            timeout: Seconds without a prediction after which NothingReceived is raised. None: wait until one
                arrives.

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
        """Iterate over statuses: first the latest of each pipeline and device, then each new one.

        Args:
            *pipelines: Ids of pipelines. Without any: all pipelines.
            devices: Only these devices and the pipelines on them. Empty: all devices.
            selector: Only pipelines with these labels, for example `site=hall-1,line`.
            timeout: Seconds without a status after which NothingReceived is raised. None: wait until one
                arrives.

        Raises:
            NothingReceived: No status within `timeout`.
        """
        return self._follow(streams.statuses(pipelines, devices=devices, selector=selector), timeout)

    def events(self, *, after: str | None = None, timeout: float | None = None) -> Iterator[Event]:
        """Iterate over events of pipelines, devices and processes.

        The iterator reconnects automatically and continues after the last event that it received.

        Args:
            after: The `Event.cursor` after which to start. None: start with the next event.
            timeout: Seconds without an event after which NothingReceived is raised. None: wait until one
                arrives.

        Raises:
            NothingReceived: No event within `timeout`.

        Example:
            ```python
            for event in client.events():
                print(event.subject, event.id, event.previous, "→", event.state, event.reason)
            ```
        """
        return self._follow(streams.events(after), timeout)

    def recent_events(self, limit: int = 100) -> tuple[Event, ...]:
        """Get the last `limit` events, oldest first."""
        return self._send(api_calls.recent_events(limit))

    # transport ---------------------------------------------------------------------------------------------

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
                    return call.result(answer, may_have_succeeded=attempts.may_have_succeeded)
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
                        failure = api_calls.error_in(answer)
                        pause = attempts.pause_after(answer)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                following.check(time.monotonic())
                failure, cause = unreachable(self.connection, exc), exc
                pause = None if is_final(exc) else attempts.pause_after_failure(was_sent=True)
            if pause is None:
                raise failure from cause
            time.sleep(pause)
