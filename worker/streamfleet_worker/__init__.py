"""The worker: the agent on a device, which makes the observed state equal the desired one.

Its pipeline is a library too: `from streamfleet_worker import InferencePipeline, Stream, UdpStream`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfleet_worker.library.frame import VideoFrame
    from streamfleet_worker.library.loaded_model import get_model
    from streamfleet_worker.library.pipeline import InferencePipeline, SinkMode
    from streamfleet_worker.library.stream import Stream, UdpStream

__all__ = ["InferencePipeline", "SinkMode", "Stream", "UdpStream", "VideoFrame", "get_model"]


def __getattr__(name: str) -> Any:
    """The library's names, when they are asked for: the processes of a worker must not load it all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streamfleet_worker import library

    return getattr(library, name)
