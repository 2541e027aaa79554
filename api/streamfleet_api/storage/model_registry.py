"""Resolves the id of a model to its content: first the registry, then the model cache."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from streamfleet_api.broker_client import BrokerClient, Refused
from streamfleet_api.storage.blob_store import BlobError, Blobs
from streamfleet_api.storage.model_trial import try_model
from streamfleet_core.models import model_folder
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.models.onnx_graph import BadModel, fit_together
from streamfleet_core.protocol.costs import BoardCost
from streamfleet_core.protocol.limits import MAX_VARIANTS
from streamfleet_core.protocol.requests import (
    ListCosts,
    ListModels,
    PipelineView,
    PutModel,
    RemoveModel,
)
from streamfleet_core.protocol.source_reference import blob_of
from streamfleet_core.protocol.values import Family, Manifest, ModelRef, Variant

_SHOWN = 5  # pipelines in an error
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


class NotRegistered(Exception):
    """An id that stands for no model, or for one whose content is not here."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"no model {model_id} is registered with its content: PUT /v2/models/{model_id}")


class ModelReplaced(Exception):
    """The id stands for another model than the one that a variant was built from."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"{model_id} was replaced by another model while its variant was built or tried")


class ModelInUse(Exception):
    """Pipelines name the model that is to be removed."""

    def __init__(self, model_id: str, pipelines: tuple[str, ...]) -> None:
        self.pipelines = pipelines
        names = ", ".join(pipelines[:_SHOWN])
        more = f" and {len(pipelines) - _SHOWN} more" if len(pipelines) > _SHOWN else ""
        super().__init__(
            f"{model_id} is in use by {names}{more}: what runs would go on, and none could name it any more; "
            "'?force=true' removes it all the same"
        )


class BlobInUse(Exception):
    """Content that a model or a pipeline needs."""

    def __init__(self, digest: str, pipelines: tuple[str, ...]) -> None:
        names = ", ".join(pipelines[:_SHOWN])
        super().__init__(f"{digest[:12]} is in use by {names or 'a model'}: remove that first")


@dataclass(frozen=True, slots=True)
class Registered:
    """A model that pipelines may name from now on."""

    model: ModelRef
    manifest: Manifest
    replaces: str | None  # the digest that the id stood for before


class Models:
    """The models of the fleet: names in the broker's registry, content in the blobs."""

    def __init__(self, broker: BrokerClient, blobs: Blobs, cache_dir: Path | None) -> None:
        self._broker = broker
        self._blobs = blobs
        self._cache_dir = cache_dir
        self._inspecting = asyncio.Lock()  # a file is read whole: one at a time
        self._trying = asyncio.Lock()  # the same of running it

    async def list(self) -> tuple[ModelRef, ...]:
        """Raises: BrokerClientError."""
        return await self._broker.ask(ListModels(), tuple[ModelRef, ...])

    async def costs(self, model: ModelRef) -> tuple[BoardCost, ...]:
        """What pipelines of a model cost, as devices have measured; none from a broker that measures nothing.

        Raises: BrokerClientError.
        """
        try:
            return await self._broker.ask(ListCosts(model.digest), tuple[BoardCost, ...])
        except Refused as exc:
            if exc.code != "bad_message":
                raise
            return ()

    async def find(self, model_id: str) -> ModelRef:
        """The content that this id stands for; a model that only the cache has is registered first.

        Raises: UnknownModel, BadModel, BrokerClientError.
        """
        for model in await self.list():
            if model.id == model_id:
                return model
        if self._cache_dir is not None:
            async with self._inspecting:
                found = await asyncio.to_thread(self._from_cache, self._cache_dir, model_id)
            if found is not None:
                await self._try(found)
                async with self._inspecting:
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
        """Register a blob as a model. Raises: BadModel, ModelExists, BrokerClientError."""
        manifest = await self.inspect(weights, family=family, labels=labels)
        return await self.register(model_id, manifest, replace=replace)

    async def inspect(
        self, weights: Path, *, family: Family | None, labels: tuple[str, ...] | None
    ) -> Manifest:
        """What a blob is as a model, after it has run once. Raises: BadModel, BrokerClientError."""
        async with self._inspecting:
            manifest = await asyncio.to_thread(
                validate_model, weights, weights.name, family=family, labels=labels
            )
        await self._try(manifest)
        return manifest

    async def register(self, model_id: str, manifest: Manifest, *, replace: bool) -> Registered:
        """Register an inspected model. Raises: BadModel, ModelExists, BrokerClientError."""
        async with self._inspecting:
            before = next((model for model in await self.list() if model.id == model_id), None)
            if before is not None and not replace:
                manifest = self._with_variants_of(before, manifest)
                if before.digest != manifest.digest:
                    raise ModelExists(before)
            model = await self._register(model_id, manifest)
        replaces = None if before is None or before.digest == model.digest else before.digest
        return Registered(model, manifest, replaces)

    async def add_variant(
        self,
        model_id: str,
        variant: Variant,
        *,
        of: Manifest | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Registered:
        """Let devices of its board run this blob in place of the model's own file.

        It is tried without a lock, and registered if the model is the same still. `of`: the model that it was
        built from. `confirm`: called before it is registered; what it raises prevents that.

        Raises: NotRegistered, ModelReplaced, BadModel, BrokerClientError.
        """
        tried = of or (await self._registered(model_id))[1]
        async with self._inspecting:
            await asyncio.to_thread(self._check_variant, model_id, tried, variant)
        if not any(each.weights == variant.weights for each in tried.variants):
            await self._try(dataclasses.replace(tried, weights=variant.weights, variants=()))
        async with self._inspecting:
            before, manifest = await self._registered(model_id)
            if dataclasses.replace(manifest, variants=()) != dataclasses.replace(tried, variants=()):
                raise ModelReplaced(model_id)
            changed = manifest.with_variant(variant)
            if len(changed.variants) > MAX_VARIANTS:
                raise BadModel(f"expected at most {MAX_VARIANTS} variants of a model, got more")
            if confirm is not None:
                await confirm()
            model = await self._register(model_id, changed)
        return Registered(model, changed, None if before.digest == model.digest else before.digest)

    async def _registered(self, model_id: str) -> tuple[ModelRef, Manifest]:
        """Raises: NotRegistered, BrokerClientError."""
        for model in await self.list():
            if model.id == model_id and (manifest := self.manifest(model)) is not None:
                return model, manifest
        raise NotRegistered(model_id)

    def _check_variant(self, model_id: str, manifest: Manifest, variant: Variant) -> None:
        """Check that a variant has the inputs and outputs of the model. Raises: BadModel, NotRegistered."""
        own, other = (self._blobs.find(each.sha256) for each in (manifest.weights, variant.weights))
        if own is None or other is None:
            raise NotRegistered(model_id)
        expected, got = read_file(own), read_file(other)
        for of, theirs in ((expected.inputs, got.inputs), (expected.outputs, got.outputs)):
            if not fit_together(of, theirs):
                raise BadModel(
                    f"expected the inputs and outputs of the model, {'; '.join(map(str, of[:4]))}, got "
                    f"{'; '.join(map(str, theirs[:4])) or 'none'}"
                )

    def _with_variants_of(self, model: ModelRef, manifest: Manifest) -> Manifest:
        """The manifest with the variants that a registered model with the same file has."""
        registered = self.manifest(model)
        if registered is None or dataclasses.replace(registered, variants=()) != manifest:
            return manifest
        return registered

    async def users(self, model_id: str) -> tuple[str, ...]:
        """The ids of the pipelines that name this model. Raises: BrokerClientError."""
        pipelines = await self._broker.pipelines()
        return tuple(view.pipeline_id for view in pipelines if _names(view, model_id))

    async def remove_blob(self, digest: str) -> bool:
        """Remove content, and return whether it was here. Raises: BlobInUse, BrokerClientError."""
        async with self._inspecting:
            pipelines = await self._broker.pipelines()
            registered = await self.list()
            return await asyncio.to_thread(self._remove_blob, digest, registered, pipelines)

    def _remove_blob(
        self, digest: str, registered: Iterable[ModelRef], pipelines: Iterable[PipelineView]
    ) -> bool:
        users = tuple(view.pipeline_id for view in pipelines if digest in _played_by(view))
        used = [model for view in pipelines for model in view.spec.models]
        if users or digest in self._content([*registered, *used]):
            raise BlobInUse(digest, users)
        was_here = self._blobs.find(digest) is not None
        self._blobs.remove({digest})
        return was_here

    async def remove(self, model_id: str, *, force: bool) -> None:
        """Remove a model and the blobs that only it names.

        Raises: ModelInUse, BrokerClientError.
        """
        async with self._inspecting:
            pipelines = await self._broker.pipelines()
            users = tuple(view.pipeline_id for view in pipelines if _names(view, model_id))
            if users and not force:
                raise ModelInUse(model_id, users)
            removed = await self._broker.ask(RemoveModel(model_id), ModelRef)
            await asyncio.to_thread(self._clear, await self.list(), pipelines, removed)

    def _clear(
        self, registered: Iterable[ModelRef], pipelines: Iterable[PipelineView], removed: ModelRef
    ) -> None:
        """Remove the content that nothing names, if all that is registered can say what it needs."""
        if all(self.manifest(model) for model in registered):
            used = [model for view in pipelines for model in view.spec.models]
            needed = self._content([*registered, *used])
            needed.update(digest for view in pipelines for digest in _played_by(view))
            self._blobs.remove(self._content([removed]) - needed)
            self._blobs.sweep(needed, UNUSED)

    def _content(self, models: Iterable[ModelRef]) -> set[str]:
        """The digests of all that these models are made of."""
        digests = set()
        for model in set(models):
            digests.add(model.digest)
            manifest = self.manifest(model)
            if manifest is not None:
                digests.add(manifest.weights.sha256)
                digests.update(variant.weights.sha256 for variant in manifest.variants)
        return digests

    def manifest(self, model: ModelRef) -> Manifest | None:
        """The manifest of a model for devices; None if its blob is missing or damaged."""
        path = self._blobs.verified(model.digest)
        return None if path is None else Manifest.decode(path.read_bytes())

    async def _try(self, manifest: Manifest) -> None:
        """Run a model once, unless the same content is registered already.

        Raises: BadModel, BrokerClientError.
        """
        weights = self._blobs.find(manifest.weights.sha256)
        if weights is None or any(model.digest == manifest.digest for model in await self.list()):
            return
        async with self._trying:
            await try_model(weights, manifest)

    async def _register(self, model_id: str, manifest: Manifest) -> ModelRef:
        """Register a model whose files are here. Call it with `_inspecting`. Raises: BadModel."""
        files = (manifest.weights, *(variant.weights for variant in manifest.variants))
        if any(self._blobs.find(file.sha256) is None for file in files):
            raise BadModel("expected its file as a blob, it was removed meanwhile: upload it again")
        digest = await asyncio.to_thread(self._blobs.put_bytes, manifest.encode())
        return await self._broker.ask(PutModel(ModelRef(model_id, digest)), ModelRef)

    def _from_cache(self, cache_dir: Path, model_id: str) -> Manifest | None:
        try:
            found = model_folder.find(cache_dir, model_id)
            if found is None:
                return None
            digest = self._blobs.put_file(found.weights)
        except (BlobError, OSError) as exc:
            raise BadModel(f"the model cache cannot be read: {exc}") from exc
        path = self._blobs.find(digest)
        assert path is not None
        return validate_model(path, digest, family=found.family, labels=found.labels)


def _names(view: PipelineView, model_id: str) -> bool:
    return any(model.id == model_id for model in view.spec.models)


def _played_by(view: PipelineView) -> set[str]:
    """The content that is a source of the pipeline."""
    digests = (blob_of(source.reference) for source in view.spec.sources)
    return {digest for digest in digests if digest is not None}
