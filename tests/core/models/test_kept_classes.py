"""The names of classes that a source keeps, and what is said of those that no model has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.models.kept_classes import expected_class, kept_indices, unknown_names

LABELS = ("person", "car", "truck", "car")
words = st.text(max_size=6)


@given(st.lists(words, max_size=8), st.lists(words, max_size=8))
def test_a_label_is_kept_if_it_has_one_of_the_names_and_a_name_is_unknown_if_no_label_has_it(
    names: list[str], labels: list[str]
) -> None:
    kept, unknown = kept_indices(names, labels), unknown_names(names, labels)

    assert [index in kept for index in range(len(labels))] == [label in names for label in labels]
    assert [index in unknown for index in range(len(names))] == [name not in labels for name in names]


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("persom", LABELS, "a class of the model, as 'person'"),
        ("CAR", LABELS, "a class of the model, as 'car'"),
        ("zebra", LABELS, "a class of the model: 'person', 'car', 'truck' and 1 more"),
        ("zebra", ("car",), "a class of the model: 'car'"),
        ("zebra", (), "no classes, as the model has none"),
        ("Car", (*map(str, range(20_000)), "car"), "a class of the model, as 'car'"),
    ],
)
def test_the_closest_names_are_offered(name: str, labels: tuple[str, ...], expected: str) -> None:
    assert expected_class(name, labels) == expected


@given(words, st.lists(words, max_size=8))
def test_what_is_offered_is_a_label(name: str, labels: list[str]) -> None:
    text = expected_class(name, labels)

    assert not labels or any(repr(label) in text for label in labels)
