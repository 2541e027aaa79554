"""The predictions document: the original's keys, in its order, in every size."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import msgpack
import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.video.outputs.prediction import (
    MAX_DATAGRAM,
    Names,
    Origin,
    describe,
    describe_picture,
    to_json,
    to_msgpack,
)
from tests.fakes.detections_columns import scores

LABELS = ("car", "person")
ORIGIN = Origin(
    source_id=0,
    frame_id=12,
    decoded_at=1_760_000_000.25,
    emitted_at=1_760_000_000.5,
    pipeline_id="pipeline-1",
    device="device-1",
    generation=3,
    incarnation=2,
    seq=11,
)


def detections(count: int, *, tracked: bool = False) -> sv.Detections:
    """Boxes at odd places, the most confident not first."""
    chance = np.random.default_rng(count)
    corner = chance.uniform(0, 1000, (count, 2))
    return sv.Detections(
        xyxy=np.hstack([corner, corner + chance.uniform(5, 50, (count, 2))]).astype(np.float32),
        confidence=chance.uniform(0.3, 1, count).astype(np.float32),
        class_id=chance.integers(0, 2, count),
        tracker_id=np.arange(count) + 100 if tracked else None,
    )


def document(of: sv.Detections) -> dict:
    return describe(of, names=Names(LABELS), width=1920, height=1080, origin=ORIGIN)


def test_the_bytes_are_the_originals() -> None:
    one = sv.Detections(
        xyxy=np.array([[-5.0, 0.5, 25.0, 40.5]], np.float32),
        confidence=np.array([0.5], np.float32),
        class_id=np.array([0]),
    )

    encoded = to_json(describe(one, names=Names(LABELS), width=426, height=240, origin=ORIGIN))

    name = json.loads(encoded.content)["predictions"][0]["detection_id"]
    decoded_at = datetime.fromtimestamp(ORIGIN.decoded_at).isoformat()  # noqa: DTZ006 (local, as the original)
    emitted_at = datetime.fromtimestamp(ORIGIN.emitted_at).isoformat()  # noqa: DTZ006
    assert encoded.truncated == 0
    assert uuid.UUID(name).version == 4
    assert encoded.content.decode() == (
        '{"image": {"width": 426, "height": 240}, "predictions": [{"x": 10.0, "y": 20.5, "width": 30.0, '
        f'"height": 40.0, "confidence": 0.5, "class": "car", "class_id": 0, "detection_id": "{name}"}}], '
        f'"inference_metadata": {{"source_id": 0, "frame_id": 12, "frame_decoding_time": "{decoded_at}", '
        f'"emission_time": "{emitted_at}", "pipeline_id": "pipeline-1", "device": "device-1", "gen": 3, '
        '"inc": 2, "seq": 11}}'
    )


@pytest.mark.parametrize("label", ["car", 'a "b": [1,2], {}', "back\\slash\t", "Fußgänger"])
def test_it_is_what_python_writes(label: str) -> None:
    whole = describe(detections(7), names=Names([label] * 80), width=426, height=240, origin=ORIGIN)

    assert to_json(whole).content == json.dumps(whole).encode()
    assert to_json(whole, compact=True).content == json.dumps(whole, separators=(",", ":")).encode()
    assert to_msgpack(whole).content == msgpack.packb(whole)


def test_an_empty_scene_is_sent_as_such() -> None:
    encoded = to_json(document(sv.Detections.empty()))

    assert b'"predictions": []' in encoded.content


def test_a_tracker_id_stands_before_the_detection_id() -> None:
    (prediction,) = document(detections(1, tracked=True))["predictions"]

    assert list(prediction) == [
        *("x", "y", "width", "height", "confidence", "class", "class_id", "tracker_id", "detection_id")
    ]
    assert prediction["tracker_id"] == 100


@pytest.mark.parametrize("count", [0, 1, 7, 300, 3000])
@pytest.mark.parametrize("tracked", [False, True])
def test_supervision_reads_either_form_back(count: int, tracked: bool) -> None:
    sent = detections(count, tracked=tracked)
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
    encoded = to_json(document(detections(300)))

    assert encoded.truncated == 0
    assert len(encoded.content) <= MAX_DATAGRAM
    assert max(len(str(one["x"])) for one in json.loads(encoded.content)["predictions"]) <= 6


def test_nothing_is_left_out_if_shorter_numbers_fit_exactly() -> None:
    whole = document(detections(300))
    size = len(to_json(whole).content)

    exact, less = to_json(whole, size), to_json(whole, size - 1)

    assert (exact.truncated, len(exact.content)) == (0, size)
    assert less.truncated == 1


def test_of_too_many_the_most_confident_are_sent_in_their_order() -> None:
    sent = detections(3000)

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
        **describe_picture(detections(3000, tracked=True), names=Names(LABELS), width=1920, height=1080),
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
    whole = document(detections(600))

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
    encoded = to_msgpack(document(detections(9000)))

    assert encoded.truncated > 0
    assert MAX_DATA_BODY - 250 < len(encoded.content) <= MAX_DATA_BODY


def test_every_detection_has_an_id_of_its_own() -> None:
    names = [one["detection_id"] for one in document(detections(2000))["predictions"]]

    assert len(set(names)) == 2000
    assert {(uuid.UUID(name).version, uuid.UUID(name).variant) for name in names} == {(4, uuid.RFC_4122)}
