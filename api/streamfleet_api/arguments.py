"""What is typed on the command line, as values; what is wrong is a click.BadParameter."""

from __future__ import annotations

import re
from pathlib import Path

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def model_id(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str:
    """An id that a pipeline may name."""
    import msgspec

    from streamfleet_broker.protocol.values import ModelId

    try:
        return msgspec.convert(text, ModelId)
    except msgspec.ValidationError as exc:
        raise click.BadParameter(
            "expected a name or name/version, as shapes/1: each up to 64 letters, digits, '.', '_', '-', the "
            f"first a letter or a digit; came {text!r}"
        ) from exc


def host_and_port(_ctx: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, int]:
    """A sink's host and port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"expected HOST:PORT, came {text!r}")
    return host.strip("[]"), int(port)


def reference(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str | int:
    """A device index is a number; a file of this machine is named whole, as the worker has another folder."""
    if text.isdigit():
        return int(text)
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return str(path.absolute()) if path.is_file() or text.startswith("~/") else text


def seconds(text: str, option: str) -> float:
    """A time with its unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise click.BadParameter(
            f"expected a number and its unit, as 15m, 90s, 2h or 1d; came {text!r}", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]]
