"""The format of the pixels of a stream."""

from __future__ import annotations

from av.video.codeccontext import VideoCodecContext


def pixel_format_of(codec: VideoCodecContext) -> str | None:
    """FFmpeg's name of the format, as yuv420p; None if it is not known yet.

    It asks for `format`: `pix_fmt` of PyAV 17 ends the process where there is none.
    """
    return None if codec.format is None else codec.format.name
