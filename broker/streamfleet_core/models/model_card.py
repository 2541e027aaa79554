"""What a model file says about itself, for people: its input, its versions, and who made it. Pure.

All of it is a claim of the file, and no decision depends on it. Texts are cut, and cannot move the cursor of
a terminal or turn the direction of what stands beside them.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from streamfleet_core.models.family_recognition import SIZES_INPUT
from streamfleet_core.models.onnx_graph import Graph

MAX_LINE = 200  # characters of a licence, an author, a date
MAX_DESCRIPTION = 1000  # characters
InputType = Literal["float32", "float16", "uint8"]

_TYPES: dict[str, InputType] = {"FLOAT": "float32", "FLOAT16": "float16", "UINT8": "uint8"}
# Control and format characters, among them those that turn the direction of a text; surrogates; separators.
_UNSHOWABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCard:
    """What the file says. A text is empty where it says nothing."""

    input_type: InputType | None  # None: another one, which no model of the fleet has
    dynamic_size: bool  # the graph takes pictures of other sizes, too
    dynamic_batch: bool  # and several at once
    opset: int  # version of ONNX's own operators
    ir_version: int  # version of the file format
    license: str
    author: str
    date: str  # as the file has it
    description: str


def card_of(graph: Graph) -> FileCard:
    """The card of a file that was read. Keys of the metadata are those that Ultralytics writes."""
    picture = next((port for port in graph.inputs if port.name != SIZES_INPUT), None)
    shape = picture.shape if picture is not None else ()
    metadata = graph.metadata
    return FileCard(
        input_type=None if picture is None else _TYPES.get(picture.dtype),
        dynamic_size=None in shape[2:],
        dynamic_batch=None in shape[:1],
        opset=graph.opset,
        ir_version=graph.ir_version,
        license=shown(metadata.get("license", ""), MAX_LINE),
        author=shown(metadata.get("author", ""), MAX_LINE),
        date=shown(metadata.get("date", ""), MAX_LINE),
        description=shown(metadata.get("description", ""), MAX_DESCRIPTION),
    )


def shown(text: str, limit: int) -> str:
    """The text on one line, without characters that a screen does not show, cut to `limit` characters."""
    spaced = " ".join(text[: 4 * limit].split())
    safe = "".join(sign for sign in spaced if unicodedata.category(sign) not in _UNSHOWABLE)
    cut = len(safe) > limit or len(text) > 4 * limit
    return f"{safe[: limit - 1]}…" if cut else safe
