"""What is typed on the command line, as values; what is wrong is a click.BadParameter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

NONE = "none"  # the word for an empty list
DEFAULT = "default"  # the word for what holds when nothing is said
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def or_default(inner: click.ParamType[Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A value as `inner` has it, or the word that puts the default back, as it is."""

    def convert(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        return text if text in (None, DEFAULT) else inner.convert(text, parameter, ctx)

    return convert


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


def name(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """The id of a pipeline, or the name of a device or a program."""
    import msgspec

    from streamfleet_broker.protocol.values import Id

    try:
        return None if text is None else msgspec.convert(text, Id)
    except msgspec.ValidationError as exc:
        raise click.BadParameter(
            f"expected up to 64 letters, digits, '.', '_', '-', the first a letter or a digit; came {text!r}"
        ) from exc


def jpeg(_ctx: click.Context, _parameter: click.Parameter, file: Path) -> Path:
    """Where a JPEG is written. A name without an ending promises nothing, as /dev/stdout."""
    if file.suffix.lower() not in ("", ".jpg", ".jpeg"):
        raise click.BadParameter(f"expected a name that ends in .jpg or .jpeg, came {str(file)!r}")
    return file


def sinks(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Each HOST:PORT as the api takes it; `none` alone is an empty list."""
    return [] if list(texts) == [NONE] else [sink(text) for text in texts]


def sink(text: str) -> dict[str, Any]:
    """A sink's host and port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"expected HOST:PORT, as 127.0.0.1:37020, came {text!r}")
    return {"type": "udp", "host": host.strip("[]"), "port": int(port)}


def references(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[str | int]:
    """Where frames come from."""
    return [reference(text) for text in texts]


def reference(text: str) -> str | int:
    """A device index is a number; a file of this machine is named whole, as the worker has another folder."""
    if text.isdigit():
        return int(text)
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return str(path.absolute()) if path.is_file() or text.startswith("~/") else text


def sampling(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, Any] | str | None:
    """Which pictures are kept, as the api takes it; the word for none of them is the default."""
    if text is None or text in (NONE, DEFAULT):
        return text and DEFAULT
    if text.endswith(".json"):
        return _object_in(Path(text).expanduser())
    import msgspec

    from streamfleet_api.active_learning import ActiveLearning
    from streamfleet_broker.protocol.samples import Dataset, Random, Sampling

    dataset, equals, share = text.partition("=")
    try:
        msgspec.convert(dataset, Dataset)
        wanted = ActiveLearning().sampling(True, dataset)
        if equals:
            wanted = Sampling(dataset, (Random(name="random", traffic_percentage=_share(share)),))
    except (ValueError, msgspec.ValidationError) as exc:
        raise click.BadParameter(
            f"expected a dataset, one with a share from 0 to 1, as doors=0.01, or FILE.json; came {text!r}"
        ) from exc
    return dict(msgspec.to_builtins(wanted))


def _share(text: str) -> float:
    """Raises: ValueError."""
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _object_in(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise click.BadParameter(f"{file}: {exc}") from exc
    if not isinstance(value, dict):
        raise click.BadParameter(f"{file}: expected an object with a dataset and strategies")
    return value


def labels(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """Each key=value."""
    return {key: value for key, value in map(_label, texts) if value is not None}


def label_changes(
    _ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]
) -> dict[str, str | None]:
    """Each key=value, or key- for a label that goes."""
    return dict(_label(text, removable=True) for text in texts)


def _label(text: str, *, removable: bool = False) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if key and equals:
        return key, value
    if removable and not equals and len(text) > 1 and text.endswith("-"):
        return text[:-1], None
    wanted = "key=value, or key- to take it away" if removable else "key=value"
    raise click.BadParameter(f"expected {wanted}, came {text!r}")


def seconds(text: str, option: str) -> float:
    """A time with its unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise click.BadParameter(
            f"expected a number and its unit, as 15m, 90s, 2h or 1d; came {text!r}", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]]
