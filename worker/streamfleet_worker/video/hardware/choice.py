"""Chooses the decoder of a source, and says which one is in use.

wanted decoder ──► first one that exists, and has not failed recently ──► software

It also decides whether a decoder scales its pictures: if its scaler exists, and has not failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamfleet_core.protocol.values import DecoderChoice
from streamfleet_worker.video.hardware import elements
from streamfleet_worker.video.hardware.faults import FORGOTTEN, DecoderFailed, RestartLimit
from streamfleet_worker.video.hardware.pipelines import (
    LAUNCH,
    Decoder,
    HardwareKind,
    Scaling,
    candidates,
    is_supported,
    names_of,
)

logger = logging.getLogger(__name__)

SOFTWARE = "software"
# The smallest size that is enough for upright pictures of this width and height in pixels; None: they are
# needed as they are. The answer may change at any time.
NeededSize = Callable[[int, int], "tuple[int, int] | None"]
_KINDS: dict[DecoderChoice, tuple[HardwareKind, ...]] = {
    "auto": ("nv", "va"),
    "software": (),
    "nv": ("nv",),
    "va": ("va",),
    "gst": ("gst",),
}


class Decoders:
    """The decoders of one source. It outlives the source's connections, so that no failure is forgotten."""

    def __init__(
        self,
        wanted: DecoderChoice = "software",
        *,
        shown: str = "",
        on_change: Callable[[str, str], None] = lambda _decoder, _note: None,
        needed_size: NeededSize = lambda _width, _height: None,
        has_element: Callable[[str], bool] = elements.has_element,
    ) -> None:
        """Choose for one source.

        Args:
            shown: the source, for the log.
            on_change: called with the decoder in use, and why it is not the wanted one, or "".
            needed_size: to which size its pictures may be scaled down.
            has_element: whether GStreamer has this element.
        """
        self._wanted = wanted
        self._shown = shown
        self._on_change = on_change
        self._needed_size = needed_size
        self._has_element = has_element
        self._failed: dict[str, tuple[float, str]] = {}  # by element: monotonic seconds, and why
        self._unscaled: set[str] = set()  # elements that decode, and whose scalers have failed
        self._restarts = RestartLimit()
        self._said = ("", "")

    def choose(self, codec: str, pix_fmt: str | None) -> Decoder | None:
        """The decoder of hardware to use; None: decode with FFmpeg. `codec`, `pix_fmt`: FFmpeg's names."""
        kinds = _KINDS[self._wanted]
        if not kinds:
            self._say(SOFTWARE, "")
            return None
        possible = [each for kind in kinds for each in candidates(kind, codec)]
        if not possible or not is_supported(pix_fmt):
            found = codec if not possible else f"{codec} of {pix_fmt}"
            self._say(SOFTWARE, self._unless_auto(f"{self._wanted} does not decode {found}"))
            return None
        if elements.program(LAUNCH) is None:
            self._say(SOFTWARE, self._unless_auto(f"{LAUNCH} is not installed"))
            return None
        now, reasons = time.monotonic(), []
        for decoder in possible:
            failed_at, why = self._failed.get(decoder.element, (-FORGOTTEN, ""))
            if now - failed_at < FORGOTTEN:
                reasons.append(f"{decoder} {why}")
            elif all(map(self._has_element, decoder.needs)):
                self._say(str(decoder), "")
                return decoder
        missing = self._unless_auto(f"GStreamer has no element {' or '.join(d.element for d in possible)}")
        self._say(SOFTWARE, "; ".join(reasons) or missing)
        return None

    def scaling(self, decoder: Decoder, width: int, height: int, *, sideways: bool) -> Scaling | None:
        """How it scales pictures of this size in pixels, which are `sideways`; None: it does not."""
        if not (width and height) or decoder.element in self._unscaled:
            return None
        size = self._needed_size(*((height, width) if sideways else (width, height)))
        if size is None:
            return None
        # A scaler of hardware may refuse odd sizes.
        across, down = (side + side % 2 for side in (size[::-1] if sideways else size))
        if across >= width or down >= height:
            return None
        names = names_of(decoder.scaler)
        is_there = bool(names) and all(map(self._has_element, names))
        return Scaling(decoder.scaler, across, down) if is_there else None

    def failed(self, decoder: Decoder, failure: DecoderFailed, *, worked: bool, scaled: bool) -> bool:
        """Record a failure. Returns whether to start it again.

        Args:
            worked: it had delivered a picture.
            scaled: its pictures were scaled, which it may be unable to do.
        """
        now = time.monotonic()
        # Not one that stalls: two such waits would be too long.
        if scaled and not worked and failure.cause != "stalled":
            self._unscaled.add(decoder.element)
            note = f"{decoder} {failure}; started again without scaling"
            logger.warning("%s: %s", self._shown, note)
            self._say(str(decoder), note)
            return True
        if self._restarts.allows(now, worked=worked):
            logger.warning("%s: %s %s; started again", self._shown, decoder, failure)
            self._say(str(decoder), f"{decoder} {failure}; started again")
            return True
        self._failed[decoder.element] = (now, str(failure))
        self._say(SOFTWARE, f"{decoder} {failure}")
        return False

    def _unless_auto(self, note: str) -> str:
        return "" if self._wanted == "auto" else note

    def _say(self, decoder: str, note: str) -> None:
        if (decoder, note) == self._said:
            return
        self._said = (decoder, note)
        if note and decoder == SOFTWARE:
            logger.warning("%s: decoded by software: %s", self._shown, note)
        self._on_change(decoder, note)
