"""Which decoder a source gets, and what is said of it."""

from __future__ import annotations

import logging

import pytest

from streamfleet_core.protocol.values import DecoderChoice
from streamfleet_worker.video.hardware import choice, elements
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.hardware.faults import DecoderFailed
from streamfleet_worker.video.hardware.pipelines import LAUNCH, Scaling, candidates

JETSON = ("nvv4l2decoder", "nvvidconv")
FRAMING = ("fdsrc", "gdpdepay", "gdppay", "fdsink", "queue", "h264parse", "h265parse")


class Said:
    """What was said, and the choice that said it."""

    def __init__(self, wanted: DecoderChoice, *there: str) -> None:
        self.said: list[tuple[str, str]] = []
        self.decoders = Decoders(
            wanted,
            shown="door",
            on_change=lambda decoder, note: self.said.append((decoder, note)),
            has_element=lambda name: name in (*there, *FRAMING),
        )

    def choose(self, codec: str = "h264", pix_fmt: str = "yuv420p") -> str | None:
        decoder = self.decoders.choose(codec, pix_fmt)
        return None if decoder is None else str(decoder)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """GStreamer, whether or not it is here."""
    monkeypatch.setattr(elements, "program", lambda name: f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("auto", JETSON, "nv (nvv4l2decoder)"),
        ("auto", ("nvh264dec", "vah264dec"), "nv (nvh264dec)"),
        ("auto", ("vah264dec",), "va (vah264dec)"),
        ("auto", ("vaapih264dec",), "va (vaapih264dec)"),
        ("auto", ("avdec_h264",), None),
        ("auto", ("nvv4l2decoder",), None),  # without the element that copies its pictures
        ("va", JETSON, None),
        ("gst", ("avdec_h264",), "gst (avdec_h264)"),
        ("software", JETSON, None),
    ],
)
def test_the_first_decoder_that_is_there_is_chosen(
    wanted: DecoderChoice, there: tuple[str, ...], chosen: str | None
) -> None:
    choosing = Said(wanted, *there)

    assert choosing.choose() == chosen
    assert [decoder for decoder, _ in choosing.said] == [chosen or "software"]


@pytest.mark.parametrize(
    ("wanted", "codec", "pix_fmt", "note"),
    [
        ("nv", "mjpeg", "yuvj420p", "nv does not decode mjpeg"),
        ("nv", "h264", "yuv420p10le", "nv does not decode h264 of yuv420p10le"),
        ("va", "h264", "yuv420p", "GStreamer has no element vah264dec or vaapih264dec"),
        ("auto", "mjpeg", "yuvj420p", ""),
        ("auto", "h264", "yuv420p", ""),
        ("software", "h264", "yuv420p", ""),
    ],
)
def test_software_says_why_unless_nothing_else_was_wanted(
    wanted: DecoderChoice, codec: str, pix_fmt: str, note: str, caplog: pytest.LogCaptureFixture
) -> None:
    choosing = Said(wanted)

    assert choosing.choose(codec, pix_fmt) is None
    assert choosing.said == [("software", note)]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == (
        [f"door: decoded by software: {note}"] if note else []
    )


def test_a_machine_without_gstreamer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "program", lambda _: None)
    choosing = Said("nv", *JETSON)

    assert choosing.choose() is None
    assert choosing.said == [("software", f"{LAUNCH} is not installed")]


def test_a_decoder_that_failed_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    choosing = Said("auto", *JETSON, "vah264dec")
    first = choosing.decoders.choose("h264", "yuv420p")
    assert first is not None

    assert not choosing.decoders.failed(
        first, DecoderFailed("exited", "ended with code 1"), worked=False, scaled=False
    )
    assert choosing.choose() == "va (vah264dec)"
    monkeypatch.setattr(choice, "FORGOTTEN", 0.0)
    assert choosing.choose() == "nv (nvv4l2decoder)"

    assert choosing.said == [
        ("nv (nvv4l2decoder)", ""),
        ("software", "nv (nvv4l2decoder) ended with code 1"),
        ("va (vah264dec)", ""),
        ("nv (nvv4l2decoder)", ""),
    ]


def test_a_decoder_that_worked_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    choosing = Said("gst", "avdec_h264")
    decoder = choosing.decoders.choose("h264", "yuv420p")
    assert decoder is not None

    again = choosing.decoders.failed(
        decoder, DecoderFailed("killed", "was killed by SIGKILL"), worked=True, scaled=False
    )

    assert again
    assert choosing.said[-1] == ("gst (avdec_h264)", "gst (avdec_h264) was killed by SIGKILL; started again")
    assert caplog.messages == ["door: gst (avdec_h264) was killed by SIGKILL; started again"]


# scaling


def smaller(wanted: DecoderChoice = "va", *there: str, size: tuple[int, int] = (640, 359)) -> Decoders:
    """Decoders of a machine with these elements, for a camera of which this size is needed."""
    return Decoders(wanted, needed_size=lambda *_: size, has_element=lambda name: name in there)


def test_pictures_are_scaled_to_what_is_needed_and_even() -> None:
    [decoder, _] = candidates("va", "h264")
    decoders = smaller("va", "vapostproc")

    scaling = decoders.scaling(decoder, 1920, 1080, sideways=False)

    assert scaling == Scaling(("vapostproc",), 640, 360)


def test_pictures_that_are_rotated_later_are_scaled_before() -> None:
    asked: list[tuple[int, int]] = []

    def needed(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return 361, 640

    decoders = Decoders("va", needed_size=needed, has_element=lambda _: True)
    scaling = decoders.scaling(candidates("va", "h264")[0], 1920, 1080, sideways=True)

    assert asked == [(1080, 1920)]
    assert scaling == Scaling(("vapostproc",), 640, 362)


@pytest.mark.parametrize(
    ("there", "size", "source"),
    [
        ((), (640, 360), (1920, 1080)),  # no scaler
        (("vapostproc",), (640, 360), (640, 360)),
        (("vapostproc",), (640, 640), (320, 320)),
        (("vapostproc",), (640, 360), (0, 0)),  # it does not tell its size
        (("vapostproc",), None, (1920, 1080)),  # they are needed as they are
    ],
)
def test_other_pictures_are_not_scaled(
    there: tuple[str, ...], size: tuple[int, int] | None, source: tuple[int, int]
) -> None:
    decoders = Decoders("va", needed_size=lambda *_: size, has_element=lambda name: name in there)

    assert decoders.scaling(candidates("va", "h264")[0], *source, sideways=False) is None


def test_a_scaler_that_fails_is_left_out_and_the_decoder_is_kept() -> None:
    [decoder, _] = candidates("va", "h264")
    decoders = smaller("va", "vapostproc")
    failure = DecoderFailed("refused", "GStreamer says: not negotiated")

    again = decoders.failed(decoder, failure, worked=False, scaled=True)

    assert again
    assert decoders.scaling(decoder, 1920, 1080, sideways=False) is None
    assert not decoders.failed(decoder, failure, worked=False, scaled=False)


def test_a_decoder_that_hangs_is_not_waited_for_again_without_its_scaler() -> None:
    [decoder, _] = candidates("va", "h264")
    failure = DecoderFailed("stalled", "delivered no picture for 8 s")

    assert not smaller("va", "vapostproc").failed(decoder, failure, worked=False, scaled=True)
