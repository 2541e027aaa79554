"""The documentation page: the OpenAPI document as HTML that reads without a script and without internet."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/docs/docs.css">
<script src="/docs/docs.js" defer></script>
</head>
<body>
<header>
<h1>{title}</h1>
{text}
<p><a href="/openapi.json">openapi.json</a></p>
<label>Token
<input id="token" type="password" autocomplete="off" size="30" placeholder="not needed on this host">
</label>
</header>
<nav>{contents}</nav>
<main>
{sections}
<h2 id="schemas">Schemas</h2>
{schemas}
</main>
</body>
</html>
"""


def page(document: dict[str, Any]) -> str:
    """The page. All that comes from the document is escaped."""
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    schemas = document["components"]["schemas"]
    tags = [tag for tag in document["tags"] if any(tag["name"] in each["tags"] for *_, each in operations)]
    return _FRAME.format(
        title=escape(f"{document['info']['title']} {document['info']['version']}"),
        text=_paragraphs(document["info"]["description"]),
        contents=" ".join(f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>' for tag in tags)
        + ' <a href="#schemas">schemas</a>',
        sections="\n".join(_section(tag, operations, schemas) for tag in tags),
        schemas="\n".join(_schema(name, schema) for name, schema in sorted(schemas.items())),
    )


def _section(
    tag: dict[str, str], operations: list[tuple[str, str, dict[str, Any]]], schemas: dict[str, Any]
) -> str:
    name = escape(tag["name"])
    shown = [_operation(*each, schemas) for each in operations if tag["name"] in each[2]["tags"]]
    return f'<h2 id="{name}">{name}</h2>\n<p>{_inline(tag["description"])}</p>\n' + "\n".join(shown)


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    body = operation.get("requestBody")
    parts = [_paragraphs(operation.get("description", ""))]
    if operation.get("parameters"):
        parts.append(_parameters(operation["parameters"]))
    if body is not None:
        kinds = ", ".join(f"{escape(kind)} {_kind(each)}" for kind, each in body["content"].items())
        parts.append(f"<h4>Body</h4><p>{kinds}</p>")
    parts.append(_answers(operation["responses"]))
    parts.append(_form(path, method, operation, schemas))
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f"<b class={method}>{method.upper()}</b> <code>{escape(path)}</code> {_inline(operation['summary'])}"
        f"</summary>{''.join(parts)}</details>"
    )


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{_inline(each.get('description', ''))} <code>{_shape(each['schema'])}</code></td></tr>"
        for each in parameters
    ]
    return f"<h4>Parameters</h4><table>{''.join(rows)}</table>"


def _answers(answers: dict[str, Any]) -> str:
    rows = []
    for status, answer in answers.items():
        kinds = ", ".join(_kind(each) or escape(kind) for kind, each in answer.get("content", {}).items())
        rows.append(
            f"<tr><td>{escape(status)}</td><td>{_inline(answer['description'])}</td><td>{kinds}</td></tr>"
        )
    return f"<h4>Answers</h4><table>{''.join(rows)}</table>"


def _form(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return the form from which the script sends a request. It is hidden without scripts."""
    content = operation.get("requestBody", {}).get("content", {})
    kind = next(iter(content), "")
    streams = any("event-stream" in each for each in operation["responses"].get("200", {}).get("content", {}))
    if (kind and "schema" not in content[kind]) or streams:  # bytes cannot be typed
        return ""
    fields = "".join(
        f"<label>{escape(each['name'])} "
        f'<input data-in="{escape(each["in"])}" name="{escape(each["name"])}"></label>'
        for each in operation.get("parameters", ())
    )
    text = ""
    if kind:
        example = escape(json.dumps(_example(content[kind]["schema"], schemas), indent=2))
        text = f'<textarea rows="10" data-type="{escape(kind)}" spellcheck="false">{example}</textarea>'
    return (
        f'<div class="try" hidden data-method="{method.upper()}" data-path="{escape(path)}">'
        f"{fields}{text}<button>Send</button><pre></pre></div>"
    )


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """The first example of a body, {} when there is none."""
    named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    return next(iter(named.get("examples", ())), {})


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code>{'' if key in required else ' ?'}</td>"
        f"<td><code>{_shape(each)}</code></td><td>{_inline(each.get('description', ''))}</td></tr>"
        for key, each in schema.get("properties", {}).items()
    )
    choices = "" if rows else f"<p><code>{_shape(schema)}</code></p>"
    text = _paragraphs(schema.get("description", ""))
    anchor = escape(name)
    return f'<h3 id="schema-{anchor}">{anchor}</h3>{text}{choices}<table>{rows}</table>'


def _kind(content: dict[str, Any]) -> str:
    return f"<code>{_shape(content['schema'])}</code>" if "schema" in content else ""


def _shape(schema: dict[str, Any]) -> str:
    """A schema in a word or two, with links to those that have a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " | ".join(_shape(each) for each in schema[choice])
    if "enum" in schema:
        return " | ".join(escape(json.dumps(each)) for each in schema["enum"])
    if "const" in schema:
        return escape(json.dumps(schema["const"]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{_shape(schema.get('items', {}))}, …]"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{{…: {_shape(schema['additionalProperties'])}}}"
    text = " | ".join(kind) if isinstance(kind, list) else kind
    return escape(text + _bounds(schema))


def _bounds(schema: dict[str, Any]) -> str:
    signs = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "maxLength": "≤ characters:",
        "pattern": "as",
    }
    found = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f" ({', '.join(found)})" if found else ""


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
