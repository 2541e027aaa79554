"""Hardware decoding in a camera process: each source by its own decoder, and none outlives the process."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.values import Manifest, SourceSpec
from tests.fakes import gstreamer
from tests.fakes.films import FRAMES, write_film
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
