"""Templates: parameters in texts, values that keep their type, and errors at the place that caused them."""

from __future__ import annotations

from typing import Any

import pytest

from streamfleet_core.documents import templates
from streamfleet_core.documents.errors import BadDocument
from streamfleet_core.documents.node import Node
from streamfleet_core.documents.templates import expand
from streamfleet_core.documents.yaml_text import read_yaml

DOCUMENT = """\
templates:
  door:
    parameters: {fps: 5}
    model: parts/1
    sources: [{reference: "rtsp://10.0.0.${host}/${id}", max_fps: "${fps}"}]
    labels: {site: hall-1, line: "${line}"}
    tracker: sort
pipelines:
"""


def expanded(pipelines: str) -> list[Any]:
    root = read_yaml((DOCUMENT + pipelines).encode())
    found = expand(root.entries["pipelines"], root.entries["templates"].entries, frozenset({"labels"}))
    return [each.plain for each in found]


def problem(pipelines: str) -> str:
    with pytest.raises(BadDocument) as caught:
        expanded(pipelines)
    return str(caught.value)


def test_a_template_is_filled_for_each_object() -> None:
    found = expanded(
        "  - {id: a, template: door, parameters: {host: 9, line: '3'}}\n"
        "  - {id: b, template: door, parameters: {host: 10, line: '4', fps: 2.5}, tracker: null}\n"
        "  - {id: c, template: door, parameters: {host: 11, line: x}, labels: {line: '7', new: y}}\n"
        "  - {id: d, model: other/1}\n"
    )

    assert found[0] == {
        "id": "a",
        "model": "parts/1",
        "sources": [{"reference": "rtsp://10.0.0.9/a", "max_fps": 5}],
        "labels": {"site": "hall-1", "line": "3"},
        "tracker": "sort",
    }
    assert (found[1]["sources"][0]["max_fps"], found[1]["tracker"]) == (2.5, None)
    assert found[2]["labels"] == {"site": "hall-1", "line": "7", "new": "y"}
    assert found[3] == {"id": "d", "model": "other/1"}


def test_a_parameter_may_be_any_value_and_signs_may_be_kept() -> None:
    root = read_yaml(
        b"t: {x: {a: '${list}', b: '$${list} costs $5'}}\n"
        b"p: [{id: a, template: x, parameters: {list: [1, {b: 2}]}}]\n"
    )

    (found,) = expand(root.entries["p"], root.entries["t"].entries, frozenset())

    assert found.plain == {"id": "a", "a": [1, {"b": 2}], "b": "${list} costs $5"}


WRONG = {
    "  - {id: a, template: dor}": "line 9, column 23: pipelines.0.template: expected a template of this "
    "document: door, got 'dor'",
    "  - {id: a, template: door, parameters: {host: 9}}": "line 9, column 41: pipelines.0.parameters: "
    "expected the parameter line of the template door, got 'none'",
    "  - {id: a, template: door, parameters: {host: 9, line: x, lime: 3}}": "line 9, column 60: "
    "pipelines.0.parameters.lime: expected a parameter of the template door: host, fps, line, got 'lime'",
    "  - {id: a, template: door, parameters: {host: [9], line: x}}": "line 9, column 48: "
    "pipelines.0.parameters.host: expected a text or a number, as it is a part of a text",
    "  - {id: a, parameters: {host: 9}}": "line 9, column 13: pipelines.0.parameters: expected a template",
    "  - {id: a, template: door, parameters: 3}": "pipelines.0.parameters: expected an object with a value",
}


@pytest.mark.parametrize(("pipelines", "error"), WRONG.items())
def test_an_error_is_at_the_object_that_caused_it(pipelines: str, error: str) -> None:
    assert error in problem(pipelines)


def test_all_objects_with_an_error_are_named() -> None:
    found = problem("  - {id: a, template: x}\n  - {id: b, template: y}\n")

    assert found.endswith("got 'x' (and 1 more)")


def test_what_is_no_parameter_is_an_error_of_the_template() -> None:
    root = read_yaml(b"t: {x: {a: '${not a name}'}}\np: [{id: a, template: x}]\n")

    with pytest.raises(BadDocument, match=r"line 1, column 12: t.x.a: expected \$\{NAME\} for a parameter"):
        expand(root.entries["p"], root.entries["t"].entries, frozenset())


def test_the_values_of_all_objects_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_EXPANDED", 40)
    one = "  - {{id: {}, template: door, parameters: {{host: 9, line: x}}}}\n"

    assert len(expanded(one.format("a"))) == 1
    assert "expected at most 40 values with templates" in problem("".join(map(one.format, "abcdefgh")))


def test_the_characters_of_texts_with_parameters_are_bounded() -> None:
    """A document of 70 kB would become a text of hundreds of megabytes."""
    text, value = "${p}" * 10_000, "x" * 30_000
    root = read_yaml(
        f"t: {{x: {{a: '{text}'}}}}\np: [{{id: a, template: x, parameters: {{p: {value}}}}}]\n".encode()
    )

    with pytest.raises(BadDocument, match="expected at most 4194304 characters with parameters"):
        expand(root.entries["p"], root.entries["t"].entries, frozenset())


def test_an_error_names_some_parameters_and_an_answer_has_some_errors() -> None:
    many = ", ".join(f"p{number}: '${{q{number}}}'" for number in range(300))
    wrong = ", ".join(f"w{number}: 1" for number in range(300))
    root = read_yaml(f"t: {{x: {{{many}}}}}\np: [{{id: a, template: x, parameters: {{{wrong}}}}}]\n".encode())

    with pytest.raises(BadDocument) as caught:
        expand(root.entries["p"], root.entries["t"].entries, frozenset())

    assert len(caught.value.findings) == 20
    assert "q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, …, got 'w0'" in str(caught.value)


def test_a_value_from_a_parameter_has_the_place_of_the_parameter() -> None:
    root = read_yaml((DOCUMENT + "  - {id: a, template: door, parameters: {host: 9, line: 3}}\n").encode())

    (found,) = expand(root.entries["pipelines"], root.entries["templates"].entries, frozenset({"labels"}))

    line: Node = found.entries["labels"].entries["line"]
    assert (line.value, line.path) == (3, ("pipelines", 0, "parameters", "line"))
    assert (line.line, line.column) == (9, 57)
