"""Defaults that the library reads from the environment. No other module of it reads the environment.

They are read when a pipeline or a stream is constructed; later changes have no effect. Only the display is
checked when a window is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from streamfleet_core.protocol.limits import MAX_PORT
from streamfleet_worker.config import ConfigError, post_processing
from streamfleet_worker.ipc.child_messages import PostProcessing

T = TypeVar("T")

_PROPERTY = "CV2_CAP_PROP_"
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")  # without any of them no window can be opened


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of Roboflow's variables."""

    rules: PostProcessing = field(default_factory=PostProcessing)
    api_key: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None  # of models; None: the default of `models.load`
    buffer_size: int | None = None  # frames decoded ahead; None: depends on the source
    strides: bool = False  # with a limit, a file skips frames instead of playing slower
    model_id: str | None = None  # this and the following: only for Stream and UdpStream
    stream_id: str | int | None = None
    enforce_fps: bool = False
    bytetrack: bool = False
    broadcast_host: str = "127.0.0.1"
    broadcast_port: int = 37020
    properties: dict[str, float] = field(default_factory=dict)  # OpenCV's, lower case, without prefix


def current_settings() -> Settings:
    """Read the environment of this process. Raises: ConfigError with the name of the variable."""
    return settings_in(os.environ)


def has_display() -> bool:
    """Whether this process can open a window."""
    return any(os.environ.get(name) for name in _DISPLAYS)


def settings_in(environment: Mapping[str, str]) -> Settings:
    """Read the settings from an environment. Raises: ConfigError with the name of the invalid variable."""
    stream_id = environment.get("STREAM_ID") or None
    return Settings(
        rules=post_processing(environment),
        api_key=environment.get("ROBOFLOW_API_KEY") or environment.get("API_KEY") or None,
        cache_dir=_read(environment, "MODEL_CACHE_DIR", Path, None),
        buffer_size=_read(environment, "VIDEO_SOURCE_BUFFER_SIZE", _count, None),
        strides=_read(environment, "ENABLE_FRAME_DROP_ON_VIDEO_FILE_RATE_LIMITING", _flag, False),
        model_id=environment.get("MODEL_ID") or None,
        stream_id=int(stream_id) if stream_id and stream_id.isdecimal() else stream_id,
        enforce_fps=_read(environment, "ENFORCE_FPS", _flag, False),
        bytetrack=_read(environment, "ENABLE_BYTE_TRACK", _flag, False),
        broadcast_host=environment.get("IP_BROADCAST_ADDR") or "127.0.0.1",
        broadcast_port=_read(environment, "IP_BROADCAST_PORT", _port, 37020),
        properties={
            name.removeprefix(_PROPERTY).lower(): _read(environment, name, float, 0.0)
            for name in environment
            if name.startswith(_PROPERTY)
        },
    )


def _read(environment: Mapping[str, str], name: str, parse: Callable[[str], T], default: T) -> T:
    text = environment.get(name)
    if not text:
        return default
    try:
        return parse(text)
    except ValueError as exc:
        raise ConfigError(f"{name}: {exc}") from exc


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"expected True or False, got {text!r}")
    return text.lower() in ("true", "1")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PORT:
        raise ValueError(f"expected a port from 1 to {MAX_PORT}, got {text!r}")
    return int(text)
