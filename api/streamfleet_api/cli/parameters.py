"""Converts options and arguments to values. Invalid ones raise click.BadParameter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from streamfleet.defaults import DEFAULT_URL
from streamfleet_core.protocol.limits import (
    ID_PATTERN,
    MAX_CORNERS,
    MAX_PORT,
    MAX_STILL,
    MIN_CORNERS,
    MODEL_ID_PATTERN,
)

F = TypeVar("F", bound=Callable[..., Any])

NONE = "none"  # the word for an empty list
ON = "on"  # what an option means that may have a value, and has none
DEFAULT = "default"  # the word for what holds when nothing is said
_MAX_SETTINGS = 1024**2  # bytes of a file of sampling rules: a larger request is refused by the api
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def or_default(inner: click.ParamType[Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A value as `inner` has it, or the word that puts the default back, as it is."""

    def convert(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        return text if text in (None, DEFAULT) else inner.convert(text, parameter, ctx)

    return convert


def model_id(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str:
    """An id that a pipeline may name."""
    import msgspec

    from streamfleet_core.protocol.values import ModelId

    try:
        return msgspec.convert(text, ModelId)
    except msgspec.ValidationError as exc:
        raise click.BadParameter(
            "expected a name or name/version, as shapes/1: each up to 64 letters, digits, '.', '_', '-', the "
            f"first a letter or a digit; got {text!r}"
        ) from exc


def name(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """The id of a pipeline, or the name of a device or a program."""
    import msgspec

    from streamfleet_core.protocol.values import Id

    try:
        return None if text is None else msgspec.convert(text, Id)
    except msgspec.ValidationError as exc:
        raise click.BadParameter(
            f"expected up to 64 letters, digits, '.', '_', '-', the first a letter or a digit; got {text!r}"
        ) from exc


def jpeg(_ctx: click.Context, _parameter: click.Parameter, file: Path) -> Path:
    """The path of a JPEG to write. A name without a suffix, such as /dev/stdout, is accepted."""
    if file.suffix.lower() not in ("", ".jpg", ".jpeg"):
        raise click.BadParameter(f"expected a name that ends in .jpg or .jpeg, got {str(file)!r}")
    return file


def address(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str:
    """Check the URL of an API."""
    if text == DEFAULT_URL:
        return text
    from streamfleet_core.protocol.source_reference import expected_instead, sanitised

    if text.partition("://")[0].lower() not in ("http", "https"):
        raise click.BadParameter(f"expected an address such as {DEFAULT_URL}")
    if expected := expected_instead(text):
        raise click.BadParameter(f"expected {expected}; got {sanitised(text)}")
    return text


def sinks(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Convert each HOST:PORT for the API; `none` alone is an empty list."""
    return [] if list(texts) == [NONE] else [sink(text) for text in texts]


def sink(text: str) -> dict[str, Any]:
    """Parse HOST:PORT of a sink."""
    host, _, port = text.rpartition(":")
    if (
        not host
        or not (port.isascii() and port.isdecimal() and len(port) < 6)
        or not 1 <= int(port) <= MAX_PORT
    ):
        raise click.BadParameter(f"expected HOST:PORT, as 127.0.0.1:37020 or [::1]:37020, got {text!r}")
    return {"type": "udp", "host": host, "port": int(port)}


def classes(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[str] | str | None:
    """Names of classes, or the word that keeps all of them."""
    return (DEFAULT if list(texts) == [DEFAULT] else list(texts)) if texts else None


def stages(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Convert each NAME=MODEL[@CLASS,…] for the API; `none` alone is an empty list."""
    if NONE in texts and len(texts) > 1:
        raise click.BadParameter(f"expected '{NONE}' alone, or stages")
    return [] if list(texts) == [NONE] else [_stage(text) for text in texts]


def _stage(text: str) -> dict[str, Any]:
    name, _, rest = text.partition("=")
    model, _, classes = rest.partition("@")
    if not (re.fullmatch(ID_PATTERN, name) and re.fullmatch(MODEL_ID_PATTERN, model)) or rest.endswith("@"):
        raise click.BadParameter(f"expected NAME=MODEL[@CLASS,…], as text=plate-text/1@plate, got {text!r}")
    stage: dict[str, Any] = {"name": name, "model": model}
    return {**stage, "classes": classes.split(",")} if classes else stage


def region(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> list[list[float]] | str | None:
    """The corners of a polygon, or the word for the whole picture."""
    if text is None or text == DEFAULT:
        return text
    try:
        corners = [[float(part) for part in corner.split(",")] for corner in text.split()]
    except ValueError:
        corners = []
    if not MIN_CORNERS <= len(corners) <= MAX_CORNERS or not all(map(_is_corner, corners)):
        raise click.BadParameter(
            f"expected {MIN_CORNERS} to {MAX_CORNERS} corners, each X,Y from 0 to 1, as "
            f"'0.1,0.2 0.9,0.2 0.5,1'; got {text!r}"
        )
    return corners


def motion(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, float] | str | None:
    """Sensitivity and longest time of a motion gate, or the word for none."""
    if text is None or text == DEFAULT:
        return text
    if text == ON:
        return {"sensitivity": 0.5}
    sensitivity, comma, time = text.partition(",")
    try:
        gate = {"sensitivity": _share(sensitivity)}
    except ValueError as exc:
        raise click.BadParameter(
            f"expected a number from 0 to 1, or one with a time, as 0.5,30s; got {text!r}"
        ) from exc
    if comma:
        gate["max_still"] = seconds(time, "--motion")
        if not 0 < gate["max_still"] <= MAX_STILL:
            raise click.BadParameter(f"expected a time of at most {MAX_STILL:g} s, got {time!r}")
    return gate


def _is_corner(corner: list[float]) -> bool:
    return len(corner) == 2 and all(0 <= part <= 1 for part in corner)


def references(_ctx: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[str | int]:
    """Parse video sources."""
    return [reference(text) for text in texts]


def reference(text: str) -> str | int:
    """A device index is a number; a file of this machine is named whole, as the worker has another folder."""
    from streamfleet_core.protocol.source_reference import expected_instead, reference_of, sanitised

    meant = reference_of(text)
    if isinstance(meant, int):
        return meant
    if expected := expected_instead(text):
        raise click.BadParameter(f"expected {expected}; got {sanitised(text)}")
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return str(path.absolute()) if text.startswith("~/") or _is_file(path) else text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def sampling(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, Any] | str | None:
    """The sampling rules, as the api expects them; by default none."""
    if text is None or text in (NONE, DEFAULT):
        return text and DEFAULT
    if text.endswith(".json"):
        value = _object_in(Path(text).expanduser())
        if "dataset" not in value and "target_project" not in value:
            raise click.BadParameter(f'{text}: expected "dataset": NAME in it, got {", ".join(value)}')
        return value
    import msgspec

    from streamfleet_api.sampling_presets import ActiveLearning
    from streamfleet_core.protocol.sampling import Dataset, Random, Sampling

    dataset, equals, share = text.partition("=")
    try:
        msgspec.convert(dataset, Dataset)
        wanted = ActiveLearning().sampling(True, dataset)
        if equals:
            wanted = Sampling(
                dataset=dataset, strategies=(Random(name="random", traffic_percentage=_share(share)),)
            )
    except (ValueError, msgspec.ValidationError) as exc:
        raise click.BadParameter(
            f"expected a dataset, one with a share from 0 to 1, as doors=0.01, or FILE.json; got {text!r}"
        ) from exc
    return dict(msgspec.to_builtins(wanted))


def _share(text: str) -> float:
    """Raises: ValueError."""
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _object_in(file: Path) -> dict[str, Any]:
    from streamfleet_core.protocol.json_text import InvalidJson, decode_json
    from streamfleet_core.runtime.small_file import read_small

    try:
        return decode_json(read_small(file, most=_MAX_SETTINGS), dict)
    except OSError as exc:
        raise click.BadParameter(f"{file}: {exc.strerror}") from exc
    except InvalidJson as exc:
        raise click.BadParameter(f"{file}: expected an object with a dataset and strategies: {exc}") from exc


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
    raise click.BadParameter(f"expected {wanted}, got {text!r}")


def seconds(text: str, option: str) -> float:
    """A time with its unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise click.BadParameter(
            f"expected a number and its unit, as 15m, 90s, 2h or 1d; got {text!r}", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]]


def output_folder(text: str) -> Callable[[F], F]:
    """The option for a folder in which pictures are saved. `text`: its help."""
    return click.option(
        "-o",
        "--output",
        metavar="FOLDER",
        type=click.Path(file_okay=False, path_type=Path),
        help=text,
    )
