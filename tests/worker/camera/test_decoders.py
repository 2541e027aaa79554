"""Hardware decoding in a camera process: each source by its own decoder, and none outlives the process."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.sampling import Random, Sampling
from streamfleet_core.protocol.values import Manifest, SourceSpec
from streamfleet_worker.camera.needed_size import needed_size
from streamfleet_worker.ipc.child_messages import Show
from streamfleet_worker.video.synthetic import test_pattern
from tests.fakes import gstreamer
from tests.fakes.fake_publisher import FakePublisher, fake_publisher
from tests.fakes.films import FRAMES, write_film
from tests.fakes.models import manifest_of
from tests.fakes.process_harness import ProcessHarness, until_ended, wait_for

pytestmark = pytest.mark.skipif(
    gstreamer.is_missing(), reason=f"there is no GStreamer here: apt-get install {gstreamer.PACKAGES}"
)


def test_each_source_is_decoded_as_it_says(stand: ProcessHarness, quick: Manifest) -> None:
    film = str(write_film(stand.folder / "film.mp4", "libx264"))
    sources = [SourceSpec(film, decoder="gst"), SourceSpec(film, decoder="nv"), SourceSpec(film)]

    report = until_ended(stand.camera(quick, sources))

    assert [source.emitted for source in report.sources] == [FRAMES] * 3
    assert [(source.decoder, source.decoder_note) for source in report.sources] == [
        ("gst (avdec_h264)", ""),
        ("software", "GStreamer has no element nvv4l2decoder or nvh264dec"),
        ("software", ""),
    ]


def test_a_camera_process_that_is_killed_leaves_no_decoder(stand: ProcessHarness, quick: Manifest) -> None:
    film = str(write_film(stand.folder / "film.mp4", "libx264"))
    camera = stand.camera(quick, [SourceSpec(film, decoder="gst", mode="live")])
    camera.until("some frames", lambda report: report.emitted >= 3)
    pid = camera.process.pid
    decoders = wait_for("a decoder", lambda: gstreamer.decoders(pid))

    camera.kill()

    wait_for("its end", lambda: not any(map(gstreamer.is_running, decoders)))


# scaling


@pytest.mark.parametrize(
    ("source", "model", "needed"),
    [
        ((1920, 1080), (640, 640), (640, 360)),
        ((1920, 1080), (1280, 1280), (1280, 720)),
        ((1920, 1080), (320, 320), (640, 360)),  # as a preview
        ((1080, 1920), (640, 640), (640, 1138)),  # as a preview
        ((320, 240), (640, 640), (640, 480)),
    ],
)
def test_the_size_that_is_needed_is_enough_for_the_model_and_for_a_preview(
    tmp_path: Path, source: tuple[int, int], model: tuple[int, int], needed: tuple[int, int]
) -> None:
    path = tmp_path / "model.onnx"
    path.touch()

    assert needed_size(*source, manifest_of(path, width=model[0], height=model[1])) == needed


def write_pattern(path: Path, frames: int) -> str:
    """The test pattern, 1920x1080, as H.264."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(test_pattern.draw(number + 1), "bgr24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))
    return str(path)


def test_predictions_of_scaled_pictures_are_in_pixels_of_the_source(
    stand: ProcessHarness, squares: Manifest
) -> None:
    film = write_pattern(stand.folder / "film.mp4", 12)
    sources = [SourceSpec(film), SourceSpec(film, decoder="gst")]

    report = until_ended(stand.camera(squares, sources))

    assert [source.decoder for source in report.sources] == ["software", "gst (avdec_h264)"]
    assert {(source.width, source.height) for source in report.sources} == {(1920, 1080)}
    documents = stand.receiver.documents
    assert {(one["image"]["width"], one["image"]["height"]) for one in documents} == {(1920, 1080)}
    whole, scaled = (
        {
            (one["inference_metadata"]["frame_id"], box["class"]): [box[key] for key in ("x", "y", "width")]
            for one in documents
            if one["inference_metadata"]["source_id"] == source_id
            for box in one["predictions"]
        }
        for source_id in (0, 1)
    )
    assert len(whole) >= 12
    assert whole.keys() == scaled.keys()
    for key, box in whole.items():
        assert box == pytest.approx(scaled[key], abs=3)


def shape_of(pictures: FakePublisher) -> tuple[int, ...]:
    """Of the next preview."""
    *_, jpeg = pictures.receive()
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.shape


def sharpness(image: np.ndarray) -> float:
    """The largest step of brightness from one column to the next."""
    return float(np.abs(np.diff(image.mean(axis=2), axis=1)).max())


def test_previews_and_samples_have_the_size_that_they_have_with_every_decoder(
    stand: ProcessHarness, squares: Manifest
) -> None:
    film = write_pattern(stand.folder / "film.mp4", 25)
    sampling = Sampling(dataset="parts", strategies=(Random(name="every", traffic_percentage=1),))
    spool = Spool(stand.folder / "samples")

    with fake_publisher(stand.picture_intake_path) as pictures:
        camera = stand.camera(squares, [SourceSpec(film, decoder="gst", mode="live")])
        camera.tell(Show(True))
        before = shape_of(pictures)
        pid = camera.process.pid
        running = wait_for("a decoder", lambda: gstreamer.decoders(pid))
        commands = [gstreamer.command_of(each) for each in running]
        camera.change(2, sampling=sampling)
        entry = wait_for("a sample", lambda: next(iter(spool.entries()), None))
        pictures.forget()
        after = shape_of(pictures)

    assert (before, after) == ((360, 640, 3), (360, 640, 3))
    assert all("width=640,height=360" in command for command in commands)
    found = spool.read(entry.dataset, entry.name)
    assert found is not None
    sample, jpeg = found
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert (sample.width, sample.height, image.shape) == (1920, 1080, (1080, 1920, 3))
    original = test_pattern.draw((sample.frame_id - 1) % 25 + 1)
    blurred = cv2.resize(cv2.resize(original, (640, 360), interpolation=cv2.INTER_AREA), (1920, 1080))
    assert sharpness(image) > 1.5 * sharpness(blurred)
    assert camera.reports[-1].sources[0].failures == 0
