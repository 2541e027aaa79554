"""The names of classes and key points: in the metadata of a file, and what a name may be. Pure."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator

from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.limits import MAX_CLASSES, MAX_KEYPOINTS

MAX_LABEL = 128  # characters
_LONGEST = 65_536  # characters of the names of key points
_MOST_QUOTED = 16 * MAX_LABEL  # characters of a name with its quotes and escapes
_UNSHOWABLE = ("Cc", "Cs")  # control characters and surrogates
_TEXT = r"""\s*(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?:,|\Z)"""
_ITEM = re.compile(_TEXT)
_PAIR = re.compile(rf"\s*(?P<index>\d{{1,6}})\s*:{_TEXT}")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
# Of the 17 key points of a person in COCO, in its order.
_PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)


def labels_in(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """Parse class names as Ultralytics writes them. Raises: BadModel.

    They are `{0: 'person', 1: 'car'}`, or `['person', 'car']` of YOLOv5 before 7.0.
    """
    text = metadata.get("names", "").strip()
    if not text:
        return None
    if text.startswith("[") and text.endswith("]"):
        return tuple(_unquote(item["text"]) for item in _each(_ITEM, text[1:-1]))
    if not (text.startswith("{") and text.endswith("}")):
        raise _unreadable(text)
    names = {int(pair["index"]): _unquote(pair["text"]) for pair in _each(_PAIR, text[1:-1])}
    if sorted(names) != list(range(len(names))):
        raise BadModel("expected the metadata 'names' to count from 0 without gaps")
    return tuple(names[index] for index in range(len(names)))


def _each(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The matches that follow each other up to the end of a text. Raises: BadModel."""
    text, at, count = text.rstrip().rstrip(","), 0, 0
    while at < len(text):
        count += 1
        if count > MAX_CLASSES:
            raise BadModel(f"expected at most {MAX_CLASSES} class names in the metadata 'names', got more")
        match = pattern.match(text, at)
        if match is None:
            raise _unreadable(text[at:])
        yield match
        at = match.end()


def _unreadable(text: str) -> BadModel:
    return BadModel(f"expected the metadata 'names' as {{0: 'person', …}}, got {text[:40]!r}")


def keypoint_names(metadata: dict[str, str], count: int) -> tuple[str, ...]:
    """The names of an object's key points: from `kpt_names` if it has as many, else COCO's, else numbers."""
    if not 1 <= count <= MAX_KEYPOINTS:
        raise BadModel(f"expected 1 to {MAX_KEYPOINTS} key points, got {count}")
    names = tuple(_quoted_in(metadata.get("kpt_names", "")[:_LONGEST], count))
    if len(names) == count and len(set(names)) == count and all(map(_is_shown, names)):
        return names
    return _PERSON if count == len(_PERSON) else tuple(str(number) for number in range(count))


def _quoted_in(text: str, most: int) -> Iterator[str]:
    """Up to so many texts in quotes, until one does not end."""
    at = 0
    for _ in range(most):
        start = min((found for sign in "'\"" if (found := text.find(sign, at)) >= 0), default=len(text))
        quoted = _QUOTED.match(text, start)
        if quoted is None:
            return
        yield _unquote(quoted[0])
        at = quoted.end()


def check_labels(labels: tuple[str, ...] | None, classes: int | None, output: object) -> tuple[str, ...]:
    """Check class names against the number of classes in an output; None: unknown. Raises: BadModel."""
    if classes is not None and classes < 1:
        raise BadModel(f"expected an output with at least one class, got {output}")
    if labels is None:
        count = "" if classes is None else f" ({classes} of them)"
        raise BadModel(
            f"expected class names{count}, the file has none: pass them with --labels, or in a file beside it"
        )
    if classes is not None and len(labels) != classes:
        raise BadModel(f"expected {classes} class names for the output {output}, got {len(labels)}")
    if len(labels) > MAX_CLASSES:
        raise BadModel(f"expected at most {MAX_CLASSES} class names, got {len(labels)}")
    for label in labels:
        if not label or len(label) > MAX_LABEL:
            raise BadModel(f"expected class names of 1 to {MAX_LABEL} characters, got {label[:40]!r}")
        if not _is_shown(label):
            raise BadModel(f"expected class names without control characters, got {label[:40]!a}")
    return labels


def _is_shown(name: str) -> bool:
    return 0 < len(name) <= MAX_LABEL and not any(
        unicodedata.category(character) in _UNSHOWABLE for character in name
    )


def _unquote(text: str) -> str:
    if len(text) > _MOST_QUOTED:
        raise BadModel(f"expected class names of 1 to {MAX_LABEL} characters, got {text[:40]!r}")
    try:
        name = ast.literal_eval(text)
    except (SyntaxError, ValueError) as exc:
        raise BadModel(f"expected a class name in quotes in the metadata 'names', got {text[:40]!r}") from exc
    assert isinstance(name, str)
    return name
