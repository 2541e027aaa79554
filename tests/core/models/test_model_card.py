"""What a model file says about itself, shown safely."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from streamfleet_core.models.model_card import MAX_DESCRIPTION, MAX_LINE, FileCard, card_of, shown
from streamfleet_core.models.onnx_file import read_file
from tests.core.models.test_model_validation import NAMES, save


def test_an_export_says_who_made_it(tmp_path: Path) -> None:
    told = {"license": "AGPL-3.0", "author": "Ann", "date": "2026-11-30T10:00:00", "description": "of cats"}
    file = save(tmp_path / "model.onnx", metadata={**NAMES, **told})

    assert card_of(read_file(file)) == FileCard(
        input_type="float32",
        dynamic_size=False,
        dynamic_batch=False,
        opset=17,
        ir_version=9,
        license="AGPL-3.0",
        author="Ann",
        date="2026-11-30T10:00:00",
        description="of cats",
    )


def test_a_file_without_metadata_says_nothing(tmp_path: Path) -> None:
    card = card_of(read_file(save(tmp_path / "model.onnx", metadata={})))

    assert (card.license, card.author, card.date, card.description) == ("", "", "", "")


@pytest.mark.parametrize(
    ("image", "size", "batch"),
    [
        (("batch", 3, 64, 96), False, True),
        ((1, 3, "height", "width"), True, False),
        ((1, 3, 64, "width"), True, False),
        ((), False, False),
    ],
)
def test_open_dimensions_are_dynamic(
    tmp_path: Path, image: tuple[int | str, ...], *, size: bool, batch: bool
) -> None:
    card = card_of(read_file(save(tmp_path / "model.onnx", image=image)))

    assert (card.dynamic_size, card.dynamic_batch) == (size, batch)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.UINT8, "uint8"), (TensorProto.INT64, None)],
)
def test_the_type_of_the_input_has_its_usual_name(tmp_path: Path, dtype: int, name: str | None) -> None:
    assert card_of(read_file(save(tmp_path / "model.onnx", dtype=dtype))).input_type == name


def test_a_text_is_one_line_that_moves_no_cursor_and_turns_no_text() -> None:
    assert shown(" a\tb\r\nc ", 9) == "a b c"
    assert shown("a\x1b[31mb\u202ec\u2028d\x00", 99) == "a[31mbc d"
    assert shown("Zoë 猫", 9) == "Zoë 猫"


def test_a_text_is_cut(tmp_path: Path) -> None:
    told = {"author": "x" * MAX_LINE, "license": "x" * (MAX_LINE + 1), "description": "é" * 100_000}

    card = card_of(read_file(save(tmp_path / "model.onnx", metadata=told)))

    assert card.author == "x" * MAX_LINE
    assert card.license == "x" * (MAX_LINE - 1) + "…"
    assert card.description == "é" * (MAX_DESCRIPTION - 1) + "…"


@given(st.text())
def test_any_text_becomes_one_that_can_be_shown(text: str) -> None:
    safe = shown(text, 20)

    assert len(safe) <= 20
    assert len(safe.splitlines()) <= 1
    safe.encode()
