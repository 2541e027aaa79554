"""Real RTSP servers for tests: `rtsp_server.py` as a process, which can be stopped, frozen, begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port

PYTHON = "/usr/bin/python3"  # Debian's, for which there is `gi`

PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi"
_SCRIPT = Path(__file__).with_name("rtsp_server.py")


@cache
def is_missing() -> bool:
    """Can no RTSP server be started on this machine?"""
    try:
        done = subprocess.run(
            [PYTHON, str(_SCRIPT), "--help"], capture_output=True, timeout=2 * PATIENCE, check=False
        )
    except OSError:
        return True
    return done.returncode != 0


class RtspServer:
    """One server with one stream. Not started yet."""

    def __init__(
        self,
        *,
        size: tuple[int, int] = (640, 360),
        fps: int = 15,
        codec: str = "h264",
        login: tuple[str, str] | None = None,
        auth: str = "digest",
    ) -> None:
        self.port = free_port()
        self.size = size
        self._fps = fps
        self._codec = codec
        self._login = login
        self._auth = auth
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        """Without a login."""
        return f"127.0.0.1:{self.port}/live"

    @property
    def url(self) -> str:
        """With the right login, if it wants one."""
        return self.url_of(*self._login) if self._login else f"rtsp://{self.place}"

    def url_of(self, user: str, password: str) -> str:
        """With another login."""
        return f"rtsp://{quote(user, safe='')}:{quote(password, safe='')}@{self.place}"

    def start(self) -> RtspServer:
        """Start it and wait until it listens."""
        user, password = self._login or ("", "")
        command = [PYTHON, str(_SCRIPT), "--port", str(self.port), "--size", "{}x{}".format(*self.size)]
        command += ["--fps", str(self._fps), "--codec", self._codec]
        command += ["--user", user, "--password", password, "--auth", self._auth]
        before = self._said("ready")
        self._process = subprocess.Popen(command, stdout=self._output, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE  # GStreamer may look through its plugins first
        while self._said("ready") == before:
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"the server was not ready within {PATIENCE} s"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Kill it, whatever state it is in: its port refuses connections from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """The other end of a cable that was pulled: connections stay open, and nothing comes any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def wrong_logins(self) -> int:
        """How often somebody came with a login that is not right, since it was started first."""
        return self._said("login wrong")

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self._output.close()

    def _said(self, line: str) -> int:
        # The server writes at the offset that it shares with us: reading must not move it.
        output = os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0)
        return output.decode().splitlines().count(line)
