"""A build of a plan that runs beside an engine.

building --process ends with 0--> built        building --process fails, or takes too long--> failed
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.runtime.process import dying_with_parent
from streamfleet_worker.engine.tensorrt.build import LONGEST, BuildRequest

_MOST_OUTPUT = 4000  # characters of the reason
_MODULE = "streamfleet_worker.engine.tensorrt.build"


class BackgroundBuild:
    """The process of a build. The kernel ties it to the thread that creates this, which must live as long."""

    def __init__(self, request: BuildRequest) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the build
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=self._output,
            preexec_fn=dying_with_parent(),
        )
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode())
        self._process.stdin.close()

    @property
    def is_running(self) -> bool:
        """Whether it still builds."""
        return self._process.poll() is None

    @property
    def failure(self) -> str:
        """Why it failed; "" if it runs or has built the plan."""
        code = self._process.poll()
        if not code:
            return ""
        if code == -signal.SIGALRM:
            return f"it took longer than {LONGEST // 60} min"
        self._output.seek(0)
        said = self._output.read(_MOST_OUTPUT).decode(errors="replace")
        return shown_reason(said or f"its process ended with {code}")

    def activity(self) -> str:
        """What it does, for users."""
        minutes = int(time.monotonic() - self._started_at) // 60
        return f"building a TensorRT plan, {minutes} min"

    def stop(self) -> None:
        """End it, if it runs."""
        if self.is_running:
            self._process.kill()
        self._process.wait()
        self._output.close()
