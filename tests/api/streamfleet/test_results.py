"""The results of the package have the fields of what the api answers in its order, and no others."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import BaseModel

from streamfleet import results
from streamfleet_api.v2 import responses, samples
from streamfleet_core.protocol.requests import FleetEvent


@pytest.mark.parametrize(
    ("result", "response"),
    [
        (results.AddedModel, responses.PutModelAnswer),
        (results.CommandResult, responses.CommandResult),
        (results.Dataset, samples.Dataset),
        (results.Device, responses.Device),
        (results.Health, responses.Health),
        (results.JoinToken, responses.JoinToken),
        (results.Model, responses.Model),
        (results.Pipeline, responses.Pipeline),
        (results.PipelineReport, responses.PipelineReport),
        (results.Readiness, responses.Readiness),
        (results.Spec, responses.Spec),
        (results.Subscriber, responses.Subscriber),
        (results.SubscriberKeys, responses.SubscriberKeys),
        (results.UdpSink, responses.Sink),
    ],
)
def test_a_result_has_the_fields_of_the_response(result: type, response: type[BaseModel]) -> None:
    assert [each.name for each in dataclasses.fields(result)] == list(response.model_fields)


def test_each_class_can_be_read_from_an_answer() -> None:
    classes = [each for each in vars(results).values() if isinstance(each, type)]

    for each in classes:
        if each.__module__ == results.__name__:
            assert dataclasses.is_dataclass(each), each


def test_an_event_has_the_fields_of_the_brokers_and_its_epoch() -> None:
    fields = {each.name for each in dataclasses.fields(results.Event)}

    assert fields == {"epoch", *(each.name for each in dataclasses.fields(FleetEvent))}


def test_what_can_be_asked_is_what_the_api_takes() -> None:
    from streamfleet.requests import PipelineChanges, PipelineSettings, Sink, Source
    from streamfleet_api.v2 import requests

    for ours, theirs in (
        (PipelineSettings, requests.PipelineRequest),
        (PipelineChanges, requests.PipelinePatch),
        (Source, requests.SourceRequest),
        (Sink, requests.SinkRequest),
    ):
        assert set(ours.__annotations__) == set(theirs.model_fields), ours
