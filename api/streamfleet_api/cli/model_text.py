"""A model in lines for people: what it finds, what it takes, what its file says, who uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamfleet_api.cli.tables import size
from streamfleet_api.cli.variant_text import variant_lines

if TYPE_CHECKING:
    from streamfleet.results import BoardCost, Cost, FileCard, Model, ModelCard, Pipeline

_TASKS = {
    "detect": "detection (boxes)",
    "segment": "segmentation (boxes and masks)",
    "obb": "oriented boxes",
    "pose": "poses (boxes and key points)",
    "classify": "classification (of the whole picture)",
}


def card_lines(model: ModelCard, used: Sequence[Pipeline]) -> Iterator[str]:
    """All that is known of a model. `used`: the pipelines that name it."""
    yield f"{model.id}: {model.family or 'its manifest is not here'}"
    if model.task:
        yield _line("task", _TASKS.get(model.task, model.task))
    if model.input_width:
        yield _line("input", _input_line(model))
    if model.labels:
        yield _line("classes", f"{len(model.labels)}: {', '.join(model.labels)}")
    if model.keypoints:
        yield _line("key points", f"{len(model.keypoints)}: {', '.join(model.keypoints)}")
    if model.weights:
        yield _line("file", size(model.weights.size))
        yield _line("sha256", model.weights.sha256)
    yield _line("digest", model.digest)
    if model.card is not None:
        yield from _file_lines(model.card)
    yield from _variant_lines(model)
    for number, line in enumerate(_cost_lines(model.costs) if model.costs else ["not measured yet"]):
        yield _line("" if number else "cost", line)
    yield from _user_lines(model, used)


def input_size(model: Model) -> str:
    """The size of its input; "" if it is unknown."""
    return f"{model.input_width}x{model.input_height}" if model.input_width else ""


def classes(labels: Sequence[str]) -> str:
    """How many classes, and the first ones."""
    shown = ", ".join(labels[:4])
    return f"{len(labels)}: {shown}, …" if len(labels) > 4 else f"{len(labels)}: {shown}"


def _input_line(model: ModelCard) -> str:
    if model.card is None:
        return input_size(model)
    dynamic = [
        *(["any size"] if model.card.dynamic_size else []),
        *(["any batch"] if model.card.dynamic_batch else []),
    ]
    parts = [input_size(model), model.card.input_type or "another type"]
    return ", ".join([*parts, *(f"exported for {each}" for each in dynamic)])


def _file_lines(card: FileCard) -> Iterator[str]:
    yield _line("ONNX", f"opset {card.opset}, IR version {card.ir_version}")
    told = {
        "licence": card.license,
        "author": card.author,
        "exported": card.date,
        "description": card.description,
    }
    for name, text in told.items():
        if text:
            yield _line(name, text)


def _variant_lines(model: ModelCard) -> Iterator[str]:
    for number, line in enumerate(variant_lines(model.variants or ()) if model.variants else ["none"]):
        yield _line("" if number else "variants", line)


def _user_lines(model: ModelCard, used: Sequence[Pipeline]) -> Iterator[str]:
    yield _line("pipelines", ", ".join(each.pipeline_id for each in used) or "none")
    old = [each.pipeline_id for each in used if _uses_other_content(each, model)]
    if old:
        yield _line("", f"an earlier content: {', '.join(old)}")


def _uses_other_content(pipeline: Pipeline, model: ModelCard) -> bool:
    return any(each.id == model.id and each.digest != model.digest for each in pipeline.spec.models)


def _line(name: str, text: str) -> str:
    return f"  {name:11}  {text}"


def _cost_lines(costs: Sequence[BoardCost]) -> Iterator[str]:
    """What pipelines of a model cost, by kind of device."""
    board = None
    for each in costs:
        if each.board != board:
            board = each.board
            yield board
        yield f"  {_kind(each.cost)}: {_figures(each.cost)}"


def _kind(cost: Cost) -> str:
    parts = (cost.variant, f"{cost.width}x{cost.height}", cost.decoder)
    return " ".join(filter(None, parts))


def _figures(cost: Cost) -> str:
    accelerator = f"{_ms(cost.accelerator)} of the accelerator, " if cost.accelerator else ""
    each = f"{accelerator}{_ms(cost.inference + cost.frame)} of a core for a frame"
    read = f"{_ms(cost.reading)} for one that is only read"
    memory = f"{size(cost.engine_memory)} for the model, {size(cost.camera_memory)} for a camera"
    return f"{each}, {read}; {memory}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
