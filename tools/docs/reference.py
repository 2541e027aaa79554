"""Generates the reference from the code at each build, so that it is always current: Markdown by section."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import re
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

_WIDTH = 86  # characters of a help text
_PHRASES = {each.phrase for each in HTTPStatus} | {"Request Entity Too Large", "Unprocessable Entity"}


# HTTP -----------------------------------------------------------------------------------------------------


@functools.cache
def openapi() -> dict[str, Any]:
    """Return the document that the API serves, from an application that is not started."""
    return asyncio.run(_openapi())


async def _openapi() -> dict[str, Any]:
    import zmq.asyncio

    from streamfleet_api.app import Services, create_app
    from streamfleet_api.config import parse

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/openapi.json",
        "raw_path": b"/openapi.json",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    with tempfile.TemporaryDirectory() as folder, zmq.asyncio.Context() as context:
        config = parse(["--data-dir", folder], {})
        app = create_app(config, Services.make(config, context), token="x" * 16)
        await app(scope, receive, send)
    start, *pieces = sent
    if start["status"] != 200:
        raise RuntimeError(f"expected /openapi.json, got {start}")
    document: dict[str, Any] = json.loads(b"".join(each.get("body", b"") for each in pieces))
    return document


def http_operations() -> str:
    """Return all routes, grouped by tag."""
    document = openapi()
    parts = []
    for tag in document["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if operation["tags"] == [tag["name"]]:
                    parts.append(_operation(method.upper(), path, operation))
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"### `{method} {path}` {{ #{operation['operationId']} }}", "", _sentence(operation["summary"])]
    if text := operation.get("description"):
        parts += ["", text]
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{each['name']}`", each["in"], _type(each["schema"]), each.get("description", ""))
            for each in parameters
        ]
        parts += ["", _table(("parameter", "in", "type", "what"), rows)]
    if body := operation.get("requestBody"):
        kinds = [f"`{media}` {_type(of.get('schema', {}))}" for media, of in body["content"].items()]
        parts += ["", f"Body: {' or '.join(kinds)}."]
    answers = operation["responses"].items()
    bodies = [
        (status, _contents(answer), _sentence(answer["description"]))
        for status, answer in answers
        if not _is_plain_error(status, answer)
    ]
    errors = [status for status, answer in answers if _is_plain_error(status, answer)]
    parts += ["", _table(("status", "body", "what"), bodies)]
    if errors:
        parts.append(f"Errors: {', '.join(errors)}, each as {_contents(operation['responses'][errors[0]])}.")
    return "\n".join([*parts, ""])


def _is_plain_error(status: str, answer: dict[str, Any]) -> bool:
    """Return whether the description only repeats the status."""
    return status >= "400" and answer["description"] in _PHRASES


def _contents(answer: dict[str, Any]) -> str:
    found = [_type(of.get("schema", {})) or f"`{media}`" for media, of in answer.get("content", {}).items()]
    return ", ".join(dict.fromkeys(found))


def http_schemas() -> str:
    """Return all bodies with their keys."""
    parts = []
    for name, schema in sorted(openapi()["components"]["schemas"].items()):
        parts += [f"### {name} {{ #schema-{name.lower()} }}", "", schema.get("description", ""), ""]
        if schema.get("properties"):
            required = schema.get("required", ())
            rows = [
                (f"`{key}`", _type(of), "yes" if key in required else "", _meaning(of))
                for key, of in schema["properties"].items()
            ]
            parts += [_table(("key", "type", "required", "what"), rows), ""]
        else:
            parts += [_type(schema), ""]
    return "\n".join(parts)


def _meaning(schema: dict[str, Any]) -> str:
    parts = [_sentence(schema["description"])] if schema.get("description") else []
    if schema.get("default") is not None:
        parts.append(f"Default: `{json.dumps(schema['default'])}`.")
    return " ".join(parts)


_BOUNDS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {}"),
    ("maxItems", "at most {}"),
)


def _type(schema: dict[str, Any]) -> str:
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[1]
        return f"[{name}](#schema-{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[word]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = schema.get("type", "")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {})) or 'anything'}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"map to {_type(schema['additionalProperties']) or 'anything'}"
    bounds = [text.format(schema[key]) for key, text in _BOUNDS if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


# Programs -------------------------------------------------------------------------------------------------


def cli() -> str:
    """Return the help of `streamfleet` and of each command."""
    module = importlib.import_module("streamfleet_api.cli.main")
    group = next(
        each for each in vars(module).values() if isinstance(each, click.Group) and "up" in each.commands
    )
    return "\n".join(_commands(group, None, "streamfleet"))


def _commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    context = click.Context(
        command, parent=parent, info_name=name, max_content_width=_WIDTH, terminal_width=_WIDTH
    )
    title = context.command_path
    yield f"## `{title}` {{ #{title.replace(' ', '-')} }}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                yield from _commands(found, context, each)


def program_help(module: str) -> str:
    """Return the help text of a program."""
    parse = importlib.import_module(module).parse
    printed = io.StringIO()
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(_WIDTH)
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse(["--help"], {})
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width
    text = printed.getvalue().replace(str(Path.home()), "~")
    return f"```text\n{text.rstrip()}\n```\n"


# Metrics --------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return all metrics of `/metrics` with their labels."""
    from streamfleet_api.monitoring.metrics import Known, OwnFigures, Requests, collected, totals
    from streamfleet_api.web.connections import Connections, Limits
    from streamfleet_api.web.failed_logins import FailedLogins
    from streamfleet_core.runtime.file_descriptors import DescriptorWatch

    own = OwnFigures(FailedLogins(), Connections(Limits.of(1024)), DescriptorWatch())
    nothing = Known(fleet=None, pipelines=(), devices=(), of_pipelines={}, of_devices={})
    rows: list[tuple[str, ...]] = [
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.text)
        for each in (*totals(nothing), *collected(nothing))
    ]
    for family in (*own.collect(), *Requests().registry.collect()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = getattr(family, "_labelnames", ()) or {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        rows.append(
            (f"`{name}`", family.type, ", ".join(f"`{each}`" for each in labels), family.documentation)
        )
    return _table(("metric", "type", "labels", "what"), sorted(rows))


# Wire -----------------------------------------------------------------------------------------------------


def messages() -> str:
    """Return the messages of the control plane."""
    from streamfleet_core.protocol.messages import MESSAGE_TYPES

    parts = []
    for number, of in MESSAGE_TYPES.items():
        parts += [
            f"### {number} {of.__name__} {{ #message-{of.__name__.lower()} }}",
            "",
            _doc(of),
            "",
            _fields(of),
        ]
    return "\n".join(parts)


def operations() -> str:
    """Return the operations of the operators' plane."""
    from streamfleet_core.protocol.requests import OPERATIONS

    rows = [
        (f"`{name}`", ", ".join(f"`{each}`" for each in _names(of)), _doc(of))
        for name, of in OPERATIONS.items()
    ]
    return _table(("`op`", "`args`", "what"), rows)


def values() -> str:
    """Return the values in messages."""
    from streamfleet_core.protocol import costs, sampling, status, values
    from streamfleet_core.protocol.tasks import optimisation, rollouts, trials

    found = [
        of
        for module in (values, sampling, costs, optimisation, trials, rollouts, status)
        for of in vars(module).values()
        if dataclasses.is_dataclass(of) and isinstance(of, type) and of.__module__ == module.__name__
    ]
    return "\n".join(
        line
        for of in found
        for line in (f"### {of.__name__} {{ #value-{of.__name__.lower()} }}", "", _doc(of), "", _fields(of))
    )


def _names(of: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(of)]


def _fields(of: Any) -> str:
    hints = typing.get_type_hints(of)
    rows = [(f"`{each.name}`", _hint(hints[each.name]), _default(each)) for each in dataclasses.fields(of)]
    return _table(("key", "type", "default"), rows) + "\n" if rows else "It has no keys.\n"


def _hint(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    return f"`{text}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return ""


def _doc(of: Any) -> str:
    return " ".join((of.__doc__ or "").split())


# Markdown -------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "?", ":", "…")) else f"{text}."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*head]]
    lines.append(["---"] * len(lines[0]))
    lines += [[re.sub(r"\s+", " ", str(cell)).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


SECTIONS: dict[str, Callable[[], str]] = {
    "http-operations": http_operations,
    "http-schemas": http_schemas,
    "cli": cli,
    "broker-options": lambda: program_help("streamfleet_broker.__main__"),
    "worker-options": lambda: program_help("streamfleet_worker.config"),
    "api-options": lambda: program_help("streamfleet_api.config"),
    "metrics": metrics,
    "messages": messages,
    "operations": operations,
    "values": values,
}
