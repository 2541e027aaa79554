"""Films of which packets are skipped: each is counted, and no picture lacks what it refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.sources.open_source import open_source
from streamfleet_worker.video.sources.packet_skipper import Demand, PacketSkipper
from tests.fakes.films import FPS, write_film
from tests.fakes.http_camera import HttpCamera
from tests.fakes.patience import PATIENCE
from tests.fakes.playing import Playing
from tests.fakes.process_harness import write_video

LATER = 1e9  # monotonic seconds
FRAMES, GROUP = 120, 10
TIMES = [number * 1000 // FPS for number in range(FRAMES)]  # milliseconds

PLAIN = {"bf": "0", "x264-params": "scenecut=0"}
CODECS = {
    "h264": ("libx264", {"preset": "ultrafast", "bf": "0"}),
    "h264-b": ("libx264", {"preset": "medium", "bf": "3", "x264-params": "scenecut=0"}),
    "h264-open": ("libx264", {"preset": "medium", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "mpeg4": ("mpeg4", {}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": ("mjpeg", {}),
}


@pytest.fixture(params=CODECS)
def film(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A film with a keyframe every ten frames; of MJPEG each is one."""
    codec, options = CODECS[request.param]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return write_film(
        tmp_path / "film.mkv", codec, times=TIMES, options=options, group=GROUP, pix_fmt=pix_fmt
    )


class Needs:
    """Which pictures a test needs; at first all."""

    def __init__(self) -> None:
        self.now: Demand | None = None

    def __call__(self) -> Demand | None:
        return self.now


def demand(*, due: float, exact: bool = False) -> Demand:
    return Demand(due=due, interval=LATER, check_by=LATER, exact=exact)


NONE, KEYFRAMES = demand(due=LATER), demand(due=0.0)
REST_OF_GROUP = demand(due=LATER, exact=True)


def pictures(path: Path, needs: Needs | None = None) -> Iterator[np.ndarray | None]:
    """The pictures of a film that plays like a camera; None: skipped."""
    skipper = PacketSkipper(needs) if needs is not None else None
    spec = SourceSpec(str(path), mode="live")
    with closing(open_source(spec, 1, skipper=skipper)) as capture:
        while capture.grab():
            assert not capture.damaged
            picture = capture.retrieve()
            assert (picture is None) == capture.skipped
            yield None if picture is None else picture.bgr()


def test_each_picture_that_is_not_skipped_is_as_without_skipping(film: Path) -> None:
    whole = [picture for picture in pictures(film) if picture is not None]
    plan = {40: KEYFRAMES, 65: None, 85: REST_OF_GROUP, 95: None, 104: NONE, 110: KEYFRAMES}
    needs, found = Needs(), []
    for number, picture in enumerate(pictures(film, needs)):
        needs.now = plan.get(number, needs.now)
        found.append(picture)

    shown = [picture for picture in found if picture is not None]
    assert len(whole) == len(found) == FRAMES, "each packet is counted once"
    assert 20 < len(shown) < FRAMES
    numbers = [next(at for at, one in enumerate(whole) if np.array_equal(one, each)) for each in shown]
    assert numbers == sorted(set(numbers)), "each is one of the whole film, in its order"


def test_keyframes_alone_are_decoded_and_the_rest_is_not(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", "libx264", times=TIMES, options=PLAIN, group=GROUP)
    needs = Needs()
    needs.now = KEYFRAMES

    found = [picture is not None for picture in pictures(film, needs)]

    assert [number for number, shown in enumerate(found) if shown] == [*range(40), *range(40, FRAMES, GROUP)]


def test_a_film_whose_keyframes_are_no_pictures_is_decoded(tmp_path: Path) -> None:
    options = {"bf": "0", "x264-params": "intra-refresh=1:scenecut=0"}
    film = write_film(tmp_path / "film.mkv", "libx264", times=TIMES, options=options, group=GROUP)
    needs = Needs()
    needs.now = KEYFRAMES
    spec = SourceSpec(str(film), mode="live")
    damaged = skipped = shown = 0

    with closing(open_source(spec, 1, skipper=PacketSkipper(needs))) as capture:
        while capture.grab():
            damaged, skipped = damaged + capture.damaged, skipped + capture.skipped
            shown += capture.retrieve() is not None

    assert damaged == 0
    assert skipped == GROUP
    assert shown > FRAMES - 3 * GROUP


def test_each_frame_of_a_file_is_decoded(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", "libx264", times=TIMES, group=GROUP)
    needs = Needs()
    needs.now = NONE

    with closing(open_source(SourceSpec(str(film)), 1, skipper=PacketSkipper(needs))) as capture:
        count = 0
        while capture.grab():
            assert capture.retrieve() is not None
            count += 1

    assert count == FRAMES


def test_the_reader_counts_what_was_skipped_by_its_cause(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    times = [number * 10 for number in range(FRAMES)]
    film = write_film(tmp_path / "film.mkv", "libx264", times=times, options=PLAIN, group=GROUP)
    causes: list[str | None] = [None]

    playing = play(str(film), mode="live", demand=lambda: KEYFRAMES, drop_cause=lambda _: causes[0])
    ids = playing.until(50)
    causes[0] = "muted"
    before = playing.stat.received
    wait_until = playing.began + PATIENCE
    while playing.stat.received < before + 2 * GROUP:
        assert playing.began < wait_until
    playing.reader.stop(PATIENCE)
    stat = playing.stat

    assert ids[:42] == [*range(1, 41), 41, 51]
    assert stat.received == len(playing.ids) + sum(stat.dropped.values())
    assert set(stat.dropped) == {"max_fps", "muted"}
    assert stat.decoded < stat.received - stat.dropped["max_fps"] + 1


def test_pictures_of_a_camera_that_sends_jpegs_are_not_decoded_if_they_are_not_needed(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    camera = HttpCamera(film=write_video(tmp_path / "film.avi", 100, size=(320, 240)))
    try:
        playing = play(camera.url(), demand=lambda: NONE)
        playing.until(4)
        while playing.stat.dropped.get("max_fps", 0) < 20:
            assert playing.reader.running
        stat = playing.stat
    finally:
        camera.close()

    assert stat.decoded < 10
