"""Extracts the reason from errors of ONNX Runtime, without the places in its source code. Pure.

[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/…/model.cc:256 onnxruntime::Model::Model(…) Unsupported …
becomes: Unsupported …
"""

from __future__ import annotations

import re

from streamfleet_core.protocol.limits import MAX_REASON

_LONGEST = 4000  # characters to search

_CODE = re.compile(r"\A\[ONNXRuntimeError\] : \d{1,3} : [A-Z_]{1,40} : ")
_PLACE = re.compile(r"/[\w./+-]{1,300}\.(?:cc|cpp|cu|cuh|h|hpp|inc):\d{1,6} ")
_AFTER_SIGNATURE = re.compile(r"(?: const| noexcept|::<lambda[^>]{0,300}>| mutable)+")


def reason_in(error: Exception) -> str:
    """The reason in an exception of ONNX Runtime, in one line."""
    text = " ".join(str(error)[:_LONGEST].split())
    text = _CODE.sub("", text)
    while (place := _PLACE.search(text)) is not None:
        text = text[: place.start()] + text[_end_of_signature(text, place.end()) :]
    return " ".join(text.split())[:MAX_REASON] or type(error).__name__


def _end_of_signature(text: str, start: int) -> int:
    """The end of the C++ function signature that starts here: after its parameters."""
    end = text.find("(", start)
    if end < 0:
        return start
    depth = 0
    for character in text[end:]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        end += 1
        if depth == 0 and not text.startswith("(", end):  # the parameters follow after `operator()`
            break
    more = _AFTER_SIGNATURE.match(text, end)
    end = end if more is None else more.end()
    if text.startswith(" [with ", end):
        end = text.find("]", end) + 1 or end
    return end
