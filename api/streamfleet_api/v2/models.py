"""`/v2/models`: models by id; `/v2/blobs`: their content by sha256."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from streamfleet_api.storage.blob_store import Blobs
from streamfleet_api.storage.model_cards import ModelCards
from streamfleet_api.storage.model_registry import Models, NotRegistered, Registered
from streamfleet_api.v2.request_reading import query, read
from streamfleet_api.v2.requests import ModelRemovalQuery, ModelRequest, VariantRequest
from streamfleet_api.v2.responses import Blob, Model, ModelCard, ModelList, PutModelAnswer
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, Header, native, written
from streamfleet_api.web.problem_details import Problem, of_disk
from streamfleet_api.web.validation import MODEL_ID_SCHEMA, check_model_id
from streamfleet_core.protocol.limits import SHA256_PATTERN, schema_pattern
from streamfleet_core.protocol.values import ModelRef, Variant, Weights

BLOBS = "/v2/blobs/"
BYTES = "application/octet-stream"
_ID = {"model_id": MODEL_ID_SCHEMA}
_DIGEST = {"digest": {"type": "string", "pattern": schema_pattern(SHA256_PATTERN)}}
_BINARY = {"type": "string", "contentMediaType": BYTES}
_ONE_RANGE = r"^bytes=([0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})$"
_RANGE = Header(
    "Range", "The part from which an interrupted transfer resumes.", {"type": "string", "pattern": _ONE_RANGE}
)


class ModelRoutes:
    """The endpoints."""

    def __init__(self, models: Models, blobs: Blobs) -> None:
        self._models = models
        self._blobs = blobs
        self._cards = ModelCards(blobs)

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        return [*self._of_models(), *self._of_blobs()]

    def _of_models(self) -> list[Endpoint]:
        one, tag = "/v2/models/{model_id:path}", "models"
        return [
            Endpoint(
                *("GET", "/v2/models", self.list, "list_models", "All registered models", tag),
                {200: Answer("The models.", ModelList)},
            ),
            Endpoint(
                *("GET", one, self.get, "get_model", "One model, with what its file says", tag),
                {200: Answer("The model.", ModelCard)},
                "The texts of the file are cut, and without control characters. The file claims them.",
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PUT", one, self.put, "put_model", "Inspect a blob and register it as a model", tag),
                {201: Answer("The model.", PutModelAnswer)},
                "Upload the ONNX file as a blob first. Different content under an existing id requires "
                '`"replace": true`; running pipelines keep their content.',
                body=Content(ModelRequest),
                path_schemas=_ID,
                errors=native(404, 409, 422, 507),
            ),
            Endpoint(
                *("POST", f"{one}/variants", self.put_variant, "put_variant", "Register a variant", tag),
                {201: Answer("The model.", PutModelAnswer)},
                "Upload its ONNX file as a blob first. The id refers to new content then; running pipelines "
                "keep the old content until they name the model again.",
                body=Content(VariantRequest),
                path_schemas=_ID,
                errors=native(404, 409, 422, 507),
            ),
            Endpoint(
                *("DELETE", one, self.remove, "remove_model", "Remove a model", tag),
                {204: Answer("The model was removed. Running pipelines continue.")},
                "Its content is removed too, unless another model or a pipeline needs it. A model in use is "
                "refused without `?force=true`; the error names the pipelines.",
                query=ModelRemovalQuery,
                path_schemas=_ID,
                errors=native(404, 409, 422),
            ),
        ]

    def _of_blobs(self) -> list[Endpoint]:
        path, tag = f"{BLOBS}{{digest}}", "blobs"
        return [
            Endpoint(
                *("GET", path, self.get_blob, "get_blob", "Content, complete or in part", tag),
                {
                    200: Answer("The content.", media=BYTES, schema=_BINARY, headers={"ETag": "Its name."}),
                    206: Answer("The requested part.", media=BYTES, schema=_BINARY),
                    416: Answer("There is no such part.", media="text/plain", schema={"type": "string"}),
                },
                "Devices authenticate with the ticket of their session.",
                headers=(_RANGE,),
                path_schemas=_DIGEST,
                errors=native(404),
            ),
            Endpoint(
                *("PUT", path, self.put_blob, "put_blob", "Upload content under its sha256", tag),
                {201: Answer("The content was stored.", Blob)},
                body=Content(None, (BYTES,)),
                path_schemas=_DIGEST,
                errors=native(422, 507),
            ),
            Endpoint(
                *("DELETE", path, self.remove_blob, "remove_blob", "Remove content that nothing needs", tag),
                {204: Answer("The content was removed.")},
                "What a model or a pipeline needs is refused. Content that nothing has needed for an hour is "
                "removed with the next model.",
                path_schemas=_DIGEST,
                errors=native(404, 409, 422),
            ),
        ]

    # models -----------------------------------------------------------------------------------------------

    async def list(self, _request: Request) -> Response:
        """All models, by id."""
        found = [self._shown(model) for model in await self._models.list()]
        return written(ModelList(models=found))

    async def get(self, request: Request) -> Response:
        """One model."""
        model_id = check_model_id(request.path_params["model_id"])
        for model in await self._models.list():
            if model.id == model_id:
                manifest = self._models.manifest(model)
                card = None if manifest is None else await self._cards.find(manifest)
                users = list(await self._models.users(model_id))
                costs = await self._models.costs(model)
                return written(ModelCard.with_card(Model.of(model, manifest), card, users, costs))
        raise Problem(404, f"no model {model_id} is registered: GET /v2/models lists them")

    async def put(self, request: Request) -> Response:
        """Register a blob as a model."""
        model_id = check_model_id(request.path_params["model_id"])
        asked = await read(request, ModelRequest)
        weights = await asyncio.to_thread(self._blobs.verified, asked.weights)
        if weights is None:
            raise Problem(404, f"expected the weights as a blob: first PUT {BLOBS}{asked.weights}")
        labels = None if asked.labels is None else tuple(asked.labels)
        try:
            done = await self._models.put(
                model_id, weights, family=asked.family, labels=labels, replace=asked.replace
            )
        except OSError as exc:
            raise of_disk(exc) from exc
        return written(put_answer(done), 201)

    async def put_variant(self, request: Request) -> Response:
        """Register a blob as a variant of a model."""
        model_id = check_model_id(request.path_params["model_id"])
        asked = await read(request, VariantRequest)
        weights = await asyncio.to_thread(self._blobs.verified, asked.weights)
        if weights is None:
            raise Problem(404, f"expected the weights as a blob: first PUT {BLOBS}{asked.weights}")
        variant = Variant(
            board=asked.board,
            provider=asked.provider,
            precision=asked.precision,
            weights=Weights(asked.weights, weights.stat().st_size),
            speedup=asked.speedup,
            agreement=asked.agreement,
        )
        try:
            done = await self._models.add_variant(model_id, variant)
        except NotRegistered as exc:
            raise Problem(404, str(exc)) from exc
        except OSError as exc:
            raise of_disk(exc) from exc
        return written(put_answer(done), 201)

    async def remove(self, request: Request) -> Response:
        """Remove a model, and content that nothing else needs."""
        model_id = check_model_id(request.path_params["model_id"])
        await self._models.remove(model_id, force=query(request, ModelRemovalQuery).force == "true")
        return Response(status_code=204)

    def _shown(self, model: ModelRef) -> Model:
        return Model.of(model, self._models.manifest(model))

    # blobs ------------------------------------------------------------------------------------------------

    async def get_blob(self, request: Request) -> Response:
        """Content, complete or in part (Range)."""
        digest = request.path_params["digest"]
        path = self._blobs.find(digest)
        if path is None:
            raise Problem(404, f"no blob {digest[:64]!r} is here")
        _check_range(request.headers.get("range"))
        headers = {"etag": f'"{digest}"', "x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers, media_type=BYTES)

    async def put_blob(self, request: Request) -> Response:
        """Store content under its sha256."""
        digest = request.path_params["digest"]
        try:
            path = await self._blobs.put(digest, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except OSError as exc:
            raise of_disk(exc) from exc
        return written(Blob(sha256=digest, size=path.stat().st_size), 201)

    async def remove_blob(self, request: Request) -> Response:
        """Remove content that no model and no pipeline needs."""
        digest = request.path_params["digest"]
        if not await self._models.remove_blob(digest):
            raise Problem(404, f"no blob {digest[:64]!r} is here")
        return Response(status_code=204)


def put_answer(done: Registered) -> PutModelAnswer:
    """A model after its registration."""
    return PutModelAnswer(**dict(Model.of(done.model, done.manifest)), replaces=done.replaces)


def _check_range(asked: str | None) -> None:
    """Check a Range header. Raises: Problem."""
    if asked is None:
        return
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not re.match(_ONE_RANGE, asked) or (first and last and int(first) > int(last)):
        raise Problem(
            400, f"expected Range as bytes=FIRST-, bytes=FIRST-LAST or bytes=-COUNT, got {asked[:64]!r}"
        )
