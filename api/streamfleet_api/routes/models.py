"""`/v2/models`: names for content; `/v2/blobs`: the content, by its sha256."""

from __future__ import annotations

import re

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from streamfleet_api.answers import Blob, Model, ModelList, PutModelAnswer
from streamfleet_api.blobs import Blobs
from streamfleet_api.bodies import ModelRequest
from streamfleet_api.models import Models
from streamfleet_api.problems import Problem, of_disk
from streamfleet_api.routes.endpoint import Answer, Content, Endpoint, Header, native, written
from streamfleet_api.routes.reading import read
from streamfleet_api.schemas import MODEL_ID_PATTERN, check_model_id
from streamfleet_broker.protocol.values import ModelRef

BLOBS = "/v2/blobs/"
BYTES = "application/octet-stream"
_ID = {"model_id": {"type": "string", "pattern": MODEL_ID_PATTERN}}
_DIGEST = {"digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
_BINARY = {"type": "string", "contentMediaType": BYTES}
_ONE_RANGE = r"^bytes=([0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})$"
_RANGE = Header(
    "Range", "Where a transfer that broke off goes on.", {"type": "string", "pattern": _ONE_RANGE}
)


class ModelRoutes:
    """The endpoints."""

    def __init__(self, models: Models, blobs: Blobs) -> None:
        self._models = models
        self._blobs = blobs

    def endpoints(self) -> list[Endpoint]:
        """As they are declared."""
        return [*self._of_models(), *self._of_blobs()]

    def _of_models(self) -> list[Endpoint]:
        one, tag = "/v2/models/{model_id:path}", "models"
        return [
            Endpoint(
                *("GET", "/v2/models", self.list, "list_models", "Every model that a pipeline may name", tag),
                {200: Answer("The models.", ModelList)},
            ),
            Endpoint(
                *("GET", one, self.get, "get_model", "One model", tag),
                {200: Answer("The model.", Model)},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PUT", one, self.put, "put_model", "Inspect a blob, and let pipelines name it", tag),
                {201: Answer("The model.", PutModelAnswer)},
                "Put the ONNX file as a blob first. An id that stands for other content already is refused "
                'without `"replace": true`; pipelines that run keep what they have.',
                body=Content(ModelRequest),
                path_schemas=_ID,
                errors=native(404, 409, 422, 507),
            ),
            Endpoint(
                *("DELETE", one, self.remove, "remove_model", "Let pipelines name it no longer", tag),
                {204: Answer("It is gone; what runs goes on.")},
                "Its content goes too, unless another model or a pipeline needs it.",
                path_schemas=_ID,
                errors=native(404, 409, 422),
            ),
        ]

    def _of_blobs(self) -> list[Endpoint]:
        path, tag = f"{BLOBS}{{digest}}", "blobs"
        return [
            Endpoint(
                *("GET", path, self.get_blob, "get_blob", "Content, whole or from where it broke off", tag),
                {
                    200: Answer("The content.", media=BYTES, schema=_BINARY, headers={"ETag": "Its name."}),
                    206: Answer("The part that was asked for.", media=BYTES, schema=_BINARY),
                    416: Answer("There is no such part.", media="text/plain", schema={"type": "string"}),
                },
                "Devices read it with the ticket of their session.",
                headers=(_RANGE,),
                path_schemas=_DIGEST,
                errors=native(404),
            ),
            Endpoint(
                *("PUT", path, self.put_blob, "put_blob", "Take content whose sha256 is its name", tag),
                {201: Answer("It is here, whole.", Blob)},
                body=Content(None, (BYTES,)),
                path_schemas=_DIGEST,
                errors=native(422, 507),
            ),
        ]

    # models -----------------------------------------------------------------------------------------------

    async def list(self, _request: Request) -> Response:
        """All, by id."""
        found = [self._shown(model) for model in await self._models.list()]
        return written(ModelList(models=found))

    async def get(self, request: Request) -> Response:
        """One."""
        model_id = check_model_id(request.path_params["model_id"])
        for model in await self._models.list():
            if model.id == model_id:
                return written(self._shown(model))
        raise Problem(404, f"no model {model_id} is registered: GET /v2/models lists them")

    async def put(self, request: Request) -> Response:
        """A name for a blob that is a model."""
        model_id = check_model_id(request.path_params["model_id"])
        asked = await read(request, ModelRequest)
        weights = self._blobs.find(asked.weights)
        if weights is None:
            raise Problem(404, f"expected the weights as a blob first: PUT {BLOBS}{asked.weights}")
        labels = None if asked.labels is None else tuple(asked.labels)
        try:
            done = await self._models.put(
                model_id, weights, family=asked.family, labels=labels, replace=asked.replace
            )
        except OSError as exc:
            raise of_disk(exc) from exc
        shown = Model.of(done.model, done.manifest)
        return written(PutModelAnswer(**dict(shown), replaces=done.replaces), 201)

    async def remove(self, request: Request) -> Response:
        """The name, and the content that nothing else needs."""
        await self._models.remove(check_model_id(request.path_params["model_id"]))
        return Response(status_code=204)

    def _shown(self, model: ModelRef) -> Model:
        return Model.of(model, self._models.manifest(model))

    # blobs ------------------------------------------------------------------------------------------------

    async def get_blob(self, request: Request) -> Response:
        """Content, whole or from where a transfer broke off (Range)."""
        digest = request.path_params["digest"]
        path = self._blobs.find(digest)
        if path is None:
            raise Problem(404, f"no blob {digest[:64]!r} is here")
        _check_range(request.headers.get("range"))
        headers = {"etag": f'"{digest}"', "x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers, media_type=BYTES)

    async def put_blob(self, request: Request) -> Response:
        """Take content whose sha256 is the name."""
        digest = request.path_params["digest"]
        try:
            path = await self._blobs.put(digest, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except OSError as exc:
            raise of_disk(exc) from exc
        return written(Blob(sha256=digest, size=path.stat().st_size), 201)


def _check_range(asked: str | None) -> None:
    """Raises: Problem."""
    if asked is None:
        return
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not re.match(_ONE_RANGE, asked) or (first and last and int(first) > int(last)):
        raise Problem(
            400, f"expected Range as bytes=FIRST-, bytes=FIRST-LAST or bytes=-COUNT, came {asked[:64]!r}"
        )
