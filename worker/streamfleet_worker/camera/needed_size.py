"""The size in which a camera process needs pictures, which a decoder may scale them to. Pure."""

from __future__ import annotations

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.outputs.preview import preview_size


def needed_size(width: int, height: int, manifest: Manifest) -> tuple[int, int]:
    """Width and height in pixels that are enough for the model and for a preview of such a picture.

    A preview may be asked for at any time. It is rarely larger than what the model gets.
    """
    geometry = fit(width, height, manifest)
    return max((geometry.width, geometry.height), preview_size(width, height))
