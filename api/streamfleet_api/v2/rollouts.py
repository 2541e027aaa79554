"""`/v2/rollouts`: pipelines that move to another model in waves, and back if it is worse."""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.storage.model_registry import Models
from streamfleet_api.v2.model_lookup import find_models
from streamfleet_api.v2.request_reading import query, read
from streamfleet_api.v2.requests import RolloutCancelQuery, RolloutRequest
from streamfleet_api.v2.responses import Rollout, RolloutList
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, native, written
from streamfleet_api.web.validation import ID_SCHEMA, Invalid, check_id
from streamfleet_core.protocol.tasks.rollouts import (
    CancelRollout,
    GetRollout,
    ListRollouts,
    RolloutLimits,
    RolloutPlan,
    RolloutView,
    StartRollout,
)
from streamfleet_core.protocol.values import ModelRef

_ID = {"rollout_id": ID_SCHEMA}


class RolloutRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, models: Models) -> None:
        self._broker = broker
        self._models = models

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        whole, one, tag = "/v2/rollouts", "/v2/rollouts/{rollout_id}", "rollouts"
        return [
            Endpoint(
                *("GET", whole, self.list, "list_rollouts"),
                *("The last roll-outs, the oldest first", tag),
                {200: Answer("The roll-outs, without their pipelines.", RolloutList)},
            ),
            Endpoint(
                *("POST", whole, self.start, "start_rollout"),
                *("Move pipelines to another model in waves", tag),
                {201: Answer("The roll-out. The broker carries it out.", Rollout)},
                "First the new model infers some frames of a few pipelines beside the old one, then these "
                "pipelines use it, then the others follow. If it is worse in one of them, all go back.",
                body=Content(RolloutRequest),
                errors=native(409, 422),
            ),
            Endpoint(
                *("GET", one, self.get, "get_rollout"),
                *("A roll-out, and how far each of its pipelines is", tag),
                {200: Answer("The roll-out.", Rollout)},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            Endpoint(
                *("POST", f"{one}/cancel", self.cancel, "cancel_rollout"),
                *("End a roll-out that is not over", tag),
                {200: Answer("The roll-out, which goes back, or has stopped.", Rollout)},
                query=RolloutCancelQuery,
                path_schemas=_ID,
                errors=native(404, 409, 422),
            ),
        ]

    async def list(self, request: Request) -> Response:
        """The last roll-outs."""
        views = await self._broker.ask(ListRollouts(), tuple[RolloutView, ...])
        return written(RolloutList(rollouts=[Rollout.of(view) for view in views]))

    async def start(self, request: Request) -> Response:
        """Start a roll-out. The broker goes on with it, whatever becomes of the client."""
        asked = await read(request, RolloutRequest)
        models = await find_models(self._models, {asked.to: ["body", "to"], asked.model: ["body", "model"]})
        old, new = models[asked.model], models[asked.to]
        if asked.shadow:
            self._check_tasks(old, new)
        start = StartRollout(asked.id or f"rollout-{secrets.token_hex(4)}", _plan(asked, old, new))
        return written(Rollout.of(await self._broker.ask(start, RolloutView)), 201)

    async def get(self, request: Request) -> Response:
        """One roll-out."""
        return written(Rollout.of(await self._broker.ask(GetRollout(_id_of(request)), RolloutView)))

    async def cancel(self, request: Request) -> Response:
        """End a roll-out."""
        keep = query(request, RolloutCancelQuery).keep == "true"
        return written(Rollout.of(await self._broker.ask(CancelRollout(_id_of(request), keep), RolloutView)))

    def _check_tasks(self, old: ModelRef, new: ModelRef) -> None:
        """Refuse what cannot be compared in the same frames. Raises: Invalid."""
        manifests = [self._models.manifest(model) for model in (old, new)]
        tasks = [manifest.task for manifest in manifests if manifest is not None]
        if len({task == "classify" for task in tasks}) > 1:
            text = f"Input should be 0 with models that find different things: {' and '.join(tasks)}"
            raise Invalid([{"type": "shadow", "loc": ["body", "shadow"], "msg": text, "input": new.id}])


def _plan(asked: RolloutRequest, old: ModelRef, new: ModelRef) -> RolloutPlan:
    return RolloutPlan(
        old=old,
        new=new,
        selector=asked.selector,
        canary=asked.canary,
        max_unavailable=asked.max_unavailable,
        limits=RolloutLimits(
            observe=asked.observe,
            shadow=asked.shadow,
            start=asked.start,
            min_objects=asked.min_objects,
            min_agreement=asked.min_agreement,
            max_latency=asked.max_latency,
            min_fps=asked.min_fps,
        ),
        share=asked.share,
        dataset=asked.dataset,
    )


def _id_of(request: Request) -> str:
    return check_id(request.path_params["rollout_id"], "rollout_id")
