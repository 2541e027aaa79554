"""The reader of one source: what it plays, when it ends, and how it comes back to what it lost."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pytest

from streamfleet_worker.video import source_reader
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.sources import images, timeouts
from streamfleet_worker.video.sources.v4l2_capture import V4L2Capture
from tests.fakes.films import FRAMES, copied, noise, write_film
from tests.fakes.http_camera import HttpCamera
from tests.fakes.playing import Playing
from tests.fakes.process_harness import write_video
from tests.fakes.rtsp import RtspServer


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A hundred frames."""
    return write_video(tmp_path / "film.avi", 100, size=(320, 240))


@pytest.fixture
def camera(film: Path) -> Iterator[HttpCamera]:
    camera = HttpCamera(film=film)
    yield camera
    camera.close()


# a file as a camera


def test_a_file_that_plays_the_camera_begins_again_and_its_numbers_go_on(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "short.avi", 10, fps=100)

    playing = play(str(film), mode="live")
    ids = playing.until(35)

    assert ids == list(range(1, len(ids) + 1))
    assert playing.stat.attempts == 0
    greys = [frame.grey for frame in playing.frames]
    assert greys[10:20] == greys[:10]


def test_a_picture_that_plays_the_camera_is_shown_at_the_rate_of_a_film(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.zeros((24, 32, 3), np.uint8))

    playing = play(str(picture), mode="live")
    ids = playing.until(12)

    assert ids == list(range(1, len(ids) + 1))
    # One may be late, and the next one then in time.
    shown = [frame.decoded_at for frame in playing.frames]
    assert shown[11] - shown[0] > 10 / 25


def test_a_file_that_plays_the_camera_keeps_its_own_pace(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "film.avi", 100, fps=10)

    playing = play(str(film), mode="live")
    playing.until(11)

    times = [frame.decoded_at - playing.began for frame in playing.frames[:11]]
    assert all(at > number / 10 for number, at in enumerate(times)), "none comes before its time"
    assert median(later - earlier for earlier, later in pairwise(times)) < 0.2


def test_a_file_that_plays_the_camera_stops_at_once(play: Callable[..., Playing], tmp_path: Path) -> None:
    film = write_video(tmp_path / "slow.avi", 10, fps=0.02)
    playing = play(str(film), mode="live")
    playing.until(1)

    playing.reader.stop(30)  # the next picture is due in fifty seconds

    assert not playing.reader.running


def test_a_file_that_plays_the_camera_goes_on_counting_after_a_kill(
    play: Callable[..., Playing], film: Path
) -> None:
    assert play(str(film), mode="live", position=1000).until(3)[:3] == [1001, 1002, 1003]


def test_frames_of_a_variable_rate_are_stamped_and_shown_at_their_own_times(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    times = [0, 50, 100, 150, 650, 1150, 1200]
    film = write_film(tmp_path / "variable.mkv", "libx264", times=times)

    stamped = play(str(film))
    stamped.until_ended()
    shown = play(str(film), mode="live")
    shown.until(len(times))

    assert [round(1000 * frame.media_time) for frame in stamped.frames] == times
    late = [
        frame.decoded_at - shown.began - at / 1000 for frame, at in zip(shown.frames, times, strict=False)
    ]
    assert all(seconds > 0 for seconds in late), "none comes before its time"
    assert median(later - earlier for earlier, later in pairwise(late)) < 0.1, "nor any longer after the last"


def test_a_damaged_frame_is_counted_and_leaves_its_number_out(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    whole = write_film(tmp_path / "whole.avi", "mjpeg", pix_fmt="yuvj420p")
    film = copied(
        whole, tmp_path / "film.avi", change=lambda number, content: noise(99) if number == 4 else content
    )

    playing = play(str(film))
    again = play(str(film), position=20)

    assert playing.until_ended() == [number for number in range(1, FRAMES + 1) if number != 5]
    assert (playing.stat.received, playing.stat.decoded, playing.stat.dropped) == (30, 29, {"damaged": 1})
    assert again.until_ended() == list(range(21, FRAMES + 1))
    assert again.stat.dropped == {}


def test_a_film_that_is_cut_off_ends_and_says_so(play: Callable[..., Playing], tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.avi", "mjpeg", pix_fmt="yuvj420p")
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])

    playing = play(str(film))
    ids = playing.until_ended()

    assert 5 < len(ids) < 25
    assert "of 30 frames: it is cut off or damaged" in playing.stat.reason
    assert playing.stat.cause is None


def test_images_that_were_emitted_before_are_not_read_again(
    play: Callable[..., Playing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), number, np.uint8))
    (tmp_path / "6.png").write_bytes(b"no image")
    read: list[str] = []
    read_image = images._read

    def counting(path: Path) -> Image | None:
        read.append(path.name)
        return read_image(path)

    monkeypatch.setattr(images, "_read", counting)
    playing = play(str(tmp_path), position=5)

    assert playing.until_ended() == [6, 8, 9, 10]
    assert [frame.grey for frame in playing.frames] == [5, 7, 8, 9]
    assert playing.stat.dropped == {"damaged": 1}
    assert read == ["0.png", *(f"{number}.png" for number in range(5, 10))]  # the first one for its size


def test_a_frame_that_nobody_needs_is_grabbed_and_counted_but_not_retrieved(
    play: Callable[..., Playing], film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieved = []

    class Counting(V4L2Capture):
        def retrieve(self) -> Picture | None:
            retrieved.append(1)
            return super().retrieve()

    def opened(*_: object, **__: object) -> Capture:
        return Counting(cv2.VideoCapture(str(film)), finite=False)

    causes = itertools.cycle(["max_fps", "muted", "muted", None])
    monkeypatch.setattr(source_reader, "open_source", opened)
    until_lost: list[int] = []  # frames that were retrieved, attempt by attempt
    playing = play(
        "/dev/video0",
        drop_cause=lambda _: next(causes),
        when_lost=lambda: until_lost.append(len(retrieved)),
    )

    assert playing.until(25)[:25] == list(range(4, 101, 4))
    lost = playing.until_lost()
    assert (lost.received, lost.decoded, lost.dropped) == (100, 100, {"max_fps": 25, "muted": 50})
    assert until_lost[0] == 25


# a URL as a file


def test_a_film_at_a_url_is_played_to_its_end_once(play: Callable[..., Playing], camera: HttpCamera) -> None:
    playing = play(camera.url("/film"), mode="file")

    assert playing.until_ended() == list(range(1, 101))
    assert playing.stat.attempts == 0


def test_a_film_at_a_url_goes_on_behind_what_an_earlier_process_emitted(
    play: Callable[..., Playing], camera: HttpCamera
) -> None:
    assert play(camera.url("/film"), mode="file", position=90).until_ended() == list(range(91, 101))


def test_a_film_that_breaks_off_is_opened_again_and_no_frame_comes_twice(
    play: Callable[..., Playing], camera: HttpCamera, film: Path
) -> None:
    camera.cut = film.stat().st_size // 2

    def heal() -> None:
        camera.cut = None

    playing = play(camera.url("/film"), mode="file", when_lost=heal)
    lost = playing.until_lost()
    ids = playing.until_ended()

    assert lost.cause == "ended"
    assert lost.reason.startswith(f"http://127.0.0.1:{camera.port}/film: the stream ended after ")
    assert lost.reason.endswith(" of 100 frames")
    assert ids == list(range(1, 101))


def test_a_film_that_is_shorter_than_it_says_ends_where_it_ended_before(
    play: Callable[..., Playing], camera: HttpCamera, film: Path
) -> None:
    camera.cut = film.stat().st_size // 2

    ids = play(camera.url("/film"), mode="file").until_ended()

    assert 20 < len(ids) < 80
    assert ids == list(range(1, len(ids) + 1))


def test_a_film_that_is_not_there_yet_is_waited_for(play: Callable[..., Playing], camera: HttpCamera) -> None:
    film, camera.film = camera.film, None

    playing = play(camera.url("/film"), mode="file")
    lost = playing.until_lost()
    camera.film = film

    assert lost.cause == "not_found"
    assert playing.until_ended() == list(range(1, 101))


# live


def test_a_live_stream_that_ends_is_opened_again_and_its_numbers_go_on(
    play: Callable[..., Playing], camera: HttpCamera
) -> None:
    camera.frames_each = 20

    playing = play(camera.url())
    lost = playing.until_lost()
    ids = playing.until(50)

    assert (lost.cause, lost.reason) == ("ended", f"http://127.0.0.1:{camera.port}/live: the stream ended")
    assert ids == list(range(1, len(ids) + 1))


def test_a_stream_that_changes_its_size_goes_on_in_the_size_it_began_with(
    play: Callable[..., Playing], camera: HttpCamera
) -> None:
    camera.sizes = ((320, 240), (640, 480), (160, 120))

    playing = play(camera.url())
    playing.until(40)

    assert {frame.size for frame in playing.frames} == {(320, 240)}
    greys = [frame.grey for frame in playing.frames]
    assert all(abs(later - earlier - 7) <= 2 for earlier, later in pairwise(greys[:30]))
    assert playing.stat.attempts == 0


def test_each_attempt_is_counted_with_its_cause(play: Callable[..., Playing], camera: HttpCamera) -> None:
    playing = play(camera.url("/503?canary"))

    lost = playing.until_lost(lambda loss: loss.attempts == 3)

    assert (lost.state, lost.cause) == ("ERROR", "unreachable")
    assert "canary" not in repr(lost)


def test_a_camera_whose_cable_was_pulled_is_lost_after_the_time_to_read_and_comes_back(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "NEXT_PICTURE", 3.0)
    server = rtsp(size=(320, 240)).start()
    playing = play(server.url)
    playing.until(10)

    frozen_at = time.monotonic()
    server.freeze()
    lost = playing.until_lost(after=len(playing.metrics.losses))
    known = len(playing.ids)
    server.thaw()
    ids = playing.until(known + 1)

    said = re.fullmatch(rf"rtsp://{server.place}: no frame for (\S+) s", lost.reason)
    assert said is not None, lost
    assert lost.cause == "timeout"
    assert float(said[1]) >= 3  # more where this machine itself stood still before
    times = [frame.decoded_at for frame in playing.frames[:known]]
    begin = sum(at < frozen_at for at in times) - 1
    gaps = [later - earlier for earlier, later in pairwise(times[begin:])]
    assert max(gaps, default=0) < 3, "it is lost at once, and not after each frame that the decoder kept back"
    assert ids == sorted(set(ids))


def test_a_camera_that_starts_again_in_another_size_is_played_on(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer]
) -> None:
    server = rtsp(size=(320, 240)).start()
    playing = play(server.url)
    playing.until(10)

    before = len(playing.metrics.losses)
    server.stop()
    lost = playing.until_lost(after=before)
    server.size = (640, 480)
    server.start()
    known = len(playing.ids)
    ids = playing.until(known + 5)

    assert lost.cause == "ended"
    assert playing.frames[-1].size == (640, 480)
    assert ids == sorted(set(ids))
