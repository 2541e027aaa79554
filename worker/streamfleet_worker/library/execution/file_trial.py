"""A model on the frames of one file, step by step: what is found, how long each step takes, a picture of it.

A picture or a film is read as a camera process reads it: any size and colour depth, upright, without alpha.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import Steps
from streamfleet_worker.library.rendering import annotated
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries

_QUALITY = 90  # of a JPEG
_GAP = 8  # pixels between two pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedFrame:
    """One frame, and what the model found in it."""

    number: int  # from 1
    document: Document  # Roboflow's dict: `image` and `predictions`
    decode: float  # seconds
    steps: Steps
    image: Image  # (height, width, 3) uint8, BGR

    def jpeg(self, beside: TriedFrame | None = None) -> bytes:
        """The frame with what was found, in its own size. `beside`: another one, on its right."""
        drawn = self.drawn()
        if beside is not None:
            gap = np.full((drawn.shape[0], _GAP, 3), 255, np.uint8)
            drawn = np.hstack([drawn, gap, beside.drawn()])
        _, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        return jpeg.tobytes()

    def drawn(self) -> Image:
        """A copy of the frame with what was found, and how sure the model is of it."""
        frame = VideoFrame(self.image, self.number, datetime.now())
        return annotated(captioned(self.document), frame, None)


def captioned(document: Document) -> Document:
    """A copy in which the class of each box has its confidence, to be written at the box."""
    captions = [_captioned(each) if "x" in each else each for each in document["predictions"]]
    return {**document, "predictions": captions}


def _captioned(prediction: dict[str, Any]) -> dict[str, Any]:
    return {**prediction, "class": f"{prediction['class']} {prediction['confidence']:.2f}"}


def try_frames(
    path: Path, find: Callable[[Picture], tuple[Document, Steps]], *, most: int
) -> Iterator[TriedFrame]:
    """Yield the first frames of a file, at most `most`; damaged ones are skipped.

    Raises: ValueError if the file has no picture; RuntimeError if the model fails.
    """
    quiet_libraries()
    number = 0
    try:
        with closing(open_source(SourceSpec(path.absolute().as_uri(), mode="file"), 1)) as capture:
            while number < most:
                began = time.perf_counter()
                if not capture.grab():
                    break
                picture = None if capture.damaged else capture.retrieve()
                if picture is None:
                    continue
                number += 1
                yield _tried(number, picture, find, began=began)
    except (SourceLost, av.FFmpegError) as exc:
        raise ValueError(str(exc)) from exc
    if not number:
        raise ValueError(f"{path}: expected a picture or a film, got no frame that can be decoded")


def _tried(
    number: int, picture: Picture, find: Callable[[Picture], tuple[Document, Steps]], *, began: float
) -> TriedFrame:
    """`began`: when decoding began. Raises: av.FFmpegError, ValueError, RuntimeError."""
    image = picture.bgr()
    decode = time.perf_counter() - began
    document, steps = find(picture)
    return TriedFrame(number=number, document=document, decode=decode, steps=steps, image=image)
