"""Pictures in the format of their decoder: what they show whole and scaled, in which threads, and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image
import pytest
from av.video.reformatter import ColorRange, Colorspace

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.array_picture import smoothed
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.sources.decoded_picture import Converter, Converters, DecodedPicture
from streamfleet_worker.video.sources.freeze_detector import checksum
from streamfleet_worker.video.sources.open_source import open_source, quiet_libraries
from streamfleet_worker.video.synthetic.conveyor import draw
from tests.fakes.conversions import recorded_conversions
from tests.fakes.patience import PATIENCE

FRAMES = 12
X264 = ("libx264", {"crf": "1", "bf": "0", "preset": "ultrafast"})
MJPEG = ("mjpeg", {"qmin": "1", "qmax": "2"})
FFV1: tuple[str, dict[str, str]] = ("ffv1", {})
RAW: tuple[str, dict[str, str]] = ("rawvideo", {})


@lru_cache(maxsize=4 * FRAMES)
def scene(index: int, size: tuple[int, int]) -> Image:
    """A coloured scene, (height, width, 3) BGR."""
    image: Image = cv2.resize(draw(1, 1 + index), size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return image


def film_of(
    path: Path,
    codec: tuple[str, dict[str, str]],
    pix_fmt: str,
    *,
    frames: int = 2,
    size: tuple[int, int] = (640, 480),
    rotation: int = 0,
    colorspace: Colorspace | None = None,
    color_range: ColorRange | None = None,
) -> Path:
    """Write a film of the scene; with a colour space or range, its pixels have it and its header says so."""
    name, options = codec
    with av.open(str(path), "w") as film:
        stream = film.add_stream(name, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(scene(index, size), "bgr24").reformat(
                format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range
            )
            picture.pts = index
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))
    return path


def pictures_of(path: Path, **properties: float) -> Iterator[Picture]:
    quiet_libraries()
    capture = open_source(SourceSpec(str(path), properties=properties), 1)
    while capture.grab():
        picture = capture.retrieve()
        assert picture is not None
        yield picture
    capture.close()


def resized(image: Image, width: int, height: int) -> Image:
    scaled: Image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return scaled


def former(picture: Picture, width: int, height: int) -> Image:
    """The picture in a size as it was made before: the whole one is converted, and then scaled."""
    return resized(picture.bgr(), width, height)


def assert_alike(one: Image, other: Image, *, mean: float, most: int) -> None:
    """Compare two pictures. `most` holds for 99 % of their values."""
    assert one.shape == other.shape
    difference = np.abs(one.astype(int) - other.astype(int))
    assert (difference.mean() <= mean, np.percentile(difference, 99) <= most) == (True, True), (
        difference.mean(),
        np.percentile(difference, 99),
    )


FORMATS = [
    ("yuv420p.mkv", X264, "yuv420p", {}),
    ("bt709.mkv", X264, "yuv420p", {"colorspace": Colorspace.ITU709}),
    ("bt601.mkv", X264, "yuv420p", {"colorspace": Colorspace.ITU601}),
    ("full709.mkv", X264, "yuv420p", {"colorspace": Colorspace.ITU709, "color_range": ColorRange.JPEG}),
    ("full.mkv", FFV1, "yuv420p", {"color_range": ColorRange.JPEG}),
    ("yuvj420p.avi", MJPEG, "yuvj420p", {}),
    ("yuvj422p.avi", MJPEG, "yuvj422p", {}),
    ("yuv422p.mkv", FFV1, "yuv422p", {}),
    ("yuv444p.mkv", FFV1, "yuv444p", {}),
    ("nv12.nut", RAW, "nv12", {}),
    ("yuv420p10.mkv", X264, "yuv420p10le", {}),
    ("yuv422p10.mkv", FFV1, "yuv422p10le", {}),
    ("gray.mkv", FFV1, "gray", {}),
    ("rgb24.nut", RAW, "rgb24", {}),
    ("gbrp.nut", RAW, "gbrp", {}),
    ("bgr24.avi", RAW, "bgr24", {}),
    ("yuyv422.avi", RAW, "yuyv422", {}),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "more"), FORMATS)
def test_a_scaled_picture_is_the_whole_one_scaled(
    tmp_path: Path, name: str, codec: tuple[str, dict[str, str]], pix_fmt: str, more: dict[str, Any]
) -> None:
    picture = next(pictures_of(film_of(tmp_path / name, codec, pix_fmt, **more)))
    original = scene(0, (640, 480))

    assert (picture.width, picture.height) == (640, 480)
    for size in ((320, 240), (416, 312), (160, 121), (128, 96)):
        image = picture.scaled(*size)
        # The chroma of neighbours, and the rounding of swscale, differ a little.
        assert_alike(image, former(picture, *size), mean=2, most=8)
        if pix_fmt != "gray":  # and the colours are those of the scene, in whatever space they were stored
            assert_alike(image, resized(original, *size), mean=3.5, most=14)


@pytest.mark.parametrize("size", [(615, 459), (321, 243), (61, 47)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_odd_sizes_are_scaled_too(tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
    picture = next(pictures_of(film_of(tmp_path / "odd.mkv", FFV1, pix_fmt, size=size)))
    width, height = size

    for scaled in ((width // 3, height // 3), (width // 2, height // 2), (width - 1, height - 1), (1, 1)):
        assert_alike(picture.scaled(*scaled), former(picture, *scaled), mean=3, most=20)


def as_pil(image: Image, width: int, height: int) -> Image:
    """The reference of classifiers, and of transformers."""
    whole = PIL.Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    scaled = np.asarray(whole.resize((width, height), PIL.Image.Resampling.BILINEAR), np.uint8)
    return scaled[..., ::-1]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "more"), FORMATS)
def test_a_smooth_picture_is_as_pil_scales_it(
    tmp_path: Path, name: str, codec: tuple[str, dict[str, str]], pix_fmt: str, more: dict[str, Any]
) -> None:
    picture = next(pictures_of(film_of(tmp_path / name, codec, pix_fmt, **more)))

    for size in ((298, 224), (64, 64)):
        assert_alike(picture.scaled(*size, smooth=True), as_pil(picture.bgr(), *size), mean=1.5, most=5)


@pytest.mark.parametrize("size", [(1920, 1080), (768, 576), (300, 200), (225, 225)])
def test_a_smooth_array_is_as_pil_scales_it(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    smooth, expected = smoothed(image, 224, 224), as_pil(image, 224, 224)

    assert_alike(smooth, expected, mean=3, most=12)
    if size[0] > 300:  # noise shows it
        assert np.abs(resized(image, 224, 224).astype(int) - expected).mean() > 20


def test_no_size_is_too_small_for_smoothing(tmp_path: Path) -> None:
    picture = next(pictures_of(film_of(tmp_path / "film.mkv", X264, "yuv420p")))

    for width, height in ((1, 1), (3, 400), (700, 2), (640, 480)):
        assert picture.scaled(width, height, smooth=True).shape == (height, width, 3)
        assert smoothed(scene(0, (640, 480)), width, height).shape == (height, width, 3)


def test_a_scaled_picture_of_a_small_one_is_enlarged_as_before(tmp_path: Path) -> None:
    picture = next(pictures_of(film_of(tmp_path / "film.mkv", X264, "yuv420p", size=(160, 120))))

    np.testing.assert_array_equal(picture.scaled(640, 480), former(picture, 640, 480))
    np.testing.assert_array_equal(picture.scaled(160, 120), picture.bgr())


@pytest.mark.parametrize(("rotation", "scaled"), [(90, (240, 320)), (180, (320, 240)), (-90, (156, 208))])
def test_a_scaled_picture_is_turned_as_its_film_says(
    tmp_path: Path, rotation: int, scaled: tuple[int, int]
) -> None:
    path = film_of(tmp_path / "turned.mp4", X264, "yuv420p", rotation=rotation)
    upright, as_it_is = next(pictures_of(path)), next(pictures_of(path, orientation_auto=0))

    assert_alike(upright.scaled(*scaled), former(upright, *scaled), mean=2, most=8)
    assert (as_it_is.width, as_it_is.height) == (640, 480)
    assert_alike(as_it_is.scaled(320, 240), former(as_it_is, 320, 240), mean=2, most=8)


def test_a_film_that_changes_its_size_is_scaled_as_if_it_had_not(tmp_path: Path) -> None:
    path = tmp_path / "film.mjpeg"
    sizes = ((320, 240), (640, 480), (160, 120), (300, 300))
    images = [cv2.imencode(".jpg", scene(0, size), [cv2.IMWRITE_JPEG_QUALITY, 100])[1] for size in sizes]
    path.write_bytes(b"".join(image.tobytes() for image in images))

    pictures = list(pictures_of(path))

    assert [(picture.width, picture.height) for picture in pictures] == [(320, 240)] * len(sizes)
    for picture in pictures:
        assert picture.bgr().shape == (240, 320, 3)
        assert_alike(picture.scaled(104, 78), resized(scene(0, (320, 240)), 104, 78), mean=9, most=40)


def test_a_picture_is_converted_in_another_thread_after_the_next_ones_and_the_end(tmp_path: Path) -> None:
    path = film_of(tmp_path / "film.mkv", X264, "yuv420p", frames=FRAMES)
    kept = list(pictures_of(path))
    whole: list[Image] = []
    small: list[Image] = []

    threads = [
        threading.Thread(target=lambda: whole.extend(picture.bgr() for picture in kept)),
        threading.Thread(target=lambda: small.extend(picture.scaled(320, 240) for picture in kept)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(kept) == FRAMES
    for index in range(FRAMES):
        original = scene(index, (640, 480))
        assert_alike(whole[index], original, mean=3.5, most=14)
        assert_alike(small[index], resized(original, 320, 240), mean=3.5, most=14)


def test_a_whole_picture_is_converted_once_and_only_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = recorded_conversions(monkeypatch)
    _, *pictures = pictures_of(film_of(tmp_path / "film.mkv", X264, "yuv420p", frames=FRAMES))
    first = converted.copy()

    sums = [checksum(picture) for picture in pictures]
    unconverted = converted.copy()
    pictures[3].scaled(320, 240)
    images = [pictures[3].bgr() for _ in range(3)]

    assert first == [(640, 480)], "only the first one, to know that FFmpeg can"
    assert unconverted == first
    assert converted == [*first, (320, 240), (640, 480)]
    assert all(image is images[0] for image in images)
    assert len(set(sums)) == len(sums)


def test_a_frame_in_bgr_is_copied_because_the_decoder_may_use_its_memory() -> None:
    image = scene(0, (64, 48))
    frame = av.VideoFrame.from_ndarray(image, "bgr24")
    picture = DecodedPicture(frame, Converters(), size=(64, 48), rotation=None)

    picture.bgr().fill(0)  # a function of the user may draw on it

    np.testing.assert_array_equal(frame.to_ndarray(), image)


@pytest.mark.parametrize(("codec", "pix_fmt"), [(X264, "yuv420p"), (FFV1, "gray"), (RAW, "rgb24")])
def test_a_checksum_is_equal_for_equal_pictures_only(
    tmp_path: Path, codec: tuple[str, dict[str, str]], pix_fmt: str
) -> None:
    path = film_of(tmp_path / "film.nut", codec, pix_fmt, frames=FRAMES)

    once, again = ([checksum(picture) for picture in pictures_of(path)] for _ in range(2))

    assert once == again
    assert len(set(once)) == FRAMES


def test_a_format_that_ffmpeg_cannot_convert_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film_of(tmp_path / "film.mkv", X264, "yuv420p")
    quiet_libraries()
    capture = open_source(SourceSpec(str(path)), 1)

    def refusing(*_: object, **__: object) -> None:
        raise ValueError("no such conversion")

    assert capture.grab()
    with monkeypatch.context() as patched:
        patched.setattr(Converter, "convert", refusing)
        assert capture.retrieve() is None
    assert capture.grab()

    assert capture.retrieve() is not None
    capture.close()


def test_scaling_takes_less_time_than_converting_the_whole_picture(tmp_path: Path) -> None:
    path = film_of(tmp_path / "film.avi", MJPEG, "yuvj420p", size=(1920, 1080), frames=FRAMES)
    first, *pictures = pictures_of(path)
    first.scaled(640, 360)
    durations: dict[str, list[float]] = {"scaled": [], "former": []}

    for picture in pictures:
        began = time.thread_time()
        picture.scaled(640, 360)
        between = time.thread_time()
        former(picture, 640, 360)
        durations["scaled"].append(between - began)
        durations["former"].append(time.thread_time() - between)

    assert np.median(durations["scaled"]) < np.median(durations["former"])
