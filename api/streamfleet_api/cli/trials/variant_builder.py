"""Builds variants of a model on this machine, in a process of the worker with limits of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import IO

import msgspec

from streamfleet_api.client.errors import CommandFailed
from streamfleet_core.models.optimisation import Job, Said
from streamfleet_core.protocol.tasks.optimisation import TIMEOUT, Outcome

_PROGRAM = "streamfleet_worker.optimise.process"
_BOARD = "streamfleet_worker.host.board"
_BOARD_TIMEOUT = 60.0  # seconds
_NEEDED = ("onnxruntime", "onnx", "cv2", "av")
_INSTALL = "'pip install streamfleet[api,worker,cpu]' installs what it needs"
_SHOWN = 300  # characters of an error
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")  # no secret is among them (S9)


def this_board() -> str:
    """The kind of this machine. Raises: CommandFailed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CommandFailed(
            f"expected the worker on this machine, which runs models; {missing[0]} is not installed", _INSTALL
        )
    command = [sys.executable, "-m", _BOARD]
    try:
        done = subprocess.run(
            command, capture_output=True, env=_environment(), check=True, timeout=_BOARD_TIMEOUT
        )
    except subprocess.TimeoutExpired as exc:
        text = f"expected the kind of this machine within {_BOARD_TIMEOUT:g} s"
        raise CommandFailed(text, "'streamfleet doctor' checks this machine") from exc
    except subprocess.CalledProcessError as exc:
        text = f"the kind of this machine is unknown: {_last_line(exc.stderr)}"
        raise CommandFailed(text, "'streamfleet doctor' checks this machine") from exc
    return done.stdout.decode("ascii")


def build(job: Job, on_progress: Callable[[str], None], *, timeout: float = TIMEOUT) -> Outcome:
    """Build and measure variants. Raises: CommandFailed."""
    with tempfile.TemporaryFile() as errors, _started(job, errors, timeout) as process:
        assert process.stdout is not None
        said = Said()
        for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.progress:
                on_progress(said.progress)
        code = process.wait()
        if said.outcome is not None:
            return said.outcome
        if said.failure:
            raise CommandFailed(said.failure)
        errors.seek(0)
        raise CommandFailed(_how_it_ended(code, errors.read()))


@contextlib.contextmanager
def _started(job: Job, errors: IO[bytes], timeout: float) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment(),
    ) as process:
        assert process.stdin is not None
        too_long = threading.Timer(timeout, process.kill)
        too_long.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(job))
                process.stdin.close()
            yield process
        finally:
            too_long.cancel()
            process.kill()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


def _how_it_ended(code: int, errors: bytes) -> str:
    if code < 0:
        return f"building was ended by signal {-code}: it took too long, or needs more memory than there is"
    return f"building ended with code {code}: {_last_line(errors)}"


def _last_line(errors: bytes) -> str:
    *_, last = ["it said nothing", *errors.decode("utf-8", "replace").strip().splitlines()]
    return last[-_SHOWN:]
