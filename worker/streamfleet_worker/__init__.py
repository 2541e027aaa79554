"""The worker: the agent on a device, which reconciles the observed state with the desired state.

Its pipeline is also a library: `from streamfleet_worker import InferencePipeline, Stream, UdpStream`.
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
    """Import a name of the library on first use: the processes of a worker must not load all of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streamfleet_worker import library

    return getattr(library, name)
