"""The reader of one source: what it plays, when it ends, and how it comes back to what it lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamfleet_broker.protocol.reference import is_finite
from streamfleet_broker.protocol.status import SourceStat
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera import reader, source
from streamfleet_worker.camera.buffer import FrameBuffer, Wakeup
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.reader import Reader
from streamfleet_worker.camera.source import quiet_libraries
from tests.http_camera import HttpCamera
from tests.rtsp import RtspServer
from tests.worker.peers import wait_for
from tests.worker.stand import write_video


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a frame whose picture was given back."""

    frame_id: int
    decoded_at: float  # monotonic seconds
    size: tuple[int, int]  # pixels, width and height
    grey: int


class Playing:
    """A source that is played, with its frames and its ledger."""

    def __init__(self, reference: str, *, position: int = 0, **spec: Any) -> None:
        quiet_libraries()
        self.spec = SourceSpec(reference, **spec)
        self.ledger = Ledger(reference, now=time.monotonic(), changed=Wakeup())
        filling = "WAIT" if is_finite(self.spec) else "DROP_OLDEST"
        self.buffer = FrameBuffer(64, wakeup=Wakeup(), filling=filling)
        self.reader = Reader(self.spec, position=position, buffer=self.buffer, ledger=self.ledger)
        self.frames: list[Seen] = []
        self.reader.start()

    @property
    def stat(self) -> SourceStat:
        return self.ledger.source_stat(time.monotonic())

    @property
    def ids(self) -> list[int]:
        """Of all frames that came until now."""
        while taken := self.buffer.take(time.monotonic()):
            for frame in taken:
                height, width, _ = frame.image.shape
                grey = round(frame.image.mean())
                self.frames.append(Seen(frame.stamp.frame_id, frame.stamp.decoded_at, (width, height), grey))
                self.buffer.give_back(frame.image)
        return [frame.frame_id for frame in self.frames]

    def until(self, count: int, *, timeout: float = 10.0) -> list[int]:
        """The ids, when so many frames have come."""
        wait_for(lambda: len(self.ids) >= count, f"{count} frames; {self.stat}", timeout=timeout)
        return self.ids

    def until_lost(self, *, attempts: int = 1, timeout: float = 10.0) -> SourceStat:
        """What is said of it when it is lost."""

        def lost() -> bool:
            self.ids  # noqa: B018 - makes room in the buffer
            return self.stat.attempts >= attempts

        wait_for(lost, "a failed attempt", timeout=timeout)
        return self.stat

    def until_ended(self) -> list[int]:
        """All ids."""
        wait_for(lambda: self.ids and self.buffer.exhausted, "the end", timeout=10)
        assert self.ledger.state == "ENDED"
        return self.ids


@pytest.fixture
def play() -> Iterator[Callable[..., Playing]]:
    """Plays sources, and stops them in the end."""
    begun: list[Playing] = []

    def make(reference: str, **more: Any) -> Playing:
        begun.append(Playing(reference, **more))
        return begun[-1]

    yield make
    for playing in begun:
        playing.reader.stop(10)
        assert not playing.reader.failed


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


def test_a_file_that_plays_the_camera_keeps_its_own_pace(
    play: Callable[..., Playing], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "film.avi", 100, fps=40)

    playing = play(str(film), mode="live")
    playing.until(41)

    times = [frame.decoded_at for frame in playing.frames[:41]]
    assert 0.95 < times[-1] - times[0] < 1.3
    assert all(earlier < later for earlier, later in pairwise(times))


def test_a_file_that_plays_the_camera_stops_at_once(play: Callable[..., Playing], tmp_path: Path) -> None:
    film = write_video(tmp_path / "slow.avi", 10, fps=0.2)
    playing = play(str(film), mode="live")
    playing.until(1)

    began = time.monotonic()
    playing.reader.stop(10)

    assert time.monotonic() - began < 1


def test_a_file_that_plays_the_camera_goes_on_counting_after_a_kill(
    play: Callable[..., Playing], film: Path
) -> None:
    assert play(str(film), mode="live", position=1000).until(3)[:3] == [1001, 1002, 1003]


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

    playing = play(camera.url("/film"), mode="file")
    lost = playing.until_lost()
    camera.cut = None
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

    lost = playing.until_lost(attempts=3)

    assert (lost.state, lost.cause) == ("ERROR", "unreachable")
    assert "canary" not in repr(lost)


def test_a_camera_whose_cable_was_pulled_is_lost_after_the_time_to_read_and_comes_back(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT", 2.0)
    monkeypatch.setattr(reader, "READ_TIMEOUT", 2.0)
    server = rtsp(size=(320, 240)).start()
    playing = play(server.url)
    playing.until(10)

    server.freeze()
    began = time.monotonic()
    lost = playing.until_lost()
    took = time.monotonic() - began
    known = len(playing.ids)
    server.thaw()
    ids = playing.until(known + 1)

    assert (lost.cause, lost.reason) == ("timeout", f"rtsp://{server.place}: no frame came for 2 s")
    assert took < 4, "once, and not again for each frame that the decoder kept back"
    assert ids == sorted(set(ids))


def test_a_camera_that_starts_again_in_another_size_is_played_on(
    play: Callable[..., Playing], rtsp: Callable[..., RtspServer]
) -> None:
    server = rtsp(size=(320, 240)).start()
    playing = play(server.url)
    playing.until(10)

    server.stop()
    lost = playing.until_lost()
    server.size = (640, 480)
    server.start()
    known = len(playing.ids)
    ids = playing.until(known + 5)

    assert lost.cause == "ended"
    assert playing.frames[-1].size == (640, 480)
    assert ids == sorted(set(ids))
