"""Small films of many codecs and containers, and damaged ones, made by PyAV when a test needs them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.fakes.patience import PATIENCE

SIZE = (64, 48)
FRAMES = 30
FPS = 25


def write_film(
    path: Path,
    codec: str,
    *,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
    tracks: int = 1,
    group: int | None = None,
) -> Path:
    """A picture in which something moves.

    `times` are those of its frames, in milliseconds; `group`: frames from keyframe to keyframe.
    """
    with _usual_priority(), av.open(str(path), "w") as film:
        audio = film.add_stream("mp2", rate=48_000) if sound else None
        streams = []
        for _ in range(tracks):
            stream = film.add_stream(codec, rate=FPS, options=options or {})
            stream.width, stream.height = size
            stream.pix_fmt = pix_fmt
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if group is not None:
                stream.codec_context.gop_size = group
            if rotation:
                stream.set_display_rotation(rotation)
            streams.append(stream)
        for index in range(FRAMES if times is None else len(times)):
            picture = av.VideoFrame.from_ndarray(drawn(index, size), "bgr24")
            picture.pts = index if times is None else times[index]
            picture.time_base = Fraction(1, FPS) if times is None else Fraction(1, 1000)
            for stream in streams:
                film.mux(stream.encode(picture))
        for stream in streams:
            film.mux(stream.encode(None))
        if audio is not None:
            for index in range(200):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
                silence.pts, silence.rate = index * 1152, 48_000
                film.mux(audio.encode(silence))
            film.mux(audio.encode(None))
    return path


@contextlib.contextmanager
def _usual_priority() -> Iterator[None]:
    """Undo what an encoder does to this thread.

    As root, SVT-AV1 gives it the highest priority of real time. All later children would inherit that, and
    could keep the kernel's own threads from writing to the disk.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def drawn(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A bright square that moves over a grey that grows."""
    width, height = size
    image = np.full((height, width, 3), 40 + 3 * index % 200, np.uint8)
    left = index % max(1, width - 12)
    image[8:20, left : left + 12] = (30, 200, 250)
    return image


def copied(source: Path, target: Path, *, change: Callable[[int, bytes], bytes | None]) -> Path:
    """The same packets, each as `change` makes it of its number and content; None leaves it out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            content = change(number, bytes(packet))
            if content is None:
                continue
            made = av.Packet(content)
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.duration = packet.duration  # without it, older FFmpeg hides the last picture
            made.is_keyframe = packet.is_keyframe
            made.stream = stream
            new.mux(made)
    return target


def noise(length: int, seed: int = 1) -> bytes:
    """So many bytes that mean nothing."""
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()


def counted_by_ffmpeg(path: Path | str) -> int | None:
    """The frames that `ffmpeg -f null` shows. None: there is no ffmpeg on this machine."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    command = [program, "-nostdin", "-v", "error", "-i", str(path), "-map", "0:v:0", "-f", "null"]
    done = subprocess.run(
        [*command, "-progress", "pipe:1", "-"],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    frames = [line for line in done.stdout.splitlines() if line.startswith("frame=")]
    return int(frames[-1].removeprefix("frame=")) if frames else 0
