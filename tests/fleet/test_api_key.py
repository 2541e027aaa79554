"""An api key of the original is accepted at every door, needed at none, and found nowhere afterwards."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.fleet.harness import Fleet, wait_for
from tests.fleet.said import everything_said, over_tcp

KEY = "rf-c4nary-key"
PATTERN = "TestPatternStreamProducer"
E_BODY: dict[str, Any] = {
    "api_key": KEY,
    "video_reference": PATTERN,
    "model_id": "shapes/1",
    "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": 9},
}
TCP_BODY: dict[str, Any] = {"type": "init", **E_BODY, "model_configuration": {"type": "object-detection"}}
C_BODY: dict[str, Any] = {
    "api_key": KEY,
    "video_configuration": {"type": "VideoConfiguration", "video_reference": PATTERN},
    "processing_configuration": {"type": "ModelConfiguration", "model_id": "shapes/1"},
}
# What each door refuses of a body, once for each way to be wrong.
WRONG: tuple[dict[str, Any], ...] = (
    {"model_id": None},
    {"model_id": "nobody/1"},
    {"sink_configuration": {"host": "127.0.0.1"}},
    {"source_buffer_filling_strategy": "nonsense"},
    {"api_key": {"nested": KEY}},
)
WRONG_NEWER: tuple[dict[str, Any], ...] = ({"video_configuration": None}, {"processing_configuration": {}})


def nobody_says_it(said: dict[str, str]) -> None:
    """Neither in words nor in JSON nor in a URL."""
    for where, text in said.items():
        assert KEY not in text, f"the key is in {where}: {text[:200]}"


def test_the_key_that_came_with_a_pipeline_is_found_nowhere(clean: Fleet) -> None:
    bearer = {"authorization": f"Bearer {KEY}"}
    made = {
        "original": clean.http.post("/initialise", json=E_BODY).text,
        "newer": clean.http.post("/inference_pipelines/initialise", json=C_BODY, headers=bearer).text,
        "tcp": over_tcp(clean, json.dumps(TCP_BODY).encode()),
    }
    clean.http.get("/list_pipelines", params={"api_key": KEY})
    clean.http.request("GET", "/inference_pipelines/list", json={"api_key": KEY}, headers=bearer)

    assert all('"status":"success"' in text.replace(" ", "") for text in made.values()), made
    wait_for(lambda: all(plays(clean, each) for each in clean.pipelines()), "three pipelines that play")
    for pipeline_id in clean.pipelines():
        for verb in ("pause", "resume"):
            clean.command_pipeline(verb, pipeline_id)
    assert len(clean.pipelines()) == 3
    nobody_says_it({**made, **everything_said(clean)})


def plays(fleet: Fleet, pipeline_id: str) -> bool:
    """Has it predicted something?"""
    return fleet.http.get(f"/v2/pipelines/{pipeline_id}/predictions/last").status_code == 200


def test_an_error_does_not_repeat_the_key(clean: Fleet) -> None:
    answers: dict[str, str] = {}
    for number, change in enumerate(WRONG):
        wrong = {**E_BODY, **change}
        answers[f"original {number}"] = said(clean.http.post("/initialise", json=wrong))
        answers[f"tcp {number}"] = over_tcp(clean, json.dumps({**TCP_BODY, **change}).encode())
    for number, change in enumerate(WRONG_NEWER):
        wrong = {**C_BODY, **change}
        answers[f"newer {number}"] = said(clean.http.post("/inference_pipelines/initialise", json=wrong))
    as_text = json.dumps(E_BODY)
    for kind, content in (("text/plain", as_text), ("application/json", as_text[:40])):
        headers = {"content-type": kind}
        answers[kind] = said(clean.http.post("/initialise", content=content, headers=headers))
    answers["tcp, cut off"] = over_tcp(clean, as_text[:40].encode())

    assert not clean.pipelines()
    nobody_says_it({**answers, **everything_said(clean)})


def said(answer: httpx.Response) -> str:
    """The text of a refusal."""
    assert answer.is_error, answer.text
    return answer.text
