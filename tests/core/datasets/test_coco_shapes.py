"""Samples of every task as COCO: masks, corners and key points where the model saw them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import supervision as sv

from streamfleet_core.datasets.coco import Coco, file_name
from tests.fakes.found import (
    BOX,
    CLASSIFIED,
    HEIGHT,
    KEYPOINTS,
    ORIENTED,
    OUTLINED,
    RUN_LENGTHS,
    WIDTH,
    document,
    keypoint,
    points,
)
from tests.fakes.samples import picked


def annotated(found: dict[str, Any]) -> dict[str, Any]:
    """The annotation of one object."""
    _, (annotation,) = Coco().add(picked(prediction=document(found)).sample)
    return annotation


def test_a_mask_is_the_polygon_of_its_outline_with_its_area() -> None:
    annotation = annotated(OUTLINED)

    assert annotation["segmentation"] == [[16, 8, 23, 8, 23, 11, 16, 11]]
    assert (annotation["area"], annotation["bbox"]) == (21, [16, 8, 8, 4])


def test_run_lengths_are_a_list_as_in_annotations_of_coco() -> None:
    annotation = annotated(RUN_LENGTHS)

    counts = [16 * HEIGHT + 8, 4, *[HEIGHT - 4, 4] * 7, 36 + 40 * HEIGHT]
    assert annotation["segmentation"] == {"size": [HEIGHT, WIDTH], "counts": counts}
    assert (annotation["area"], annotation["iscrowd"]) == (32, 0)


def test_an_oriented_box_is_the_polygon_of_its_corners_in_the_box_around_it() -> None:
    annotation = annotated(ORIENTED)

    assert annotation["segmentation"] == [[16, 10, 20, 8, 24, 10, 20, 12]]
    assert (annotation["area"], annotation["bbox"]) == (16, [16, 8, 8, 4])


def test_an_outline_is_cut_at_the_edges_of_the_picture() -> None:
    annotation = annotated({**OUTLINED, "points": points((-5, -5), (100, -5), (100, 10.126), (-5, 10.126))})

    assert annotation["segmentation"] == [[0, 0, WIDTH, 0, WIDTH, 10.13, 0, 10.13]]


@pytest.mark.parametrize(
    "found",
    [
        BOX,
        {**OUTLINED, "points": points((16, 8), (23, 8))},
        {**RUN_LENGTHS, "rle": {"size": [HEIGHT, WIDTH], "counts": "no runs"}},
        {**RUN_LENGTHS, "rle": {"size": [1, 1], "counts": "01"}},
    ],
    ids=["none", "a line", "no runs", "of another size"],
)
def test_without_a_shape_an_object_has_the_area_of_its_box(found: dict[str, Any]) -> None:
    annotation = annotated(found)

    assert (annotation["segmentation"], annotation["area"]) == ([], 32)


def test_key_points_have_their_visibility_and_their_category_the_names() -> None:
    coco = Coco()
    seen = [
        keypoint(0, 18.256, 9.0, 0.9),
        keypoint(1, 22.0, 11.0, 0.3),
        keypoint(2, 1.0, 2.0, 0.0),
        keypoint(3, 70.0, 2.0, 0.9),  # outside of the picture
    ]

    _, (annotation,) = coco.add(picked(prediction=document({**BOX, "keypoints": seen})).sample)

    assert annotation["keypoints"] == [18.26, 9, 2, 22, 11, 1, 0, 0, 0, 0, 0, 0]
    assert annotation["num_keypoints"] == 2
    names = [f"point {number}" for number in range(4)]
    assert coco.categories() == [
        {"id": 1, "name": "bolt", "supercategory": ""},
        {"id": 2, "name": "nut", "supercategory": "", "keypoints": names, "skeleton": []},
    ]


def test_the_limbs_of_a_person_are_those_of_coco() -> None:
    coco = Coco()
    names = ("nose", "left_eye", "right_eye", "tail")
    seen = [{**keypoint(number, 1.0, 1.0), "class": name} for number, name in enumerate(names)]

    coco.add(picked(prediction=document({**BOX, "keypoints": seen})).sample)

    category = coco.categories()[1]
    assert (category["keypoints"], category["skeleton"]) == ([*names], [[2, 3], [1, 2], [1, 3]])


def test_objects_of_a_category_have_as_many_key_points_as_it_has_names() -> None:
    coco = Coco()
    coco.add(picked(prediction=document(KEYPOINTS)).sample)

    less = {**BOX, "keypoints": [keypoint(0, 18.0, 9.0)]}
    _, (annotation,) = coco.add(picked(prediction=document(less)).sample)

    assert annotation["keypoints"] == [18, 9, 2, 0, 0, 0]


def test_one_key_point_of_each_of_many_objects_does_not_become_millions() -> None:
    last = {"x": 18.0, "y": 9.0, "confidence": 0.9, "class_id": 511, "class": "toe"}
    coco = Coco()

    for _ in range(2):  # each sample has its own limit
        _, annotations = coco.add(picked(prediction=document(*[{**BOX, "keypoints": [last]}] * 2000)).sample)

        assert len(annotations) == 2000
        assert ["keypoints" in each for each in annotations] == [True] * 512 + [False] * 1488


def test_classes_of_a_picture_are_labels_of_its_image() -> None:
    coco = Coco()

    image, annotations = coco.add(picked(prediction={**document(), **CLASSIFIED}).sample)

    assert annotations == []
    assert image["labels"] == [
        {"category_id": 3, "name": "cat", "score": 0.75},
        {"category_id": 4, "name": "dog", "score": 0.25},
    ]
    assert [each["name"] for each in coco.categories()] == ["bolt", "nut", "cat", "dog"]


def test_supervision_opens_masks_of_both_kinds(tmp_path: Path) -> None:
    coco = Coco()
    item = picked(prediction=document(OUTLINED, RUN_LENGTHS))
    image, annotations = coco.add(item.sample)
    (tmp_path / file_name(item.sample)).write_bytes(item.image)
    whole = {"images": [image], "annotations": annotations, "categories": coco.categories()}
    (tmp_path / "annotations.json").write_text(json.dumps(whole))

    dataset = sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "annotations.json"))

    ((_, _, opened),) = dataset
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[8:12, 16:24] = True
    assert opened.mask is not None
    np.testing.assert_array_equal(np.asarray(opened.mask), [expected, expected])


# stages ---------------------------------------------------------------------------------------------------


def test_what_stages_find_in_an_object_belongs_to_it() -> None:
    letter = {**BOX, "x": 18.0, "width": 2.0, "class": "A"}
    colours = {**CLASSIFIED, "top": "red", "confidence": 0.9}
    coco, sample = (
        Coco(),
        picked(prediction=document({**BOX, "stages": {"text": {"predictions": [letter]}}}, BOX)),
    )

    _, annotations = coco.add(sample.sample)
    _, (classified,) = coco.add(picked(prediction=document({**BOX, "stages": {"colour": colours}})).sample)

    names = {each["id"]: (each["name"], each["supercategory"]) for each in coco.categories()}
    assert [names[each["category_id"]] for each in annotations] == [
        ("nut", ""),
        ("text/A", "text"),
        ("nut", ""),
    ]
    assert [each.get("parent_id") for each in annotations] == [None, 1, None]
    assert annotations[1]["bbox"] == [17, 8, 2, 4]
    assert classified["attributes"] == {"colour": "red"}
    assert "attributes" not in annotations[0]


def test_supervision_reads_a_dataset_with_stages(tmp_path: Path) -> None:
    letter = {**BOX, "class": "nut"}
    sample = picked(prediction=document({**BOX, "stages": {"text": {"predictions": [letter]}}})).sample
    coco = Coco()
    image, annotations = coco.add(sample)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / file_name(sample)).write_bytes(picked().image)
    (tmp_path / "annotations.json").write_text(
        json.dumps({"images": [image], "annotations": annotations, "categories": coco.categories()})
    )

    dataset = sv.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "annotations.json"))

    ((_, _, found),) = dataset
    assert found.class_id is not None
    assert [dataset.classes[number] for number in found.class_id] == ["nut", "text/nut"]


def test_an_object_of_a_stage_without_a_place_is_refused() -> None:
    nowhere = {"confidence": 0.5, "class": "A", "class_id": 0}

    with pytest.raises(msgspec.ValidationError, match="`x`"):
        picked(prediction=document({**BOX, "stages": {"text": {"predictions": [nowhere]}}}))
