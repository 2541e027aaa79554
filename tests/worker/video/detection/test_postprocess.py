"""Outputs become the detections that a slow, plain reading of the families' papers gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.values import Family, Manifest, ModelRef, PipelineSpec, SourceSpec, Weights
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox, fit
from streamfleet_worker.video.detection.postprocess import decode, findings_of, post_processing
from streamfleet_worker.video.detection.selection import ALL, Selection
from tests.fakes.detections_columns import class_ids, scores

LABELS = ("a", "b", "c")
RULES = PostProcessing()


def manifest(family: Family = "ultralytics", width: int = 64, height: int = 64) -> Manifest:
    return Manifest(
        family=family, labels=LABELS, input_width=width, input_height=height, weights=Weights("0" * 64, 1)
    )


def ultralytics(*boxes: tuple[float, ...]) -> np.ndarray:
    """An output (1, 7, n) of (x, y, w, h, score a, score b, score c)."""
    return np.array(boxes, np.float32).T.reshape(1, 7, len(boxes))


def read(
    output: np.ndarray,
    rules: PostProcessing = RULES,
    size: tuple[int, int] = (64, 64),
    selection: Selection = ALL,
) -> sv.Detections:
    return decode([output], fit(*size, manifest()), manifest=manifest(), rules=rules, selection=selection)


def test_the_best_class_of_each_box_is_taken_and_the_best_box_comes_first() -> None:
    output = ultralytics((10, 10, 8, 4, 0.1, 0.5, 0.2), (40, 40, 10, 10, 0.0, 0.0, 0.9))

    detections = read(output)

    np.testing.assert_allclose(detections.xyxy, [[35, 35, 45, 45], [6, 8, 14, 12]], atol=1e-4)
    np.testing.assert_allclose(scores(detections), [0.9, 0.5])
    assert class_ids(detections).tolist() == [2, 1]


def test_only_what_is_sure_enough_stays() -> None:
    output = ultralytics((10, 10, 8, 8, 0.39, 0, 0), (40, 40, 8, 8, 0.41, 0, 0))

    assert len(read(output)) == 1
    assert len(read(output, replace(RULES, confidence=0.5))) == 0
    assert len(read(output, replace(RULES, confidence=0.0))) == 2


def test_boxes_come_in_pixels_of_the_frame_and_inside_it() -> None:
    # 128 x 64 into 64 x 64: half the size, 16 rows of margin above.
    output = ultralytics((32, 32, 20, 10, 0.9, 0, 0), (0, 16, 20, 20, 0.8, 0, 0), (32, 4, 8, 8, 0.7, 0, 0))

    detections = read(output, size=(128, 64))

    np.testing.assert_allclose(detections.xyxy, [[44, 22, 84, 42], [0, 0, 20, 20]], atol=1e-4)


def test_boxes_of_one_class_suppress_each_other_and_of_several_only_if_asked() -> None:
    output = ultralytics(
        (20, 20, 10, 10, 0.9, 0, 0), (21, 20, 10, 10, 0.8, 0, 0), (20, 21, 10, 10, 0, 0.7, 0)
    )

    assert scores(read(output)).tolist() == pytest.approx([0.9, 0.7])
    assert scores(read(output, replace(RULES, class_agnostic_nms=True))).tolist() == pytest.approx([0.9])
    assert len(read(output, replace(RULES, iou_threshold=1.0))) == 3


def test_what_lies_outside_of_the_frame_counts_for_the_overlap() -> None:
    # Inside of the frame, 64 x 64, the boxes are the same.
    output = ultralytics((0, 32, 20, 20, 0.9, 0, 0), (-30, 32, 80, 20, 0.8, 0, 0))

    detections = read(output)

    np.testing.assert_allclose(detections.xyxy, [[0, 22, 10, 42], [0, 22, 10, 42]], atol=1e-4)


def test_the_most_confident_candidates_and_detections_are_kept() -> None:
    boxes = [
        (6 * (index % 10) + 3, 6 * (index // 10) + 3, 4, 4, 0.5 + index / 200, 0, 0) for index in range(50)
    ]
    output = ultralytics(*boxes)

    few = read(output, replace(RULES, max_detections=7))
    candidates = read(output, replace(RULES, max_candidates=5))

    assert scores(few).tolist() == pytest.approx([0.5 + index / 200 for index in range(49, 42, -1)])
    assert len(candidates) == 5


def test_boxes_of_classes_that_are_not_kept_neither_suppress_nor_displace_others() -> None:
    only_b = Selection(classes=np.array([1]))
    output = ultralytics(
        (20, 20, 10, 10, 0.9, 0, 0), (21, 20, 10, 10, 0, 0.7, 0), (40, 40, 10, 10, 0, 0, 0.8)
    )
    rules = replace(RULES, class_agnostic_nms=True, max_candidates=1, max_detections=1)

    detections = read(output, rules, selection=only_b)

    assert class_ids(read(output, rules)).tolist() == [0]
    assert class_ids(detections).tolist() == [1]
    np.testing.assert_allclose(detections.xyxy, [[16, 15, 26, 25]], atol=1e-4)


def test_objects_outside_of_the_region_displace_none_inside_of_it() -> None:
    right_half = Selection(region=np.array([[0.5, 1, 1, 0.5], [0, 0, 1, 1]]))
    output = ultralytics(
        (10, 20, 10, 10, 0.9, 0, 0), (31, 20, 10, 10, 0.8, 0, 0), (33, 20, 10, 10, 0.7, 0, 0)
    )

    wide = read(output, replace(RULES, iou_threshold=1.0, max_detections=1), selection=right_half)
    narrow = read(output, replace(RULES, iou_threshold=0.3), selection=right_half)

    np.testing.assert_allclose(wide.xyxy, [[28, 15, 38, 25]], atol=1e-4)
    assert len(narrow) == 0, "the better box of the object on the edge is outside"


@pytest.mark.parametrize(("kept", "expected"), [([0, 2], [2]), ([0, 1, 2], [1, 2]), ([0], [0]), ([], [1, 2])])
def test_a_picture_is_of_one_of_the_kept_classes(kept: list[int], expected: list[int]) -> None:
    of = replace(manifest(), task="classify")
    scores_of_all = np.array([[0.1, 0.5, 0.4]], np.float32)

    found = findings_of(
        [scores_of_all],
        fit(64, 64, of),
        manifest=of,
        rules=RULES,
        selection=Selection(classes=np.array(kept, np.int64)),
    )

    assert isinstance(found, sv.Classifications)
    assert found.class_id.tolist() == expected


def test_what_is_no_number_is_no_detection() -> None:
    output = ultralytics(
        (np.nan, 10, 8, 8, 0.9, 0, 0),
        (10, 10, np.inf, 8, np.nan, 0, 0),
        (10, 10, -5, 8, 0.9, 0, 0),
        (10, 10, 0, 8, 0.9, 0, 0),
        (30, 30, 8, 8, 0.9, 0, 0),
    )

    detections = read(output)

    np.testing.assert_allclose(detections.xyxy, [[26, 26, 34, 34]], atol=1e-4)


def test_an_empty_scene_is_an_empty_value() -> None:
    detections = read(ultralytics((10, 10, 8, 8, 0.1, 0, 0)))

    assert len(detections) == 0
    assert scores(detections).shape == class_ids(detections).shape == (0,)


def test_yolox_is_read_as_its_own_code_reads_it() -> None:
    chance = np.random.default_rng(5)
    of = manifest("yolox", 96, 64)
    points = [(x, y, s) for s in (8, 16, 32) for y in range(64 // s) for x in range(96 // s)]
    raw = chance.normal(0, 0.3, (1, len(points), 8)).astype(np.float32)
    raw[..., 4:] = chance.uniform(0, 1, (1, len(points), 4)) ** 2
    rules = PostProcessing(confidence=0.2, iou_threshold=1.0, max_detections=1000)

    detections = decode([raw], fit(192, 128, of), manifest=of, rules=rules)

    expected = []
    for (x, y, stride), row in zip(points, raw[0].tolist(), strict=True):
        score, class_id = max((row[4] * row[5 + index], index) for index in range(3))
        if score >= 0.2:
            centre = ((row[0] + x) * stride * 2, (row[1] + y) * stride * 2)
            half = (np.exp(row[2]) * stride, np.exp(row[3]) * stride)
            box = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
            x1, y1, x2, y2 = np.clip(box, 0, [192, 128, 192, 128])
            if x1 < x2 and y1 < y2:
                expected.append([score, class_id, x1, y1, x2, y2])
    expected.sort(key=lambda row: -row[0])
    came = np.column_stack([scores(detections), class_ids(detections), detections.xyxy])
    assert len(expected) > 10
    np.testing.assert_allclose(came, expected, atol=1e-3)


def test_what_the_pipeline_does_not_say_the_device_says() -> None:
    spec = PipelineSpec(
        model=ModelRef("m", "0" * 64), sources=(SourceSpec(0),), confidence=0.0, class_agnostic_nms=False
    )
    defaults = PostProcessing(
        confidence=0.7, iou_threshold=0.6, class_agnostic_nms=True, max_candidates=10, max_detections=5
    )

    assert post_processing(spec, defaults) == PostProcessing(
        confidence=0.0, iou_threshold=0.6, class_agnostic_nms=False, max_candidates=10, max_detections=5
    )


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (37, 91), (1920, 1080), (5, 300), (1000, 1)])
@pytest.mark.parametrize("family", ["ultralytics", "yolox"])
def test_a_point_of_the_frame_comes_back_from_the_input(family: Family, size: tuple[int, int]) -> None:
    geometry = fit(*size, manifest(family, 96, 64))

    corners = np.array(
        [[geometry.left, geometry.top, geometry.left + geometry.width, geometry.top + geometry.height]],
        np.float32,
    )
    came = geometry.to_frame(corners)

    # The picture is rounded to whole pixels of the input, and one of those is 1 / scale pixels of the frame.
    np.testing.assert_allclose(came, [[0, 0, *size]], atol=1.01 / geometry.scale)
    assert geometry.left + geometry.width <= 96
    assert geometry.top + geometry.height <= 64


def test_ultralytics_gets_rgb_in_the_middle() -> None:
    pixels = np.full((1, 3, 64, 64), 7, np.uint8)
    image = np.empty((32, 64, 3), np.uint8)
    image[:] = (0, 51, 255)  # blue, green, red

    geometry = Letterbox(manifest()).write(ArrayPicture(image), pixels)

    assert (geometry.left, geometry.top, geometry.width, geometry.height) == (0, 16, 64, 32)
    for channel, value in enumerate((255, 51, 0)):
        assert set(pixels[0, channel, 16:48].flat) == {value}
    assert set(pixels[0, :, :16].flat) == set(pixels[0, :, 48:].flat) == {114}


def test_each_side_of_a_frame_has_the_scale_to_which_it_was_rounded() -> None:
    geometry = fit(501, 333, manifest(width=416, height=256))

    assert (geometry.left, geometry.top, geometry.width, geometry.height) == (15, 0, 385, 256)
    frame = geometry.to_frame(np.array([[15, 0, 400, 256]], np.float32))
    np.testing.assert_allclose(frame, [[0, 0, 501, 333]], rtol=1e-6)


def test_yolox_gets_bgr_at_the_top_left() -> None:
    pixels = np.full((1, 3, 64, 64), 7, np.uint8)
    image = np.empty((64, 32, 3), np.uint8)
    image[:] = (1, 2, 3)

    Letterbox(manifest("yolox")).write(ArrayPicture(image), pixels)

    for channel in range(3):
        assert set(pixels[0, channel, :, :32].flat) == {channel + 1}
    assert set(pixels[0, :, :, 32:].flat) == {114}


def test_a_source_that_changes_its_size_leaves_no_trace_of_the_old_one() -> None:
    letterbox, pixels = Letterbox(manifest()), np.zeros((1, 3, 64, 64), np.uint8)
    white = np.full((64, 64, 3), 255, np.uint8)

    letterbox.write(ArrayPicture(white), pixels)
    letterbox.write(ArrayPicture(white[:32]), pixels)
    first = pixels.copy()
    letterbox.write(ArrayPicture(white[:, :32]), pixels)

    assert set(first[0, 0, :16].flat) == {114}
    assert set(pixels[0, 0, :, :16].flat) == {114}
    assert set(pixels[0, 0, :, 16:48].flat) == {255}


# families -------------------------------------------------------------------------------------------------


def of_family(
    family: Family, output: np.ndarray, rules: PostProcessing = RULES, size: tuple[int, int] = (64, 64)
) -> sv.Detections:
    return decode([output], fit(*size, manifest(family)), manifest=manifest(family), rules=rules)


def test_an_end_to_end_model_is_read_without_suppression() -> None:
    boxes = np.array([[[10, 20, 30, 40, 0.6, 1], [11, 20, 31, 40, 0.9, 1], [0, 0, 0, 0, 0, 0]]], np.float32)

    detections = of_family("end2end", boxes)

    np.testing.assert_allclose(detections.xyxy, [[11, 20, 31, 40], [10, 20, 30, 40]])
    np.testing.assert_allclose(scores(detections), [0.9, 0.6])
    assert class_ids(detections).tolist() == [1, 1]
    assert len(of_family("end2end", boxes, replace(RULES, max_detections=1))) == 1
    assert len(of_family("end2end", boxes, replace(RULES, confidence=0.0))) == 2


def test_boxes_of_an_end_to_end_model_come_in_pixels_of_the_frame() -> None:
    # 128 x 64 into 64 x 64: half the size, 16 rows of margin above.
    boxes = np.array([[[10, 20, 30, 40, 0.9, 2], [-5, 4, 99, 60, 0.8, 0]]], np.float32)

    detections = of_family("end2end", boxes, size=(128, 64))

    np.testing.assert_allclose(detections.xyxy, [[20, 8, 60, 48], [0, 0, 128, 64]])


def test_what_no_box_is_has_no_place_and_no_score_is_above_one() -> None:
    odd = [[1, 1, 9, 9, np.nan, 0], [1, 1, 9, 9, 0.9, 3], [1, 1, 9, 9, 0.9, np.nan], [1, 1, 9, 9, 0.9, -1]]
    boxes = np.array([[*odd, [1, 1, np.nan, 9, 0.9, 0], [1, 1, 9, 9, 1.004, 2]]], np.float32)

    detections = of_family("end2end", boxes)

    assert class_ids(detections).tolist() == [2]
    assert scores(detections).tolist() == [1.0]


@pytest.mark.parametrize("family", ["yolov5", "yolox-decoded"])
def test_rows_in_pixels_are_read_as_they_stand(family: Family) -> None:
    boxes = np.array([[[20, 30, 10, 20, 0.9, 0.1, 0.8, 0], [40, 40, 8, 8, 0.3, 1, 0, 0]]], np.float32)

    detections = of_family(family, boxes)

    np.testing.assert_allclose(detections.xyxy, [[15, 20, 25, 40]])
    np.testing.assert_allclose(scores(detections), [0.72])
    assert class_ids(detections).tolist() == [1]


@pytest.mark.parametrize(
    ("family", "alike"), [("end2end", "ultralytics"), ("yolov5", "ultralytics"), ("yolox-decoded", "yolox")]
)
def test_a_picture_is_fitted_as_the_family_was_trained(family: Family, alike: Family) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    slots = [np.zeros((1, 3, 64, 64), np.uint8) for _ in range(2)]

    geometries = [
        Letterbox(manifest(name)).write(ArrayPicture(image), pixels)
        for name, pixels in zip((family, alike), slots, strict=True)
    ]

    assert geometries[0] == geometries[1]
    np.testing.assert_array_equal(slots[0], slots[1])


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("family", ["ultralytics", "end2end", "yolov5", "yolox", "yolox-decoded"])
def test_a_crowded_output_gives_what_a_plain_loop_finds(family: Family, agnostic: bool) -> None:
    chance = np.random.default_rng(11)
    rules = PostProcessing(
        confidence=0.3, iou_threshold=0.4, class_agnostic_nms=agnostic, max_candidates=60, max_detections=25
    )
    rows = crowded(family, chance)
    output = rows.T[None] if family == "ultralytics" else rows[None]

    detections = of_family(family, np.ascontiguousarray(output), rules, (128, 96))

    expected = plainly_read(rows.tolist(), family, rules, (128, 96))
    came = np.column_stack([scores(detections), class_ids(detections), detections.xyxy])
    assert len(expected) > 10
    np.testing.assert_allclose(came, expected, atol=1e-3)
    assert detections.xyxy.flags.c_contiguous


def crowded(family: Family, chance: np.random.Generator) -> np.ndarray:
    """Rows of an output with hundreds of confident boxes, many of them over each other."""
    count = 8 * 8 + 4 * 4 + 2 * 2 if family == "yolox" else 300
    boxes = np.hstack([chance.uniform(8, 56, (count, 2)), chance.uniform(4, 20, (count, 2))])
    likely = chance.uniform(0, 1, (count, 4))
    if family == "end2end":
        boxes[:, 2:] += boxes[:, :2]
        rows = np.column_stack([boxes, likely[:, 0], chance.integers(0, 3, count)])
    elif family == "ultralytics":
        rows = np.hstack([boxes, likely[:, 1:]])
    else:
        if family == "yolox":
            boxes = chance.normal(0, 0.3, (count, 4))
        rows = np.hstack([boxes, likely**0.5])
    return rows.astype(np.float32)


def plainly_read(
    rows: list[list[float]], family: Family, rules: PostProcessing, size: tuple[int, int]
) -> list[list[float]]:
    """Score, class, x1, y1, x2, y2 of each detection."""
    points = [(x, y, s) for s in (8, 16, 32) for y in range(64 // s) for x in range(64 // s)]
    found = []
    for at, (first, second, third, fourth, *rest) in enumerate(rows):
        box = [first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2]
        if family == "end2end":
            score, kind, box = rest[0], int(rest[1]), [first, second, third, fourth]
        elif family == "ultralytics":
            score, kind = max((each, -index) for index, each in enumerate(rest))
        else:
            score, kind = max((rest[0] * each, -index) for index, each in enumerate(rest[1:]))
        if family == "yolox":
            x, y, stride = points[at]
            centre, half = (
                ((first + x) * stride, (second + y) * stride),
                (np.exp(third) * stride / 2, np.exp(fourth) * stride / 2),
            )
            box = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
        if score >= rules.confidence:
            found.append([score, abs(kind), *box])
    found = sorted(found, key=lambda one: -one[0])
    kept: list[list[float]] = []
    for one in found[: rules.max_candidates]:
        rivals = [other for other in kept if rules.class_agnostic_nms or other[1] == one[1]]
        if family == "end2end" or all(overlap(one, other) <= rules.iou_threshold for other in rivals):
            kept.append(one)
    clipped = [[*one[:2], *in_frame(one[2:], family, size)] for one in kept]
    return [one for one in clipped if one[2] < one[4] and one[3] < one[5]][: rules.max_detections]


def in_frame(box: list[float], family: Family, size: tuple[int, int]) -> list[float]:
    """Convert a box of the input, 64 x 64, to the frame, 128 x 96: half the size, maybe 8 rows of margin."""
    top = 0 if family.startswith("yolox") else 8
    corners = [box[0] * 2, (box[1] - top) * 2, box[2] * 2, (box[3] - top) * 2]
    return [min(max(corner, 0), size[at % 2]) for at, corner in enumerate(corners)]


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union."""
    sides = [min(one[at + 2], other[at + 2]) - max(one[at], other[at]) for at in (2, 3)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(each[4] - each[2]) * (each[5] - each[3]) for each in (one, other)]
    return shared / (sum(areas) - shared)
