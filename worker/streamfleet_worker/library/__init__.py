"""The worker's pipeline as a library: it runs inside the user's program, without broker or agent."""

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
    from streamfleet_worker.library.loaded_model import get_model
    from streamfleet_worker.library.pipeline import InferencePipeline, SinkMode
    from streamfleet_worker.library.rendering import create_tiles, render_boxes
    from streamfleet_worker.library.sinks import InMemoryBufferSink, UDPSink, VideoFileSink, multi_sink
    from streamfleet_worker.library.status_updates import StatusUpdate, UpdateSeverity
    from streamfleet_worker.library.stream import Stream, UdpStream
    from streamfleet_worker.library.video_source import (
        BufferConsumptionStrategy,
        BufferFillingStrategy,
        SourceMetadata,
        SourceProperties,
        StreamState,
        VideoSource,
    )
    from streamfleet_worker.library.watchdogs import (
        BasePipelineWatchDog,
        LatencyMonitorReport,
        NullPipelineWatchdog,
        PipelineStateReport,
        PipelineWatchDog,
    )

__all__ = [
    "BadPrediction",
    "BasePipelineWatchDog",
    "BufferConsumptionStrategy",
    "BufferFillingStrategy",
    "InMemoryBufferSink",
    "InferencePipeline",
    "LatencyMonitorReport",
    "LibraryError",
    "NullPipelineWatchdog",
    "PipelineStateReport",
    "PipelineWatchDog",
    "SinkMode",
    "SourceConnectionError",
    "SourceMetadata",
    "SourceProperties",
    "StatusUpdate",
    "Stream",
    "StreamOperationNotAllowedError",
    "StreamState",
    "UDPSink",
    "UdpStream",
    "UpdateSeverity",
    "VideoFileSink",
    "VideoFrame",
    "VideoSource",
    "create_tiles",
    "get_model",
    "multi_sink",
    "render_boxes",
]

_MODULES = (  # modules with few imports come first
    *("errors", "frame", "status_updates", "video_source", "watchdogs", "rendering", "sinks"),
    *("pipeline", "stream", "loaded_model"),
)


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that using only a sink or a frame loads no model runtime."""
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
