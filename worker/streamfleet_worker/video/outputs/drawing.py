"""Draws findings into pictures with supervision's annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from streamfleet_core.protocol.values import Region
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS, Findings, data_of
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.frame import Image

COLOURS = sv.ColorPalette.DEFAULT

_AT_ONCE = 32  # masks that are as large as the picture at the same time: they need memory
_FARTHEST = 10_000  # pixels from the upper left corner, of what is drawn
_LEAST_CONFIDENCE = 0.5  # of a key point that is drawn
_SKELETON = 17  # key points of a person in COCO, whose edges are known
_BONES = sv.Color.from_hex("#f5f5f5")
_REGION = sv.Color.from_hex("#ffd23f")
_JOINTS = sv.Color.from_hex("#ff3d7f")
_MOST_CLASSES = 3  # of a picture that are written into it


def draw_findings(
    picture: Image,
    findings: Findings,
    labels: Sequence[str],
    *,
    text_scale: float,
    notes: Mapping[int, str] | None = None,
) -> Image:
    """Draw findings in pixels of the picture into it. It is changed, and returned.

    `notes`: what the caption of an object says besides, by its index.
    """
    if isinstance(findings, sv.Classifications):
        return draw_classes(picture, class_captions(findings, labels), text_scale=text_scale)
    if not len(findings):
        return picture
    backwards = findings[::-1]  # the most confident is drawn last, so that its label stays visible
    assert isinstance(backwards, sv.Detections)
    picture = draw_shapes(picture, backwards)
    if data_of(backwards, CORNERS) is None:
        picture = sv.BoxAnnotator(color=COLOURS, thickness=2).annotate(picture, backwards)
    labeller = sv.LabelAnnotator(color=COLOURS, text_scale=text_scale, text_padding=3)
    texts = captions(findings, labels)
    for index, note in (notes or {}).items():
        texts[index] += f" {note}"
    return labeller.annotate(picture, backwards, labels=texts[::-1])


def draw_region(picture: Image, region: Region) -> Image:
    """Draw the outline of a region into the picture. It is changed, and returned."""
    height, width = picture.shape[:2]
    corners = np.rint(np.array(region) * [width - 1, height - 1]).astype(np.int32)
    cv2.polylines(picture, [corners], True, _REGION.as_bgr(), 1, cv2.LINE_AA)
    return picture


def draw_shapes(picture: Image, detections: sv.Detections) -> Image:
    """Draw masks, oriented boxes and key points, whichever detections have, into the picture.

    The corners of oriented boxes are limited to what can be drawn.
    """
    corners = data_of(detections, CORNERS)
    masks, keypoints = data_of(detections, MASKS), data_of(detections, KEYPOINTS)
    if masks is not None:
        picture = _draw_masks(picture, detections, masks)
    if corners is not None:
        detections.data[CORNERS] = np.clip(np.nan_to_num(corners), -_FARTHEST, _FARTHEST)
        picture = sv.OrientedBoxAnnotator(color=COLOURS, thickness=2).annotate(picture, detections)
    if keypoints is not None:
        picture = _draw_keypoints(picture, keypoints)
    return picture


def draw_classes(picture: Image, texts: Sequence[str], *, text_scale: float) -> Image:
    """Write texts into the upper left corner, one below the other."""
    size, _ = cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, text_scale, 1)
    height = size[1] + 8
    for row, text in enumerate(texts):
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, text_scale, 1)
        middle = sv.Point(x=width // 2 + 6, y=(row + 0.5) * height + 2)
        picture = sv.draw_text(
            picture,
            text,
            middle,
            text_color=sv.Color.WHITE,
            text_scale=text_scale,
            text_padding=4,
            background_color=sv.Color.BLACK,
        )
    return picture


def captions(detections: sv.Detections, labels: Sequence[str]) -> list[str]:
    """The caption of each box: class, confidence, and tracker id."""
    assert detections.confidence is not None
    assert detections.class_id is not None
    texts = [
        f"{labels[number]} {confidence:.2f}"
        for number, confidence in zip(
            detections.class_id.tolist(), detections.confidence.tolist(), strict=True
        )
    ]
    if detections.tracker_id is None:
        return texts
    return [f"{text} #{name}" for text, name in zip(texts, detections.tracker_id.tolist(), strict=True)]


def class_captions(found: sv.Classifications, labels: Sequence[str]) -> list[str]:
    """The captions of the most confident classes of a picture."""
    assert found.confidence is not None
    best = zip(found.class_id.tolist(), found.confidence.tolist(), strict=True)
    return [f"{labels[number]} {confidence:.2f}" for number, confidence in best][:_MOST_CLASSES]


def _draw_masks(picture: Image, detections: sv.Detections, masks: npt.NDArray[np.object_]) -> Image:
    annotator = sv.MaskAnnotator(color=COLOURS)
    for first in range(0, len(masks), _AT_ONCE):
        some = detections[first : first + _AT_ONCE]
        assert isinstance(some, sv.Detections)
        dense = np.zeros((len(some), *picture.shape[:2]), np.bool_)
        for whole, mask in zip(dense, masks[first : first + _AT_ONCE], strict=True):
            _put(mask, whole)
        some.mask = dense
        picture = annotator.annotate(picture, some)
    return picture


def _put(mask: BoxMask, whole: npt.NDArray[np.bool_]) -> None:
    """Put a mask into the whole picture (height, width); what lies outside of it is cut off."""
    top, left = max(0, mask.top), max(0, mask.left)
    part = whole[top : mask.top + mask.bits.shape[0], left : mask.left + mask.bits.shape[1]]
    part[:] = mask.bits[top - mask.top :, left - mask.left :][: part.shape[0], : part.shape[1]]


def _draw_keypoints(picture: Image, keypoints: npt.NDArray[np.float32]) -> Image:
    places = np.clip(np.nan_to_num(keypoints[:, :, :2]), -_FARTHEST, _FARTHEST)
    found = sv.KeyPoints(xy=places, visible=keypoints[:, :, 2] >= _LEAST_CONFIDENCE)
    if keypoints.shape[1] == _SKELETON:
        picture = sv.EdgeAnnotator(color=_BONES, thickness=2).annotate(picture, found)
    return sv.VertexAnnotator(color=_JOINTS, radius=3).annotate(picture, found)
