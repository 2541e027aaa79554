"""Which decoder decodes what, and its command line."""

from __future__ import annotations

import pytest

from streamfleet_worker.video.hardware.pipelines import Decoder, Scaling, candidates, is_supported


def test_the_command_of_a_jetson_reads_packets_and_writes_pictures() -> None:
    decoder = candidates("nv", "hevc")[0]

    assert " ".join(decoder.command("gst-launch-1.0", 7)) == (
        "gst-launch-1.0 -q fdsrc fd=0 blocksize=65536 ! gdpdepay ! h265parse ! nvv4l2decoder ! nvvidconv"
        " ! video/x-raw,format=I420 ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 ! gdppay"
        " ! fdsink fd=7"
    )
    assert decoder.media_type == "video/x-h265, stream-format=(string)byte-stream, alignment=(string)au"
    assert decoder.needs == (
        *("nvv4l2decoder", "nvvidconv", "h265parse", "fdsrc", "gdpdepay", "gdppay", "fdsink", "queue"),
    )
    assert str(decoder) == "nv (nvv4l2decoder)"


@pytest.mark.parametrize(
    ("kind", "number", "part"),
    [
        (
            *("nv", 0),
            "nvv4l2decoder ! nvvidconv interpolation-method=1 ! video/x-raw,format=I420,width=640,height=360",
        ),
        (
            *("nv", 1),
            "nvh264dec ! cudascale ! cudadownload ! video/x-raw,format=NV12,width=640,height=360",
        ),
        ("va", 0, "vah264dec ! vapostproc ! video/x-raw,format=NV12,width=640,height=360"),
        ("va", 1, "vaapih264dec ! vaapipostproc ! video/x-raw,format=NV12,width=640,height=360"),
        (
            *("gst", 0),
            "avdec_h264 ! videoscale add-borders=false ! video/x-raw,format=I420,width=640,height=360",
        ),
    ],
)
def test_pictures_are_scaled_where_they_are_decoded(kind: str, number: int, part: str) -> None:
    decoder = candidates(kind, "h264")[number]  # type: ignore[arg-type]

    command = decoder.command("gst-launch-1.0", 7, Scaling(decoder.scaler, 640, 360))

    assert f" ! {part} ! queue " in " ".join(command)


@pytest.mark.parametrize(
    ("kind", "codec", "elements"),
    [
        ("nv", "h264", ["nvv4l2decoder", "nvh264dec"]),
        ("nv", "hevc", ["nvv4l2decoder", "nvh265dec"]),
        ("va", "h264", ["vah264dec", "vaapih264dec"]),
        ("va", "hevc", ["vah265dec", "vaapih265dec"]),
        ("gst", "h264", ["avdec_h264"]),
        ("gst", "hevc", ["avdec_h265"]),
        ("nv", "av1", ["nvv4l2decoder", "nvav1dec"]),
        ("va", "av1", ["vaav1dec", "vaapiav1dec"]),
        ("gst", "av1", ["dav1ddec", "av1dec"]),
        ("nv", "mjpeg", []),
        ("va", "vp9", []),
    ],
)
def test_a_kind_of_hardware_has_these_decoders(kind: str, codec: str, elements: list[str]) -> None:
    found = candidates(kind, codec)  # type: ignore[arg-type]

    assert [decoder.element for decoder in found] == elements
    assert all(isinstance(decoder, Decoder) for decoder in found)


def test_hardware_decodes_pictures_of_8_bits_with_halved_colours() -> None:
    assert [
        each for each in ("yuv420p", "yuvj420p", "yuv420p10le", "yuv444p", None) if is_supported(each)
    ] == [*("yuv420p", "yuvj420p", None)]
