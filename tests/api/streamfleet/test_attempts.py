"""When a request is made again."""

from __future__ import annotations

from typing import Any

import pytest

from streamfleet import api_calls
from streamfleet.api_calls import Call
from streamfleet.attempts import LONGEST_PAUSE, Answer, Attempts
from streamfleet.errors import NotFound, Unauthorized, Unavailable, UnexpectedAnswer

UNAVAILABLE = Answer(503, {}, b"{}")
DOOR = "door"


def attempts_of(call: Call[Any], retries: int = 3) -> Attempts:
    return Attempts(retries, lambda: 1.0, is_repeatable=call.is_repeatable)


@pytest.mark.parametrize(
    ("call", "again"),
    [
        (api_calls.get_pipeline(DOOR), True),
        (api_calls.put_pipeline(DOOR, {"model": "m", "sources": [0]}, None), True),
        (api_calls.put_pipeline(DOOR, {"model": "m", "sources": [0]}, 3), False),
        (api_calls.create_pipeline(None, {"model": "m", "sources": [0]}, "key"), True),
        (api_calls.delete_pipeline(DOOR), True),
        (api_calls.patch_pipeline(DOOR, {}, None), False),
        (api_calls.command_pipeline(DOOR, "pause"), False),
        (api_calls.add_device("edge-1", 60), False),
        (api_calls.remove_model("a/1", force=True), True),
    ],
)
def test_only_what_is_safe_is_made_again(call: Call[object], again: bool) -> None:
    assert (attempts_of(call).pause_after_failure(was_sent=True) is not None) == again
    assert (attempts_of(call).pause_after(UNAVAILABLE) is not None) == again
    assert attempts_of(call).pause_after_failure(was_sent=False) is not None
    assert attempts_of(call).pause_after(Answer(429, {}, b"")) is not None


def test_pauses_grow_and_end() -> None:
    attempts = attempts_of(api_calls.health(), retries=7)

    pauses = [attempts.pause_after(UNAVAILABLE) for _ in range(8)]

    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE, LONGEST_PAUSE, None]


def test_the_server_says_how_long_to_wait_within_reason() -> None:
    attempts = attempts_of(api_calls.health())

    assert attempts.pause_after(Answer(503, {"retry-after": "2"}, b"")) == 2
    assert attempts.pause_after(Answer(429, {"retry-after": "60"}, b"")) is None


@pytest.mark.parametrize("status", [200, 400, 404, 409, 500])
def test_other_answers_are_final(status: int) -> None:
    assert attempts_of(api_calls.health()).pause_after(Answer(status, {}, b"")) is None


def test_what_an_earlier_attempt_deleted_is_deleted() -> None:
    gone = Answer(404, {}, b'{"title": "Not Found", "detail": "no such pipeline"}')
    call = api_calls.delete_pipeline(DOOR)

    call.result(gone, may_have_succeeded=True)
    with pytest.raises(NotFound):
        call.result(gone)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b'{"title": "Unauthorized", "detail": "expected a token"}', Unauthorized),
        (503, b'{"title": "Service Unavailable", "detail": "no broker"}', Unavailable),
        (404, b"<html>", UnexpectedAnswer),
        (404, b'{"detail": "Not Found"}', UnexpectedAnswer),
        (200, b"[]", UnexpectedAnswer),
        (200, b'{"pipeline_id": 7}', UnexpectedAnswer),
    ],
)
def test_what_an_answer_says_went_wrong(status: int, body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        api_calls.get_pipeline(DOOR).result(Answer(status, {}, body))


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (404, b"<html>", "HTTP 404"),
        (200, b"<html>", "a body that is not JSON"),
        (200, b"{}", "a body without models"),
        (200, b"[]", "an invalid body: Expected `object`, got `array`"),
        (200, b'{"models": 7}', "invalid models: Expected `array`, got `int`"),
    ],
)
def test_another_server_is_told_by_what_it_answers(status: int, body: bytes, problem: str) -> None:
    with pytest.raises(UnexpectedAnswer) as caught:
        api_calls.list_models().result(Answer(status, {}, body))

    assert caught.value.problem == problem


def test_why_content_cannot_be_asked_for_is_told_by_its_upload() -> None:
    refused = Answer(401, {}, b'{"title": "Unauthorized", "detail": "expected a token"}')

    assert not api_calls.has_blob("ab" * 32).result(Answer(401, {}, b""))
    with pytest.raises(Unauthorized):
        api_calls.put_blob("ab" * 32, [b""]).result(refused)


def test_a_path_is_made_of_names_alone() -> None:
    assert api_calls.get_pipeline("../x?y#z").path == "/v2/pipelines/..%2Fx%3Fy%23z"
    assert api_calls.query_of(a=None, b=[1, 2], class_="x y", empty=True) == "?b=1&b=2&class=x+y&empty=true"
