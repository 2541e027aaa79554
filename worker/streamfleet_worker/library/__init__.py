"""The pipeline of the worker as a library: inside the user's program, with neither broker nor agent."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfleet_worker.library.errors import (
        BadPrediction,
        LibraryError,
        SourceConnectionError,
        StreamOperationNotAllowedError,
    )
    from streamfleet_worker.library.frame import VideoFrame
    from streamfleet_worker.library.pipeline import InferencePipeline, SinkMode
    from streamfleet_worker.library.sinks import (
        InMemoryBufferSink,
        UDPSink,
        VideoFileSink,
        multi_sink,
        render_boxes,
    )
    from streamfleet_worker.library.stream import Stream, UdpStream
    from streamfleet_worker.library.updates import PipelineWatchDog, StatusUpdate, UpdateSeverity

__all__ = [
    "BadPrediction",
    "InMemoryBufferSink",
    "InferencePipeline",
    "LibraryError",
    "PipelineWatchDog",
    "SinkMode",
    "SourceConnectionError",
    "StatusUpdate",
    "Stream",
    "StreamOperationNotAllowedError",
    "UDPSink",
    "UdpStream",
    "UpdateSeverity",
    "VideoFileSink",
    "VideoFrame",
    "multi_sink",
    "render_boxes",
]

_MODULES = ("errors", "frame", "updates", "sinks", "pipeline", "stream")  # what loads little comes first


def __getattr__(name: str) -> Any:
    """What is exported, when it is asked for: who only wants a sink, or a frame, loads no model's runtime."""
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
