"""The newer commands over the Stream Manager's port: workflows in, results taken one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api, until
from tests.api.roboflow.inference_pipelines.test_routes import VIDEO, WORKFLOW, payload
from tests.core.protocol.test_workflow import MODEL, specification
from tests.fakes.broker import Peer, pipeline
from tests.fakes.manager_client import ask


@pytest.fixture
def port(api: Api, peer: Peer) -> Iterator[int]:
    """The port, with a model before and no results that wait after."""
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    yield api.manager_port
    for pipeline_id in list(peer.pipelines):
        assert ask(api.manager_port, "terminate", pipeline_id)["response"] == {"status": "success"}


def test_results_of_a_workflow_are_taken_one_by_one(port: int, peer: Peer) -> None:
    made = ask(port, "init", **payload(consumption_timeout=60))
    pipeline_id = made["pipeline_id"]
    peer.wait_for_followers(pipeline_id)
    empty = ask(port, "consume_result", pipeline_id)["response"]
    peer.predict(pipeline_id, 0)
    got: list[dict[str, Any]] = []

    def take() -> None:
        response = ask(port, "consume_result", pipeline_id, excluded_fields=["other"])["response"]
        if response["outputs"]:
            got.append(response)

    until(lambda: got, take)

    assert made["response"] == {"status": "success"}
    assert empty == {"status": "success", "outputs": [], "frames_metadata": []}
    assert list(got[0]) == ["status", "outputs", "frames_metadata"]
    assert list(got[0]["outputs"][0]) == ["found"]
    assert got[0]["frames_metadata"][0]["frame_id"] == 1


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ({"video_configuration": {}, "processing_configuration": WORKFLOW}, "ValidationError", "type"),
        (
            {
                "video_configuration": VIDEO,
                "processing_configuration": {
                    **WORKFLOW,
                    "workflow_specification": specification(
                        steps=[MODEL, {"type": "roboflow_core/line_counter@v2", "name": "count"}]
                    ),
                },
            },
            "WorkflowSyntaxError",
            "step 'count' of type 'roboflow_core/line_counter@v2' cannot be served",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_words_for_everybody(
    port: int, command: dict[str, Any], kind: str, said: str
) -> None:
    reply = ask(port, "init", **command)

    response = reply["response"]
    assert isinstance(reply["pipeline_id"], str)
    assert (response["error_type"], response["error_class"]) == ("invalid_payload", kind)
    assert said in response["error_message"]
    assert response["public_error_message"] == response["error_message"]


def test_excluded_fields_are_a_list_and_the_pipeline_is_known(port: int, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    wrong = ask(port, "consume_result", "door", excluded_fields="found")["response"]
    unknown = ask(port, "consume_result", "nobody")["response"]

    assert (wrong["error_type"], wrong["error_class"]) == ("invalid_payload", "ValidationError")
    assert unknown == {
        "status": "failure",
        "error_type": "not_found",
        "public_error_message": "Could not find InferencePipeline with id=nobody.",
    }


@pytest.mark.parametrize(("made", "newer"), [(True, True), (False, False)])
def test_a_failure_of_a_pipeline_of_this_family_has_a_text_for_everybody(
    port: int, peer: Peer, made: bool, newer: bool
) -> None:
    if made:
        command: dict[str, Any] = {"video_configuration": VIDEO, "processing_configuration": WORKFLOW}
        pipeline_id = ask(port, "init", **command)["pipeline_id"]
    else:
        pipeline_id = "door"
    peer.pipelines[pipeline_id] = pipeline(pipeline_id, status="ended")

    refused = ask(port, "mute", pipeline_id)["response"]

    assert (refused["status"], refused["error_type"]) == ("failure", "operation_error")
    assert ("public_error_message" in refused) is newer
    assert refused.get("public_error_message", refused["error_message"]) == refused["error_message"]
