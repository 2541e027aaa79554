"""The child program that decodes: packets go in over one pipe, pictures come out of another.

One thread owns it and calls `exchange`, which waits for whatever happens first. It ends with that thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
from collections import deque

import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.hardware.data_protocol import (
    BUFFER,
    CAPS,
    HEADER_SIZE,
    BadData,
    Header,
    RawFormat,
)
from streamfleet_worker.video.hardware.faults import DecoderFailed, failure_of
from streamfleet_worker.video.hardware.pipelines import Decoder, Scaling

_PIPE_SIZE = 1 << 20  # bytes; the most that the kernel gives without privileges
_OUTPUT = 4096  # bytes of its messages that are kept
_ROOM = 1 << 16  # bytes that wait for the pipe, above which no more are taken
_MOST_EVENT = 1 << 16  # bytes of caps or an event
_REAPING = 1.0  # seconds for a killed child to end


Bytes = npt.NDArray[np.uint8]  # (bytes,)


class RawPicture:
    """A picture as it arrived over the pipe."""

    __slots__ = ("content", "format", "pts")

    def __init__(self, content: Bytes, of: RawFormat, pts: int) -> None:
        self.content = content  # its planes, as `of` says
        self.format = of
        self.pts = pts  # nanoseconds, or NO_TIME


class Child:
    """A running decoder."""

    def __init__(self, decoder: Decoder, launch: str, scaling: Scaling | None) -> None:
        """Start it. Raises: DecoderFailed.

        Args:
            launch: path of gst-launch.
            scaling: None: its pictures have the size of the source.
        """
        frames, inherited = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = _spawn(decoder.command(launch, inherited, scaling), inherited)
        except OSError as exc:
            os.close(frames)
            raise DecoderFailed("missing", f"{launch} cannot be started: {exc.strerror}") from None
        finally:
            os.close(inherited)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: int | None = self._process.stdin.fileno()
        self._output, self._frames = self._process.stdout.fileno(), frames
        for descriptor in (self._input, self._output, self._frames):
            os.set_blocking(descriptor, False)
        for descriptor in (self._input, self._frames):
            with contextlib.suppress(OSError):  # the kernel's limit for all pipes of a user is reached
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._said = b""
        self._is_silent = False  # it has closed its output
        self._queue: deque[memoryview] = deque()
        self._queued = 0  # bytes
        self._finishing = False
        self._format: RawFormat | None = None
        self._header: Header | None = None
        self._incoming: Bytes = np.empty(HEADER_SIZE, np.uint8)
        self._filled = 0  # bytes of `_incoming`
        self.pictures: deque[RawPicture] = deque()
        self.ended = False  # no picture follows
        self.written = 0  # bytes in all

    @property
    def has_room(self) -> bool:
        """Whether it takes another packet."""
        return self._queued < _ROOM

    @property
    def is_blocked(self) -> bool:
        """Whether it has not taken all packets yet."""
        return self._queued > 0

    def put(self, content: bytes) -> None:
        """Add bytes for it."""
        self._queue.append(memoryview(content))
        self._queued += len(content)

    def finish(self) -> None:
        """Say that no packet follows: it delivers the pictures that it holds, and ends."""
        self._finishing = True

    def exchange(self, wake: int, timeout: float) -> None:
        """Wait until bytes can be moved, `wake` can be read, or the timeout in seconds is over; move them.

        Raises: DecoderFailed.
        """
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self._frames, select.POLLIN)
        if not self._is_silent:
            poll.register(self._output, select.POLLIN)
        if self._input is not None and (self._queue or self._finishing):
            poll.register(self._input, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * timeout)}
        if self._output in ready:
            self._listen()
        if self._input in ready:
            self._write()
        if self._frames in ready:
            self._read()

    def failure(self) -> DecoderFailed:
        """Why it has ended. For a child that has `ended`."""
        try:
            code = self._process.wait(_REAPING)
        except subprocess.TimeoutExpired:
            return DecoderFailed("stalled", "closed its pipe, and does not end")
        self._listen()
        return failure_of(self._said.decode(errors="replace"), code)

    def stop(self) -> None:
        """Kill it, if it still runs, and release all that belongs to it."""
        if self._process.returncode is None:
            # Its group: it may have a helper that looks for plug-ins.
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # One that hangs in its driver ends later, and is reaped at the next start of a program.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAPING)
        self._close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._frames)

    def _write(self) -> None:
        assert self._input is not None
        try:
            while self._queue:
                count = os.write(self._input, self._queue[0])
                self.written += count
                self._queued -= count
                rest = self._queue.popleft()[count:]
                if rest:
                    self._queue.appendleft(rest)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it ends, and says why
            self._queue.clear()
            self._queued = 0
            self._close_input()
            return
        if self._finishing:
            self._close_input()

    def _close_input(self) -> None:
        if self._input is not None:
            assert self._process.stdin is not None
            self._input = None
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(self._output, _OUTPUT)
            self._is_silent = not content
            self._said = (self._said + content)[-_OUTPUT:]

    def _read(self) -> None:
        """Read until there is a picture, which the caller takes before the next. Raises: DecoderFailed."""
        try:
            while not self.pictures:
                count = os.readv(self._frames, [self._incoming.data[self._filled :]])
                if not count:
                    self.ended = True
                    return
                self._filled += count
                if self._filled == len(self._incoming):
                    self._receive(self._incoming)
        except BlockingIOError:
            return
        except BadData as exc:
            raise DecoderFailed("refused", f"delivers what cannot be read: {exc}") from None

    def _receive(self, content: Bytes) -> None:
        """Take a whole header or payload. Raises: BadData."""
        header = self._header
        if header is None:
            header = Header.decode(content.tobytes())
            self._check(header)
            if header.length:
                self._expect(header, header.length)
                return
        elif header.kind == CAPS:
            self._format = RawFormat.parse(content.tobytes())
        elif header.kind == BUFFER:
            assert self._format is not None
            self.pictures.append(RawPicture(content, self._format, header.pts))
        self._expect(None, HEADER_SIZE)

    def _check(self, header: Header) -> None:
        if header.kind != BUFFER:
            if header.length > _MOST_EVENT:
                raise BadData(f"expected at most {_MOST_EVENT} bytes, got {header.length}")
        elif self._format is None or header.length != self._format.size:
            expected = "its format first" if self._format is None else f"{self._format.size} bytes"
            raise BadData(f"expected {expected}, got a picture of {header.length} bytes")

    def _expect(self, header: Header | None, length: int) -> None:
        self._header = header
        self._incoming = np.empty(length, np.uint8)
        self._filled = 0


def _spawn(command: list[str], frames: int) -> subprocess.Popen[bytes]:
    # The kernel kills it when this thread ends. Without `setpriv` it ends by itself, if it does not hang: its
    # pipes are closed then.
    setpriv = shutil.which("setpriv")
    tied = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv is not None else []
    return subprocess.Popen(
        [*tied, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pass_fds=(frames,),
        start_new_session=True,  # Ctrl-C goes to the agent, which then stops its children in order
    )
