"""`/v2/samples`: pictures worth labelling, by dataset. Devices put them, people take them away as COCO."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from pydantic import BeforeValidator, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from streamfleet_api.answers import Answer as Model
from streamfleet_api.auth import device_of
from streamfleet_api.bodies import Body, Name
from streamfleet_api.problems import Problem, of_disk
from streamfleet_api.routes.endpoint import JSON, Answer, Content, Endpoint, native, written
from streamfleet_api.routes.reading import query
from streamfleet_api.samples import Kept, OtherSample, Samples, TooOld, Which
from streamfleet_api.samples_zip import zipped
from streamfleet_api.schemas import ID_PATTERN
from streamfleet_broker.protocol.samples import MAX_PICKED, PICKED, Picked, Sample
from streamfleet_broker.protocol.spool import NoSampleName, SpoolTooSmall

SAMPLES = "/v2/samples/"
ZIP = "application/zip"
JPEG = "image/jpeg"
MAX_PAGE = 1_000  # samples
_AT_ONCE = 8 * MAX_PICKED  # bytes that may be on their way in, in memory
_PATIENCE = 300.0  # seconds in which a sample must have come: some come over 256 kbit/s
_JPEG_MAGIC = b"\xff\xd8\xff"

_NAME = r"^[0-9]{1,15}-[A-Za-z0-9][A-Za-z0-9._-]{0,63}-[0-9]{1,5}-[0-9]{1,19}$"
_DATASET = {"dataset": {"type": "string", "pattern": ID_PATTERN}}
_SAMPLE = {**_DATASET, "name": {"type": "string", "pattern": _NAME}}


def _number(text: object) -> object:
    """A query has texts only; what is no plain number stays one, and is refused as such."""
    return (
        int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else text
    )


class DatasetsQuery(Body):
    """Which samples are counted."""

    pipeline: Name | None = None
    device: Name | None = None


class SamplesQuery(DatasetsQuery):
    """Which samples."""

    after: Annotated[str, Field(pattern=_NAME)] | None = None
    """The name of the last one that is known already."""
    limit: Annotated[int, BeforeValidator(_number), Field(ge=1, le=MAX_PAGE)] = 100


class Dataset(Model):
    """What there is of one dataset."""

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
        """Of its samples, of which there is one at least."""
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
    """By which it was picked."""
    batch: str

    @classmethod
    def of(cls, kept: Kept) -> SampleEntry:
        """Of one that is here."""
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
    """Samples by name, which is in the order of their capture."""

    samples: list[SampleEntry]
    next: str | None
    """The `after` of the next page. Null: this is the last."""


class PutSampleAnswer(Model):
    """A sample that is here now, on the disk."""

    dataset: str
    name: str


class SampleRoutes:
    """The endpoints."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._arriving = 0  # bytes

    def endpoints(self) -> list[Endpoint]:
        """As they are declared: what is looked for in this order."""
        return [*self._of_datasets(), *self._of_one()]

    def _of_datasets(self) -> list[Endpoint]:
        whole, dataset, tag = "/v2/samples", f"{SAMPLES}{{dataset}}", "samples"
        binary = {"type": "string", "contentMediaType": ZIP}
        return [
            Endpoint(
                *("GET", whole, self.datasets, "list_datasets", "Every dataset, and how much there is", tag),
                {200: Answer("The datasets.", DatasetList)},
                query=DatasetsQuery,
                errors=native(422),
            ),
            Endpoint(
                *("GET", dataset, self.page, "list_samples", "The samples of a dataset, page by page", tag),
                {200: Answer("Some of them, oldest first.", SampleList)},
                query=SamplesQuery,
                path_schemas=_DATASET,
                errors=native(404, 422),
            ),
            Endpoint(
                *("DELETE", dataset, self.remove, "remove_dataset", "Remove all samples of a dataset", tag),
                {204: Answer("They are gone; those that devices still have may come.")},
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
        picture = {"type": "string", "contentMediaType": JPEG}
        return [
            Endpoint(
                *("GET", f"{one}.jpg", self.image, "get_sample_image", "The picture of a sample", tag),
                {200: Answer("As the device kept it.", media=JPEG, schema=picture)},
                path_schemas=_SAMPLE,
                errors=native(404, 422),
            ),
            Endpoint(
                *("GET", f"{one}.json", self.describe, "get_sample", "What is known of a sample", tag),
                {200: Answer("With its prediction, in pixels of the picture.", Sample)},
                path_schemas=_SAMPLE,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PUT", one, self.put, "put_sample", "Take a sample of a device", tag),
                {
                    200: Answer("It was here already.", PutSampleAnswer),
                    201: Answer("It is here.", PutSampleAnswer),
                },
                "A device puts its own with the ticket of its session: MessagePack of `sample`, as `GET` "
                "shows it, and `image`, the bytes of a JPEG.",
                body=Content(None, (PICKED,)),
                path_schemas=_SAMPLE,
                errors=native(403, 409, 422, 507),
            ),
        ]

    # datasets ---------------------------------------------------------------------------------------------

    async def datasets(self, request: Request) -> Response:
        """What there is."""
        asked = query(request, DatasetsQuery)
        found: dict[str, list[Kept]] = {}
        for kept in await self._samples.find(Which(asked.pipeline, asked.device)):
            found.setdefault(kept.dataset, []).append(kept)
        return written(DatasetList(datasets=[Dataset.of(samples) for samples in found.values()]))

    async def page(self, request: Request) -> Response:
        """One page."""
        asked = query(request, SamplesQuery)
        kept = await self._of(request, asked.pipeline, asked.device)
        rest = [one for one in kept if asked.after is None or one.name > asked.after]
        page = rest[: asked.limit]
        more = page[-1].name if len(rest) > len(page) else None
        return written(SampleList(samples=[SampleEntry.of(one) for one in page], next=more))

    async def remove(self, request: Request) -> Response:
        """All that is here."""
        await self._of(request)
        await self._samples.remove(request.path_params["dataset"])
        return Response(status_code=204)

    async def coco(self, request: Request) -> ASGIApp:
        """All, as it is read."""
        kept = await self._of(request)
        dataset = request.path_params["dataset"]
        headers = {
            "content-disposition": f'attachment; filename="{dataset}.zip"',
            "x-content-type-options": "nosniff",
        }
        if request.method == "HEAD":
            return Response(headers=headers, media_type=ZIP)
        content = zipped(self._read(kept), self._samples.spool.folder)
        return StreamingResponse(content, headers=headers, media_type=ZIP)

    async def _of(
        self, request: Request, pipeline: str | None = None, device: str | None = None
    ) -> list[Kept]:
        """Those of the dataset in the path. Raises: Problem."""
        dataset = request.path_params["dataset"]
        kept = await self._samples.find(Which(dataset=dataset))
        if not kept:
            raise Problem(404, f"no dataset {dataset[:64]!r}: GET /v2/samples lists them")
        return list(filter(Which(pipeline, device).has, kept))

    def _read(self, kept: Iterable[Kept]) -> Iterator[tuple[Sample, bytes]]:
        for one in kept:
            here = self._samples.spool.read(one.dataset, one.name)
            if here is not None:  # not removed meanwhile
                yield here

    # one --------------------------------------------------------------------------------------------------

    async def image(self, request: Request) -> Response:
        """A picture."""
        return self._file(request, ".jpg", JPEG)

    async def describe(self, request: Request) -> Response:
        """The JSON beside it."""
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
        """Take one, whole."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PICKED:
            raise Problem(415, f"expected Content-Type {PICKED}, came {kind[:64] or 'none'}")
        content = bytearray()
        try:
            await asyncio.wait_for(self._take(request, content), _PATIENCE)
            picked = _checked(request, content)
            is_new = await self._samples.put(picked.sample, picked.image)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise Problem(503, "it, or the disk, took too long", headers={"retry-after": "5"}) from exc
        except OtherSample as exc:
            raise Problem(409, str(exc)) from exc
        except TooOld as exc:
            raise Problem(422, str(exc)) from exc
        except SpoolTooSmall as exc:
            raise Problem(507, str(exc)) from exc
        except OSError as exc:
            raise of_disk(exc) from exc
        finally:
            self._arriving -= len(content)
        answer = PutSampleAnswer(dataset=picked.sample.dataset, name=picked.sample.name)
        return written(answer, 201 if is_new else 200)

    async def _take(self, request: Request, content: bytearray) -> None:
        """The body. Raises: Problem when it is too large, or all together are."""
        async for piece in request.stream():
            content += piece
            self._arriving += len(piece)
            if len(content) > MAX_PICKED:
                raise Problem(413, f"expected a sample of at most {MAX_PICKED} bytes, it is larger")
            if self._arriving > _AT_ONCE:
                raise Problem(503, "too many samples come at once", headers={"retry-after": "5"})


def _checked(request: Request, content: bytearray) -> Picked:
    """What came, which is what its name says and of the device that says it. Raises: Problem."""
    try:
        picked = Picked.decode(content)
        msgspec.json.encode(picked.sample)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
        raise Problem(422, f"expected a sample: {str(exc)[:200]}") from exc
    sample, path = picked.sample, request.path_params
    if (sample.dataset, sample.name) != (path["dataset"], path["name"]):
        came = f"{path['dataset'][:64]!r}, {path['name'][:128]!r}"
        raise Problem(422, f"expected the path of {sample.dataset}, {sample.name}, came {came}")
    if not picked.image.startswith(_JPEG_MAGIC) or len(picked.image) != sample.size:
        raise Problem(422, f"expected a JPEG of {sample.size} bytes, came {len(picked.image)} bytes")
    device = device_of(request)
    if device not in (None, sample.device):
        raise Problem(
            403, f"expected a sample of {device}, whose ticket this is, came one of {sample.device}"
        )
    return picked
