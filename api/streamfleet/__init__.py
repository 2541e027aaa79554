"""The public Python package: control a fleet, receive its predictions, run pipelines without one.

    import streamfleet

    with streamfleet.Client() as client:
        client.put_pipeline("door", model="yolox-nano/1", sources=["rtsp://10.0.0.9/door"])

    with streamfleet.subscribe("door", timeout=30) as predictions:
        for prediction in predictions:
            print(prediction.frame_id, prediction.detections)

`Client` and `AsyncClient` need `streamfleet[client]`, `Prediction.detections` needs
`streamfleet[detections]`, and `InferencePipeline`, `Stream`, `UdpStream` and the sinks need
`streamfleet[worker,cpu]`. Each name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfleet.async_client import AsyncClient
    from streamfleet.client import Client
    from streamfleet.complete.subscription import AsyncCompleteSubscription, CompleteSubscription
    from streamfleet.complete.values import Checkpoint, Gap
    from streamfleet.connection import Connection
    from streamfleet.errors import (
        ApiError,
        BadSetting,
        Conflict,
        Invalid,
        MissingPackage,
        NotFound,
        NothingReceived,
        PreconditionFailed,
        StreamfleetError,
        Unauthorized,
        Unavailable,
        UnexpectedAnswer,
        Unreachable,
    )
    from streamfleet.prediction import Prediction
    from streamfleet.subscription import AsyncSubscription, Subscription, subscribe, subscribe_async
    from streamfleet_worker.library import (
        InferencePipeline,
        InMemoryBufferSink,
        Stream,
        UDPSink,
        UdpStream,
        VideoFileSink,
        VideoFrame,
        create_tiles,
        get_model,
        multi_sink,
        render_boxes,
    )

    __version__: str

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncCompleteSubscription",
    "AsyncSubscription",
    "BadSetting",
    "Checkpoint",
    "Client",
    "CompleteSubscription",
    "Conflict",
    "Connection",
    "Gap",
    "InMemoryBufferSink",
    "InferencePipeline",
    "Invalid",
    "MissingPackage",
    "NotFound",
    "NothingReceived",
    "PreconditionFailed",
    "Prediction",
    "Stream",
    "StreamfleetError",
    "Subscription",
    "UDPSink",
    "UdpStream",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "VideoFileSink",
    "VideoFrame",
    "__version__",
    "create_tiles",
    "get_model",
    "multi_sink",
    "render_boxes",
    "subscribe",
    "subscribe_async",
]

# Module → its public names, and the extras that they need.
_LAZY_MODULES: dict[str, tuple[tuple[str, ...], str]] = {
    "streamfleet.client": (("Client",), "client"),
    "streamfleet.async_client": (("AsyncClient",), "client"),
    "streamfleet.connection": (("Connection",), "client"),
    "streamfleet.errors": (
        (
            *("ApiError", "BadSetting", "Conflict", "Invalid", "MissingPackage", "NotFound"),
            *("NothingReceived", "PreconditionFailed", "StreamfleetError", "Unauthorized", "Unavailable"),
            *("UnexpectedAnswer", "Unreachable"),
        ),
        "",
    ),
    "streamfleet.prediction": (("Prediction",), ""),
    "streamfleet.complete.subscription": (("AsyncCompleteSubscription", "CompleteSubscription"), ""),
    "streamfleet.complete.values": (("Checkpoint", "Gap"), ""),
    "streamfleet.subscription": (
        ("AsyncSubscription", "Subscription", "subscribe", "subscribe_async"),
        "",
    ),
    "streamfleet_worker.library": (
        (
            *("InMemoryBufferSink", "InferencePipeline", "Stream", "UDPSink", "UdpStream", "VideoFileSink"),
            *("VideoFrame", "create_tiles", "get_model", "multi_sink", "render_boxes"),
        ),
        "worker,cpu",
    ),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Raises: AttributeError, MissingPackage."""
    if name == "__version__":
        from importlib.metadata import version

        return version("streamfleet")
    for module, (names, extras) in _LAZY_MODULES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(module), name)
            except ModuleNotFoundError as exc:
                from streamfleet.errors import MissingPackage

                raise MissingPackage(f"streamfleet.{name}", str(exc.name).partition(".")[0], extras) from exc
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
