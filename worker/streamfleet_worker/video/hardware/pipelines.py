"""Which decoder decodes which codec, and the command line of its child program. Pure.

    fdsrc ─► gdpdepay ─► parser ─► decoder ─► scaler ─► raw pictures ─► gdppay ─► fdsink

The scaler is there if smaller pictures are enough: a picture of 1920x1080 has 3 MB, one of 640x360 has 0.3.

FFmpeg opens and reads the source, so no address and no password is on a command line, sound is never in the
way, and the errors of a source are the same for every decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

HardwareKind = Literal["nv", "va", "gst"]

LAUNCH = "gst-launch-1.0"
# By FFmpeg's name of a codec: GStreamer's media type, and the element that splits it into pictures.
_PARSED = {
    "h264": ("video/x-h264", "h264parse"),
    "hevc": ("video/x-h265", "h265parse"),
    "av1": ("video/x-av1", "av1parse"),
}
# GStreamer's decoders in software, the best one first.
_IN_SOFTWARE = {"h264": ("avdec_h264",), "hevc": ("avdec_h265",), "av1": ("dav1ddec", "av1dec")}
_FRAMING = ("fdsrc", "gdpdepay", "gdppay", "fdsink", "queue")
# Formats of pictures that every decoder here decodes: 8 bits, 4:2:0.
_FORMATS = ("yuv420p", "yuvj420p", "nv12")
_MOST_BYTES = 65_536  # read at once from the pipe


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the child scales its pictures."""

    elements: tuple[str, ...]  # with their properties
    width: int  # pixels, even
    height: int


@dataclass(frozen=True, slots=True)
class Decoder:
    """A way to decode one codec."""

    kind: HardwareKind
    codec: str  # FFmpeg's name
    element: str  # that decodes
    after: tuple[str, ...]  # elements with their properties, and formats, behind it; the last is a format
    # Elements that may stand in front of that format instead, and scale; hardware does it for nothing.
    scaler: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} ({self.element})"

    @property
    def needs(self) -> tuple[str, ...]:
        """All elements of its pipeline, the decoding one first: mostly that one is missing."""
        return (self.element, *names_of(self.after), _PARSED[self.codec][1], *_FRAMING)

    @property
    def media_type(self) -> str:
        """GStreamer's description of the packets."""
        form, alignment = ("obu-stream", "tu") if self.codec == "av1" else ("byte-stream", "au")
        return f"{_PARSED[self.codec][0]}, stream-format=(string){form}, alignment=(string){alignment}"

    def command(self, program: str, frames: int, scaling: Scaling | None = None) -> list[str]:
        """The command line of the child. `frames`: the descriptor for its pictures.

        Not its standard output: decoders of NVIDIA print there.
        """
        after = self.after
        if scaling is not None:
            size = f"width={scaling.width},height={scaling.height}"
            after = (*scaling.elements, f"{after[-1]},{size}")
        elements = (
            ("fdsrc", "fd=0", f"blocksize={_MOST_BYTES}"),
            ("gdpdepay",),
            (_PARSED[self.codec][1],),
            (self.element,),
            *(each.split() for each in after),
            # Decodes the next picture while the last one is on its way.
            ("queue", "max-size-buffers=2", "max-size-bytes=0", "max-size-time=0"),
            ("gdppay",),
            ("fdsink", f"fd={frames}"),
        )
        words = [word for element in elements for word in ("!", *element)]
        return [program, "-q", *words[1:]]


def candidates(kind: HardwareKind, codec: str) -> tuple[Decoder, ...]:
    """The decoders of a kind for a codec, the best one first. Empty if it does not decode this codec."""
    if codec not in _PARSED:
        return ()
    short = _PARSED[codec][0].removeprefix("video/x-")
    match kind:
        case "nv":
            i420, nv12 = "video/x-raw,format=I420", "video/x-raw,format=NV12"
            # Its default takes the nearest pixel.
            bilinear = ("nvvidconv interpolation-method=1",)
            jetson = Decoder(kind, codec, "nvv4l2decoder", ("nvvidconv", i420), bilinear)
            return jetson, Decoder(kind, codec, f"nv{short}dec", (nv12,), ("cudascale", "cudadownload"))
        case "va":
            nv12 = "video/x-raw,format=NV12"
            return tuple(
                Decoder(kind, codec, f"{each}{short}dec", (nv12,), (f"{each}postproc",))
                for each in ("va", "vaapi")
            )
        case "gst":
            # To test the path: on a CPU it costs more to scale a picture than to pass it on as it is.
            scaler = ("videoscale add-borders=false",)
            i420 = "video/x-raw,format=I420"
            return tuple(Decoder(kind, codec, each, (i420,), scaler) for each in _IN_SOFTWARE[codec])


def names_of(elements: Iterable[str]) -> tuple[str, ...]:
    """The elements of a part of a pipeline, without their properties and the formats between them."""
    return tuple(each.split()[0] for each in elements if "/" not in each)


def is_supported(pix_fmt: str | None) -> bool:
    """Whether decoders of hardware decode pictures of this format of FFmpeg's; None: unknown."""
    return pix_fmt is None or pix_fmt in _FORMATS
