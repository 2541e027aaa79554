"""What ONNX Runtime says is told without the places in its source."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_worker.engine.onnxruntime_errors import reason_in

FAILED = "[ONNXRuntimeError] : 1 : FAIL : "
SOURCE = "/onnxruntime_src/onnxruntime/core"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"{FAILED}{SOURCE}/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const "
            "onnxruntime::PathString&, const onnxruntime::logging::Logger&) Unsupported model IR version: "
            "99, max supported IR version: 13\n",
            "Unsupported model IR version: 99, max supported IR version: 13",
        ),
        (
            f"{FAILED}Non-zero status code returned while running Expand node. Name:'' Status Message: "
            f"{SOURCE}/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
            "bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 9600\n",
            "Non-zero status code returned while running Expand node. Name:'' Status Message: Failed to "
            "allocate memory for requested buffer of size 9600",
        ),
        (
            f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: {SOURCE}/a.cc:7 "
            "virtual onnxruntime::common::Status onnxruntime::X::operator()(std::function<void(int)>, int) "
            "const [with T = float] it went wrong",
            "Exception during initialization: it went wrong",
        ),
        (
            f"{FAILED}Fatal error: x.y:Foo(-1) is not a registered function/op",
            "Fatal error: x.y:Foo(-1) is not",
        ),
        (f"{FAILED}{SOURCE}/a.cc:1 no signature", "no signature"),
        (f"{FAILED}{SOURCE}/a.cc:1 f(int", ""),
        ("std::bad_alloc", "std::bad_alloc"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_stays(text: str, reason: str) -> None:
    assert reason_in(RuntimeError(text)).startswith(reason)
    assert "::Model(" not in reason_in(RuntimeError(text))


@pytest.mark.parametrize("piece", ["(", ")", "/a.cc:1 ", "/a", "x", "/a.cc:1 f()", " const"])
def test_a_long_text_is_cut(piece: str) -> None:
    assert len(reason_in(RuntimeError(piece * 100_000))) <= MAX_REASON
