"""A prediction of any task as it arrives: it is read whole, and every list in it is bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamfleet_core.protocol import limits
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import MAX_PREDICTIONS, decode
from tests.fakes.found import BOX, CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS, document


def encoded(*objects: dict[str, Any], **changes: Any) -> bytes:
    return msgspec.msgpack.encode({**document(*objects), "inference_metadata": {}, **changes})


@pytest.mark.parametrize("found", [BOX, OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_what_a_model_of_any_task_finds_is_read_whole(found: dict[str, Any]) -> None:
    assert decode(encoded(BOX, found))["predictions"] == [BOX, found]


def test_what_stages_have_found_in_an_object_is_read_with_it() -> None:
    nested = {"text": {"predictions": [BOX, KEYPOINTS]}, "kind": dict(CLASSIFIED)}

    assert decode(encoded({**BOX, "stages": nested}))["predictions"] == [{**BOX, "stages": nested}]


def test_the_class_of_a_picture_is_read_with_the_most_confident_one() -> None:
    got = decode(encoded(**CLASSIFIED))

    assert (got["top"], got["confidence"]) == ("cat", 0.75)
    assert got["predictions"] == CLASSIFIED["predictions"]


def test_keys_beyond_these_are_not_built() -> None:
    assert decode(encoded({**BOX, "more": [{}]}, more={}))["predictions"] == [BOX]


_POINT, _KEYPOINT = {"x": 1.0, "y": 2.0}, KEYPOINTS["keypoints"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": [_POINT] * (limits.MAX_POINTS + 1)},
        {"points": [{}]},
        {"points": [{"x": 1e300, "y": 0.0}]},
        {"points": [{"x": float("nan"), "y": 0.0}]},
        {"rotation": float("inf")},
        {"rle": {"size": [48, 64, 3], "counts": ""}},
        {"rle": {"size": [48, limits.MAX_SIDE + 1], "counts": ""}},
        {"rle": {"size": [48, 64], "counts": "0" * (limits.MAX_RLE_COUNTS + 1)}},
        {"keypoints": [_KEYPOINT] * (limits.MAX_KEYPOINTS + 1)},
        {"stages": {f"s{number}": {"predictions": []} for number in range(limits.MAX_STAGES + 1)}},
        {"stages": {"text": {"predictions": [{}]}}},
        {"stages": {"a name": {"predictions": []}}},
        {"stages": {"text": {"predictions": [{**BOX, "rotation": float("inf")}]}}},
        {"keypoints": [{**_KEYPOINT, "class_id": limits.MAX_KEYPOINTS}]},
        {"keypoints": [{**_KEYPOINT, "class_id": -1}]},
        {"keypoints": [{**_KEYPOINT, "confidence": float("nan")}]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_what_is_too_much_or_not_finite_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadData, match="prediction"):
        decode(encoded({**BOX, **wrong}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"predictions": [{}] * (MAX_PREDICTIONS + 1)},
        {"confidence": float("nan")},
        {"top": 7},
        {"image": {"width": limits.MAX_SIDE + 1, "height": 1}},
        {"image": {"width": -1, "height": 1}},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_document_beyond_its_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadData, match="prediction"):
        decode(encoded(**wrong))
