"""`/v2/samples`: images for labelling, by dataset. Devices upload them, clients export them as COCO."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from pydantic import BeforeValidator, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.storage.coco_zip import zipped
from streamfleet_api.storage.jpeg import BadJpeg
from streamfleet_api.storage.sample_store import (
    Kept,
    NoSuchDataset,
    OtherSample,
    Page,
    Samples,
    TooNew,
    TooOld,
    Which,
)
from streamfleet_api.v2.request_reading import query
from streamfleet_api.v2.requests import Body, Name
from streamfleet_api.v2.responses import Answer as Model
from streamfleet_api.web.auth import device_of
from streamfleet_api.web.endpoint import JSON, Answer, Content, Endpoint, native, written
from streamfleet_api.web.problem_details import Problem, of_disk
from streamfleet_api.web.validation import ID_SCHEMA
from streamfleet_core.datasets.picked_sample import MAX_PICKED, PICKED, Picked, Sample
from streamfleet_core.datasets.spool import NoSampleName, SpoolTooSmall
from streamfleet_core.protocol.limits import SAMPLE_NAME_PATTERN, schema_pattern
from streamfleet_core.protocol.rates import Bucket, Rate
from streamfleet_core.protocol.requests import CheckHolder

SAMPLES = "/v2/samples/"
ZIP = "application/zip"
JPEG = "image/jpeg"
MAX_PAGE = 1_000  # samples
_AT_ONCE = 8 * MAX_PICKED  # bytes of all uploads in progress, in memory
BUDGET = Rate(20, 200)  # samples of one device: a worker pauses at least 50 ms after each
VOLUME = Rate(8 * 1024**2, 64 * 1024**2)  # bytes of one device: each is looked through before it is known
_UPLOAD_TIMEOUT = 300.0  # seconds in which a sample must have come: some come over 256 kbit/s

_NAME = schema_pattern(SAMPLE_NAME_PATTERN)
_DATASET = {"dataset": ID_SCHEMA}
_SAMPLE = {**_DATASET, "name": {"type": "string", "pattern": _NAME}}


def _number(text: object) -> object:
    """Convert a plain number in a query; any other text stays text, and is refused by the validation."""
    return (
        int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else text
    )


class DatasetsQuery(Body):
    """A filter of the samples to count."""

    pipeline: Name | None = None
    device: Name | None = None


class SamplesQuery(DatasetsQuery):
    """A filter of samples, and the page."""

    after: Annotated[str, Field(pattern=_NAME)] | None = None
    """The name of the last sample of the previous page."""
    limit: Annotated[int, BeforeValidator(_number), Field(ge=1, le=MAX_PAGE)] = 100


class Dataset(Model):
    """Figures of one dataset."""

    dataset: str
    samples: int
    size: int
    """Bytes."""
    oldest: float
    """Unix seconds of its capture."""
    newest: float
    pipelines: list[str]
    devices: list[str]

    @classmethod
    def of(cls, samples: list[Kept]) -> Dataset:
        """Summarise the samples of a dataset, at least one."""
        return cls(
            dataset=samples[0].dataset,
            samples=len(samples),
            size=sum(kept.size for kept in samples),
            oldest=min(kept.captured_at for kept in samples),
            newest=max(kept.captured_at for kept in samples),
            pipelines=sorted({kept.pipeline_id for kept in samples}),
            devices=sorted({kept.device for kept in samples}),
        )


class DatasetList(Model):
    """Datasets, by name."""

    datasets: list[Dataset]

    @classmethod
    def of(cls, kept: Iterable[Kept]) -> DatasetList:
        """Summarise samples, which come by dataset."""
        groups = itertools.groupby(kept, key=lambda one: one.dataset)
        return cls(datasets=[Dataset.of(list(samples)) for _, samples in groups])


class SampleEntry(Model):
    """One sample, without its prediction."""

    name: str
    size: int
    """Bytes of its JPEG and its JSON."""
    pipeline_id: str
    device: str
    source_id: int
    frame_id: int
    captured_at: float
    """Unix seconds."""
    strategy: str
    """The strategy that selected it."""
    batch: str

    @classmethod
    def of(cls, kept: Kept) -> SampleEntry:
        """Describe a stored sample."""
        return cls(
            name=kept.name,
            size=kept.size,
            pipeline_id=kept.pipeline_id,
            device=kept.device,
            source_id=kept.source_id,
            frame_id=kept.frame_id,
            captured_at=kept.captured_at,
            strategy=kept.strategy,
            batch=kept.batch,
        )


class SampleList(Model):
    """Samples by name, which is the order of their capture."""

    samples: list[SampleEntry]
    next: str | None
    """The `after` of the next page. Null on the last page."""


class PutSampleAnswer(Model):
    """A stored sample."""

    dataset: str
    name: str


class SampleRoutes:
    """The endpoints."""

    def __init__(self, samples: Samples, broker: BrokerClient) -> None:
        self._samples = samples
        self._broker = broker
        self._arriving = 0  # bytes
        self._budgets: dict[str, Bucket] = {}  # of devices
        self._volumes: dict[str, Bucket] = {}

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints, in the order of matching."""
        return [*self._of_datasets(), *self._of_one()]

    def _of_datasets(self) -> list[Endpoint]:
        whole, dataset, tag = "/v2/samples", f"{SAMPLES}{{dataset}}", "samples"
        binary = {"type": "string", "contentMediaType": ZIP}
        return [
            Endpoint(
                *("GET", whole, self.datasets, "list_datasets", "All datasets and their sizes", tag),
                {200: Answer("The datasets.", DatasetList)},
                query=DatasetsQuery,
                errors=native(422),
            ),
            Endpoint(
                *("GET", dataset, self.page, "list_samples", "The samples of a dataset, page by page", tag),
                {200: Answer("One page, oldest first.", SampleList)},
                query=SamplesQuery,
                path_schemas=_DATASET,
                errors=native(404, 422),
            ),
            Endpoint(
                *("DELETE", dataset, self.remove, "remove_dataset", "Remove all samples of a dataset", tag),
                {204: Answer("The samples were removed. Devices may still upload others.")},
                path_schemas=_DATASET,
                errors=native(404, 422),
            ),
            Endpoint(
                *("GET", f"{dataset}/coco", self.coco, "export_dataset", "A dataset as COCO", tag),
                {200: Answer("A ZIP of annotations.json and images/.", media=ZIP, schema=binary)},
                "Boxes are those of the prediction; `score` is its confidence.",
                path_schemas=_DATASET,
                errors=native(404, 422),
            ),
        ]

    def _of_one(self) -> list[Endpoint]:
        one, tag = f"{SAMPLES}{{dataset}}/{{name}}", "samples"
        image = {"type": "string", "contentMediaType": JPEG}
        return [
            Endpoint(
                *("GET", f"{one}.jpg", self.image, "get_sample_image", "The image of a sample", tag),
                {200: Answer("The image as the device stored it.", media=JPEG, schema=image)},
                path_schemas=_SAMPLE,
                errors=native(404, 422),
            ),
            Endpoint(
                *("GET", f"{one}.json", self.describe, "get_sample", "The metadata of a sample", tag),
                {200: Answer("With its prediction, in pixels of the image.", Sample)},
                path_schemas=_SAMPLE,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PUT", one, self.put, "put_sample", "Upload a sample of a device", tag),
                {
                    200: Answer("The sample was stored before.", PutSampleAnswer),
                    201: Answer("The sample was stored.", PutSampleAnswer),
                },
                "A device uploads its own samples with the ticket of its session: MessagePack of `sample`, "
                "as `GET` returns it, and `image`, the bytes of a JPEG.",
                body=Content(None, (PICKED,)),
                path_schemas=_SAMPLE,
                errors=native(403, 409, 422, 429, 507),
            ),
        ]

    # datasets ---------------------------------------------------------------------------------------------

    async def datasets(self, request: Request) -> Response:
        """All datasets."""
        asked = query(request, DatasetsQuery)
        found = await self._samples.find(Which(asked.pipeline, asked.device))
        # In a thread: there may be many, and other requests wait for the event loop.
        return written(await asyncio.to_thread(DatasetList.of, found))

    async def page(self, request: Request) -> Response:
        """One page of a dataset."""
        asked = query(request, SamplesQuery)
        page = await self._page(request, asked)
        return written(SampleList(samples=[SampleEntry.of(one) for one in page.samples], next=page.next))

    async def remove(self, request: Request) -> Response:
        """Remove a dataset."""
        await self._page(request, SamplesQuery(limit=1))
        await self._samples.remove(request.path_params["dataset"])
        return Response(status_code=204)

    async def coco(self, request: Request) -> ASGIApp:
        """Export a dataset, while it is read."""
        await self._page(request, SamplesQuery(limit=1))
        dataset = request.path_params["dataset"]
        headers = {
            "content-disposition": f'attachment; filename="{dataset}.zip"',
            "x-content-type-options": "nosniff",
        }
        if request.method == "HEAD":
            return Response(headers=headers, media_type=ZIP)
        kept = await self._samples.find(Which(dataset=dataset))
        content = zipped(self._read(kept), self._samples.spool.folder)
        return StreamingResponse(content, headers=headers, media_type=ZIP)

    async def _page(self, request: Request, asked: SamplesQuery) -> Page:
        """Some samples of the dataset in the path. Raises: Problem."""
        which = Which(asked.pipeline, asked.device, request.path_params["dataset"])
        try:
            return await self._samples.page(which, asked.after, asked.limit)
        except NoSuchDataset as exc:
            raise Problem(404, str(exc)) from exc

    def _read(self, kept: Iterable[Kept]) -> Iterator[tuple[Sample, bytes]]:
        for one in kept:
            here = self._samples.spool.read(one.dataset, one.name)
            if here is not None:  # not removed meanwhile
                yield here

    # one --------------------------------------------------------------------------------------------------

    async def image(self, request: Request) -> Response:
        """The image of a sample."""
        return self._file(request, ".jpg", JPEG)

    async def describe(self, request: Request) -> Response:
        """The metadata of a sample."""
        return self._file(request, ".json", JSON)

    def _file(self, request: Request, ending: str, media: str) -> Response:
        dataset, name = request.path_params["dataset"], request.path_params["name"]
        try:
            described = self._samples.spool.json_path(dataset, name)
        except NoSampleName as exc:
            raise Problem(404, str(exc)) from exc
        path = described.with_suffix(ending)
        if not described.is_file() or not path.is_file():
            raise Problem(404, f"no sample {name} is in the dataset {dataset}")
        return FileResponse(path, media_type=media, headers={"x-content-type-options": "nosniff"})

    async def put(self, request: Request) -> Response:
        """Store a sample."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PICKED:
            raise Problem(415, f"expected Content-Type {PICKED}, got {kind[:64] or 'none'}")
        self._check_budget(request)
        content = bytearray()
        try:
            await asyncio.wait_for(self._take(request, content), _UPLOAD_TIMEOUT)
            picked = _checked(request, content)
            await self._check_holder(request, picked.sample)
            is_new = await self._samples.put(picked.sample, picked.image)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise Problem(503, "it, or the disk, took too long", headers={"retry-after": "5"}) from exc
        except OtherSample as exc:
            raise Problem(409, str(exc)) from exc
        except (TooOld, TooNew, BadJpeg) as exc:
            raise Problem(422, str(exc)) from exc
        except SpoolTooSmall as exc:
            raise Problem(507, str(exc)) from exc
        except OSError as exc:
            raise of_disk(exc) from exc
        finally:
            self._arriving -= len(content)
        answer = PutSampleAnswer(dataset=picked.sample.dataset, name=picked.sample.name)
        return written(answer, 201 if is_new else 200)

    def _check_budget(self, request: Request) -> None:
        """Limit the rate of a device: samples are decoded and synced one after the other. Raises: Problem."""
        device = device_of(request)
        if device is None:
            return
        budget = self._budgets.setdefault(device, Bucket(BUDGET))
        if not budget.take(1, time.monotonic()):
            text = f"expected at most {BUDGET.each_second:.0f} samples a second of {device}, got more"
            raise Problem(429, text, headers={"retry-after": "5"})

    async def _check_holder(self, request: Request, sample: Sample) -> None:
        """Refuse samples of pipelines that the device never had. Raises: Problem, BrokerClientError."""
        device = device_of(request)
        if device is None or await self._broker.ask(CheckHolder(device, sample.pipeline_id), bool):
            return
        raise Problem(
            403, f"expected a sample of a pipeline that {device} has or had, got one of {sample.pipeline_id}"
        )

    async def _take(self, request: Request, content: bytearray) -> None:
        """Read the body. Raises: Problem if it is too large, or all uploads together are."""
        device = device_of(request)
        volume = None if device is None else self._volumes.setdefault(device, Bucket(VOLUME))
        async for piece in request.stream():
            if volume is not None and not volume.take(len(piece), time.monotonic()):
                text = f"expected at most {VOLUME.each_second:.0f} bytes a second of {device}, got more"
                raise Problem(429, text, headers={"retry-after": "5"})
            content += piece
            self._arriving += len(piece)
            if len(content) > MAX_PICKED:
                raise Problem(413, f"expected a sample of at most {MAX_PICKED} bytes, it is larger")
            if self._arriving > _AT_ONCE:
                raise Problem(503, "too many samples at once", headers={"retry-after": "5"})


def _checked(request: Request, content: bytearray) -> Picked:
    """Decode a sample, and check it against its path and its device. Raises: Problem."""
    try:
        picked = Picked.decode(content)
        msgspec.json.encode(picked.sample)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
        raise Problem(422, f"expected a sample: {str(exc)[:200]}") from exc
    sample, path = picked.sample, request.path_params
    if (sample.dataset, sample.name) != (path["dataset"], path["name"]):
        got = f"{path['dataset'][:64]!r}, {path['name'][:128]!r}"
        raise Problem(422, f"expected the path of {sample.dataset}, {sample.name}, got {got}")
    if len(picked.image) != sample.size:
        raise Problem(422, f"expected a JPEG of {sample.size} bytes, got {len(picked.image)} bytes")
    device = device_of(request)
    if device not in (None, sample.device):
        raise Problem(403, f"expected a sample of {device}, whose ticket this is, got one of {sample.device}")
    return picked
