"""Documents in every size: what is too large is shortened first, and what is missing is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.video.outputs.encoding import MAX_DATAGRAM, to_json, to_msgpack
from streamfleet_worker.video.outputs.prediction import Names, describe, describe_picture
from tests.fakes.detections_columns import scores
from tests.fakes.findings import LABELS, ORIGIN, classified, document, found, oriented, posed, segmented


@pytest.mark.parametrize("label", ["car", 'a "b": [1,2], {}', "back\\slash\t", "Fußgänger"])
def test_it_is_what_python_writes(label: str) -> None:
    whole = describe(found(7), names=Names([label] * 80), width=426, height=240, origin=ORIGIN)

    assert to_json(whole).content == json.dumps(whole).encode()
    assert to_json(whole, compact=True).content == json.dumps(whole, separators=(",", ":")).encode()
    assert to_msgpack(whole).content == msgpack.packb(whole)


@pytest.mark.parametrize("count", [0, 1, 7, 300, 3000])
@pytest.mark.parametrize("tracked", [False, True])
def test_supervision_reads_either_form_back(count: int, tracked: bool) -> None:
    sent = found(count, tracked=tracked)
    whole = document(sent)

    for encoded, read, limit in (
        (to_json(whole), json.loads, MAX_DATAGRAM),
        (to_msgpack(whole), msgpack.unpackb, MAX_DATA_BODY),
    ):
        came = read(encoded.content)
        back = sv.Detections.from_inference(came)

        assert len(encoded.content) <= limit
        assert len(back) == count - encoded.truncated
        assert came["inference_metadata"].get("truncated", 0) == encoded.truncated
        if count and not encoded.truncated:
            np.testing.assert_allclose(back.xyxy, sent.xyxy, atol=0.2)
            np.testing.assert_allclose(scores(back), scores(sent), atol=0.001)
            np.testing.assert_array_equal(back.class_id, sent.class_id)


def test_three_hundred_fit_into_a_datagram_with_shorter_numbers() -> None:
    encoded = to_json(document(found(300)))

    assert encoded.truncated == 0
    assert len(encoded.content) <= MAX_DATAGRAM
    assert max(len(str(one["x"])) for one in json.loads(encoded.content)["predictions"]) <= 6


def test_nothing_is_left_out_if_shorter_numbers_fit_exactly() -> None:
    whole = document(found(300))
    size = len(to_json(whole).content)

    exact, less = to_json(whole, size), to_json(whole, size - 1)

    assert (exact.truncated, len(exact.content)) == (0, size)
    assert less.truncated == 1


def test_of_too_many_the_most_confident_are_sent_in_their_order() -> None:
    sent = found(3000)

    encoded = to_json(document(sent))

    kept = 3000 - encoded.truncated
    came = [one["confidence"] for one in json.loads(encoded.content)["predictions"]]
    least = np.sort(scores(sent))[-kept]
    expected = [round(float(one), 3) for one in scores(sent) if one >= least]
    assert encoded.truncated > 2000
    assert came == pytest.approx(expected, abs=0.0011)
    # Nothing is left out that had room: less than one prediction's bytes are free.
    assert MAX_DATAGRAM - len(encoded.content) < 250


def test_a_document_without_metadata_tells_beside_its_predictions_what_is_missing() -> None:
    whole = {
        "frame_id": 7,
        **describe_picture(found(3000, tracked=True), names=Names(LABELS), width=1920, height=1080),
    }

    encoded = to_json(whole, compact=True)

    came = json.loads(encoded.content)
    assert list(came) == ["frame_id", "image", "predictions", "truncated"]
    assert len(came["predictions"]) + came["truncated"] == 3000
    assert MAX_DATAGRAM - 250 < len(encoded.content) <= MAX_DATAGRAM
    assert b'", "' not in encoded.content
    assert len(sv.Detections.from_inference(came)) == len(came["predictions"])


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("limit", [400, 900, 5_000, 65_507])
def test_whatever_the_limit_it_is_kept_and_every_byte_of_it_used(compact: bool, limit: int) -> None:
    whole = document(found(600))

    encoded = to_json(whole, limit, compact=compact)

    came = json.loads(encoded.content)
    assert len(encoded.content) <= limit
    assert limit - len(encoded.content) < 250
    assert len(came["predictions"]) + encoded.truncated == 600
    assert came["inference_metadata"]["truncated"] == encoded.truncated


def test_predictions_of_another_task_are_cut_too() -> None:
    labels = [{"class": f"label {number}", "class_id": number, "confidence": 0.5} for number in range(3000)]

    encoded = to_json({"predictions": labels, "top": "label 0"})

    came = json.loads(encoded.content)
    assert encoded.truncated == came["truncated"] == 3000 - len(came["predictions"]) > 0


def test_a_body_for_the_data_plane_is_bounded_too() -> None:
    encoded = to_msgpack(document(found(9000)))

    assert encoded.truncated > 0
    assert MAX_DATA_BODY - 250 < len(encoded.content) <= MAX_DATA_BODY


# the other tasks

Make = Callable[..., Any]
TASKS: list[tuple[Make, dict[str, Any]]] = [
    (segmented, {}),
    (segmented, {"mask_format": "rle"}),
    (posed, {}),
    (oriented, {}),
    (classified, {}),
]


@pytest.mark.parametrize(("make", "options"), TASKS)
@pytest.mark.parametrize("limit", [500, 2_000, 20_000, MAX_DATAGRAM])
def test_whatever_the_task_the_limit_is_kept_and_what_is_missing_is_counted(
    make: Make, options: dict[str, Any], limit: int
) -> None:
    whole = document(make(120), **options)
    confidences = sorted((one["confidence"] for one in whole["predictions"]), reverse=True)

    for encoded, read in (
        (to_json(whole, limit), json.loads),
        (to_json(whole, limit, compact=True), json.loads),
        (to_msgpack(whole, limit), msgpack.unpackb),
    ):
        came = read(encoded.content)
        kept = came["predictions"]
        assert len(encoded.content) <= limit
        assert len(kept) + encoded.truncated == 120
        assert came["inference_metadata"].get("truncated", 0) == encoded.truncated
        assert all(one["confidence"] >= confidences[len(kept) - 1] - 0.001 for one in kept)


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
def test_masks_are_simplified_before_an_object_is_left_out(mask_format: str) -> None:
    whole = document(segmented(100, size=300), mask_format=mask_format)

    encoded = to_json(whole)

    came = json.loads(encoded.content)
    assert encoded.truncated == 0
    assert {one["mask_format"] for one in came["predictions"]} == {"polygon"}
    back, exact = (np.asarray(sv.Detections.from_inference(one).mask) for one in (came, whole))
    shared = (back & exact).sum((1, 2)) / (back | exact).sum((1, 2))
    assert np.median(shared) > 0.8


def test_polygons_with_few_points_leave_the_room_to_the_others() -> None:
    small, large = segmented(40, size=12), segmented(4, size=800)
    predictions = [*document(small)["predictions"], *document(large)["predictions"]]
    whole = {**document(found(1)), "predictions": predictions}

    came = json.loads(to_json(whole, 24_000).content)

    points = [len(one["points"]) for one in came["predictions"]]
    assert len(points) == 44
    assert points[:40] == [len(one["points"]) for one in predictions[:40]]
    assert min(points[40:]) > max(points[:40])


def test_run_lengths_that_fit_stay_exact() -> None:
    whole = document(segmented(20, size=100), mask_format="rle")

    came = json.loads(to_json(whole).content)

    assert [one["rle"] for one in came["predictions"]] == [one["rle"] for one in whole["predictions"]]


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
def test_three_hundred_large_masks_reach_the_data_plane_whole(mask_format: str) -> None:
    whole = document(segmented(300, size=400), mask_format=mask_format)

    assert to_msgpack(whole).content == msgpack.packb(whole)


def test_key_points_get_shorter_numbers_first() -> None:
    whole = document(posed(40))
    assert len(json.dumps(whole)) > 70_000

    encoded = to_json(whole)

    came = json.loads(encoded.content)
    assert encoded.truncated == 0
    assert max(len(str(point["x"])) for one in came["predictions"] for point in one["keypoints"]) <= 6
    assert sv.KeyPoints.from_inference(came).xy.shape == (40, 17, 2)


def test_an_oriented_box_has_four_corners_or_is_left_out() -> None:
    encoded = to_json(document(oriented(300)))

    came = json.loads(encoded.content)
    assert {len(one["points"]) for one in came["predictions"]} == {4}
    assert len(came["predictions"]) == 300 - encoded.truncated


@pytest.mark.parametrize(
    "odd",
    [
        {"points": []},
        {"points": [{"x": 1.25, "y": 2.75}] * 40},
        {"rle": {"size": [9, 9], "counts": "no run lengths"}},
        {"rle": {"size": [9, 9], "counts": [81]}},
        {"rle": "none"},
    ],
)
def test_predictions_of_a_program_are_written_too(odd: dict[str, Any]) -> None:
    whole = document(found(30))
    for prediction in whole["predictions"]:
        prediction.update(odd)

    encoded = to_json(whole, 4_000)

    came = json.loads(encoded.content)
    assert 0 < len(came["predictions"]) == 30 - encoded.truncated
