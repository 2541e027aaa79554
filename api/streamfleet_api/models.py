"""From what people call a model to the content that a pipeline names: the registry, then the model cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from streamfleet_api.blobs import BlobError, Blobs
from streamfleet_api.link import Link
from streamfleet_api.modelfile import BadModel, inspect
from streamfleet_broker.models import folder
from streamfleet_broker.protocol.requests import (
    ListModels,
    ListPipelines,
    PipelineView,
    PutModel,
    RemoveModel,
)
from streamfleet_broker.protocol.values import Family, Manifest, ModelRef

UNUSED = 3600.0  # seconds for which a blob may be here without a model: its model is about to be put


class UnknownModel(Exception):
    """A model that neither the fleet nor the model cache knows."""

    def __init__(self, model_id: str, cache_dir: Path | None) -> None:
        where = "no MODEL_CACHE_DIR is set" if cache_dir is None else f"{cache_dir} has no folder {model_id}"
        super().__init__(
            f"no model {model_id!r} is registered and {where}: add it with "
            f"'streamfleet models add {model_id} FILE'"
        )
        self.model_id = model_id


class ModelExists(Exception):
    """The id stands for other content already."""

    def __init__(self, model: ModelRef) -> None:
        super().__init__(
            f"{model.id} exists with other content ({model.digest[:12]}): to put this in its place say "
            "'streamfleet models add --replace', or \"replace\": true over HTTP"
        )
        self.model = model


@dataclass(frozen=True, slots=True)
class Registered:
    """A model that pipelines may name from now on."""

    model: ModelRef
    manifest: Manifest
    replaces: str | None  # the digest that the id stood for before


class Models:
    """The models of the fleet: names in the broker's registry, content in the blobs."""

    def __init__(self, link: Link, blobs: Blobs, cache_dir: Path | None) -> None:
        self._link = link
        self._blobs = blobs
        self._cache_dir = cache_dir
        self._inspecting = asyncio.Lock()  # a file is read whole: one at a time

    async def list(self) -> tuple[ModelRef, ...]:
        """Raises: LinkError."""
        return await self._link.ask(ListModels(), tuple[ModelRef, ...])

    async def find(self, model_id: str) -> ModelRef:
        """The content that this id stands for; a model that only the cache has is registered first.

        Raises: UnknownModel, BadModel, LinkError.
        """
        for model in await self.list():
            if model.id == model_id:
                return model
        if self._cache_dir is not None:
            async with self._inspecting:
                found = await asyncio.to_thread(self._from_cache, self._cache_dir, model_id)
            if found is not None:
                return await self._register(model_id, found)
        raise UnknownModel(model_id, self._cache_dir)

    async def put(
        self,
        model_id: str,
        weights: Path,
        *,
        family: Family | None,
        labels: tuple[str, ...] | None,
        replace: bool,
    ) -> Registered:
        """Register a blob as a model. Raises: BadModel, ModelExists, LinkError."""
        async with self._inspecting:
            manifest = await asyncio.to_thread(inspect, weights, weights.name, family=family, labels=labels)
            before = next((model for model in await self.list() if model.id == model_id), None)
            if before is not None and before.digest != manifest.digest and not replace:
                raise ModelExists(before)
            model = await self._register(model_id, manifest)
        replaces = None if before is None or before.digest == model.digest else before.digest
        return Registered(model, manifest, replaces)

    async def remove(self, model_id: str) -> None:
        """Forget a model, and remove the blobs that nothing names any more. Raises: LinkError."""
        async with self._inspecting:
            removed = await self._link.ask(RemoveModel(model_id), ModelRef)
            pipelines = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
            named = [*await self.list(), *(view.spec.model for view in pipelines)]
            needed = await asyncio.to_thread(self._content, named)
            gone = await asyncio.to_thread(self._content, [removed])
            await asyncio.to_thread(self._blobs.remove, gone - needed)
            await asyncio.to_thread(self._blobs.sweep, needed, UNUSED)

    def _content(self, models: Iterable[ModelRef]) -> set[str]:
        """The digests of all that these models are made of."""
        digests = set()
        for model in set(models):
            digests.add(model.digest)
            manifest = self.manifest(model)
            if manifest is not None:
                digests.add(manifest.weights.sha256)
        return digests

    def manifest(self, model: ModelRef) -> Manifest | None:
        """What devices get to know of a model, or None when its blob is not here."""
        path = self._blobs.find(model.digest)
        return None if path is None else Manifest.decode(path.read_bytes())

    async def _register(self, model_id: str, manifest: Manifest) -> ModelRef:
        digest = await asyncio.to_thread(self._blobs.put_bytes, manifest.encode())
        return await self._link.ask(PutModel(ModelRef(model_id, digest)), ModelRef)

    def _from_cache(self, cache_dir: Path, model_id: str) -> Manifest | None:
        try:
            found = folder.find(cache_dir, model_id)
            if found is None:
                return None
            digest = self._blobs.put_file(found.weights)
        except (BlobError, OSError) as exc:
            raise BadModel(f"the model cache cannot be read: {exc}") from exc
        path = self._blobs.find(digest)
        assert path is not None
        return inspect(path, digest, family=found.family, labels=found.labels)
