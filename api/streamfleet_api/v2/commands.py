"""`/v2/commands`: one command for many pipelines, in one request and one write of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient, Refused
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.v2.pipelines import (
    CONFIRM_WAIT,
    MARGIN,
    STOP_WAIT,
    is_over,
    over,
    status_of_same,
)
from streamfleet_api.v2.request_reading import read, selector_of
from streamfleet_api.v2.requests import CommandRequest, Word
from streamfleet_api.v2.responses import CommandResult, CommandResults, Pipeline
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, native, written
from streamfleet_api.web.problem_details import Problem
from streamfleet_core.protocol.limits import MAX_CHANGES
from streamfleet_core.protocol.requests import (
    Change,
    ChangePipelines,
    Outcome,
    PipelineView,
)

_CHANGES: Mapping[Word, Change] = {
    "pause": "pause",
    "resume": "run",
    "restart": "restart",
    "terminate": "stop",
}

Views = dict[str, PipelineView]


class CommandRoutes:
    """The endpoint."""

    def __init__(self, broker: BrokerClient, statuses: Statuses) -> None:
        self._broker = broker
        self._statuses = statuses

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoint."""
        return [
            Endpoint(
                *("POST", "/v2/commands", self.do, "do_command", "Pause, resume, restart or terminate many"),
                "pipelines",
                {200: Answer("The result for each pipeline.", CommandResults)},
                "Each result is that of a request for the pipeline alone. A pipeline that cannot be changed "
                "does not affect the others.",
                body=Content(CommandRequest),
                errors=native(422),
            )
        ]

    async def do(self, request: Request) -> Response:
        """Change all pipelines together."""
        asked = await read(request, CommandRequest)
        selector = selector_of(asked.selector, "body")
        before = await self._views()
        ids = asked.ids or [each.pipeline_id for each in before.values() if selector.meets(each.labels)]
        outcomes = await self._change(ids, _CHANGES[asked.command])
        after = {} if asked.command == "terminate" else await self._views()
        results = [self._result(asked.command, outcome, before, after) for outcome in outcomes]
        return written(CommandResults(results=results))

    async def _views(self) -> Views:
        views = await self._broker.pipelines()
        return {view.pipeline_id: view for view in views}

    async def _change(self, ids: Iterable[str], change: Change) -> list[Outcome]:
        """Send as few requests as their size allows, all at once."""
        each = list(dict.fromkeys(ids))
        wait = STOP_WAIT if change == "stop" else CONFIRM_WAIT
        asked = [
            ChangePipelines(tuple(each[first : first + MAX_CHANGES]), change, round(wait * 1000))
            for first in range(0, len(each), MAX_CHANGES)
        ]
        questions = [self._broker.ask(one, tuple[Outcome, ...], timeout=wait + MARGIN) for one in asked]
        return [outcome for found in await asyncio.gather(*questions) for outcome in found]

    def _result(self, word: Word, outcome: Outcome, before: Views, after: Views) -> CommandResult:
        known, now = (views.get(outcome.pipeline_id) for views in (before, after))
        status, detail = 200 if outcome.confirmed or word == "terminate" else 202, ""
        if outcome.refusal is not None:
            status, detail = _refused(Refused(outcome.refusal, outcome.message), known, _CHANGES[word])
        shown = None if now is None else Pipeline.of(now, self._statuses.pipeline(outcome.pipeline_id))
        return CommandResult(pipeline_id=outcome.pipeline_id, status=status, detail=detail, pipeline=shown)


def _refused(refusal: Refused, known: PipelineView | None, change: Change) -> tuple[int, str]:
    """The status and detail of a refusal. The broker also refuses what is already desired."""
    problem = Problem.of(refusal)
    if refusal.code == "conflict" and known is not None:
        if is_over(known):
            problem = over(known, change)
        elif known.desired_status == change:
            return status_of_same(known), ""
    return problem.status, problem.detail
