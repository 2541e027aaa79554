"""A whole fleet keeps to its own OpenAPI document, whatever it is asked.

STREAMFLEET_TEST_EXAMPLES is how many examples of each operation are made; the suite makes a few.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from streamfleet_core.datasets.picked_sample import PICKED
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.samples import path_of, picked
from tests.fleet.harness import LIMIT, Fleet

EXAMPLES = int(os.environ.get("STREAMFLEET_TEST_EXAMPLES", "0"))
FEW = 5  # examples of each operation in the suite, for each way of making them
STREAMS = {"follow_predictions", "follow_status", "follow_events", "follow_pictures"}  # they never end
SLOW = {"get_picture"}  # waits for a picture
PIPELINE = "known"
# No device has this label: what selects it starts no camera.
NOWHERE: dict[str, Any] = {"nowhere": "at-all"}
# Not: valid data must be accepted. Schemas do not tell which models and devices there are.
CHECKED = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
)
# The original answers 500 where its own code refuses, in the words of each of its families.
BY_CONTRACT = (
    "Error in ProcessesManagerClient. Error type: ",
    "raised by InferencePipeline Manager. Error type: ",
)


@pytest.fixture(scope="module")
def one_worker(demo_file: Path) -> Iterator[Fleet]:
    """A fleet with a model and a pipeline that plays."""
    with short_folder() as folder:
        fleet = Fleet(folder)
        try:
            fleet.start()
            fleet.add_model("shapes/1", demo_file)
            fleet.initialise("TestPatternStreamProducer", "shapes/1")
            yield fleet
        finally:
            fleet.stop()


@pytest.fixture(scope="module")
def schema(one_worker: Fleet) -> Any:
    """Its OpenAPI document."""
    load_all_checks()
    schemathesis.serializer.alias(PICKED, "application/octet-stream")
    schema = schemathesis.openapi.from_url(f"{one_worker.url}/openapi.json")
    # A body may also be too large to be looked at.
    schema.config.checks.negative_data_rejection.expected_statuses = [
        "400",
        "404",
        "409",
        "413",
        "415",
        "422",
    ]
    return schema


@pytest.mark.timeout(LIMIT + 10 * EXAMPLES)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_a_fleet_answers_as_its_document_says(one_worker: Fleet, schema: Any, mode: GenerationMode) -> None:
    operations = [each.ok() for each in schema.get_all_operations()]

    tried = {
        name: _try(one_worker, operation, mode)
        for operation in operations
        if (name := operation.definition.raw["operationId"]) not in STREAMS
    }

    assert sum(count > 0 for count in tried.values()) > 20
    print(f"{mode.value}: {sum(tried.values())} cases of {len(tried)} operations")
    assert one_worker.http.get("/healthz").status_code == 200
    assert "Traceback" not in one_worker.log()


def _try(fleet: Fleet, operation: Any, mode: GenerationMode) -> int:
    """The number of cases that were tried. Raises: what does not conform, as the smallest case."""
    slow = operation.definition.raw["operationId"] in SLOW
    tried = 0

    @settings(
        max_examples=2 if slow else EXAMPLES or FEW,
        deadline=None,
        database=None,
        derandomize=not EXAMPLES,  # the suite does the same each time
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def conforms(case: Case, known: bool) -> None:
        nonlocal tried
        tried += 1
        if known and not slow and mode is GenerationMode.POSITIVE:
            _tame(fleet, case)
        answer = _answer(fleet, case)
        made = answer.headers.get("Location", [""])[0]
        if answer.status_code == 201 and made.startswith("/v2/pipelines/"):
            fleet.http.delete(made)
        assert answer.status_code < 500 or _is_by_contract(answer), (case.as_curl_command(), answer.text)
        checks: list[Any] = [CHECKS.get_one(name) for name in CHECKED]
        case.validate_response(answer, checks=checks)

    nothing_can_be_wrong = suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext()
    with nothing_can_be_wrong:
        conforms()
    return tried


def _answer(fleet: Fleet, case: Case) -> Any:
    """503 is asked again: a broker or a device took too long, as on a machine that stands still."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = case.call(base_url=fleet.url, timeout=PATIENCE)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def _tame(fleet: Fleet, case: Case) -> None:
    """Ask it of what is there, so that more than refusals is answered, and create nothing that costs."""
    if "pipeline_id" in case.path_parameters:
        body = {"model": "shapes/1", "sources": ["TestPatternStreamProducer"], "selector": NOWHERE}
        assert fleet.http.put(f"/v2/pipelines/{PIPELINE}", json=body).is_success
        case.path_parameters["pipeline_id"] = PIPELINE
    if case.method != "DELETE" and "name" in case.path_parameters:
        case.path_parameters["name"] = "local-1"
    if case.method == "GET" and "model_id" in case.path_parameters:
        case.path_parameters["model_id"] = quote("shapes/1", safe="")
    if "dataset" in case.path_parameters:
        _tame_sample(fleet, case)
    if isinstance(case.body, dict) and "pipelines" in case.path:
        if "model" in case.body:
            case.body["model"] = "shapes/1"
        if isinstance(case.body.get("device"), str):
            case.body["device"] = None
        case.body["selector"] = NOWHERE


def _tame_sample(fleet: Fleet, case: Case) -> None:
    item = picked()
    put = fleet.http.put(path_of(item), content=item.encode(), headers={"Content-Type": PICKED})
    assert put.is_success, put.text
    case.path_parameters["dataset"] = item.sample.dataset
    if "name" in case.path_parameters:
        case.path_parameters["name"] = item.sample.name


def _is_by_contract(answer: Any) -> bool:
    """501: no WebRTC, 504: no picture in time."""
    refused = answer.status_code == 500 and any(words in answer.text for words in BY_CONTRACT)
    return answer.status_code in (501, 504) or refused
