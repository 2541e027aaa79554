"""Checks before a fleet starts on this machine. Each error names the option to change."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.local.options import Options
from streamfleet_core.runtime.socket_path import problem_with

_OF_BROKER = "broker/predictions.ipc"
_OF_WORKER = "run/tmp/pymp-01234567/listener-01234567"  # the fork server's


def check(options: Options) -> None:
    """Check early what would otherwise fail later and less clearly. Raises: CommandFailed."""
    longest = f"workers/local-{options.workers}/{_OF_WORKER}" if options.workers else _OF_BROKER
    if problem := problem_with(options.data_dir, longest):
        raise CommandFailed(f"--data-dir {options.data_dir}: {problem}", "choose another, shorter --data-dir")
    missing = [name for name in ("cv2", "onnxruntime") if importlib.util.find_spec(name) is None]
    if options.workers and missing:
        hint = "pip install 'streamfleet[api,worker,cpu]', or run it with --workers 0"
        raise CommandFailed(f"a worker on this machine needs {' and '.join(missing)}", hint)


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Create the data directory and lock it. Raises: CommandFailed."""
    with contextlib.ExitStack() as stack:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context((data_dir / "up.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            hint = "stop it first, or choose another --data-dir"
            raise CommandFailed(f"another 'streamfleet up' runs on {data_dir}", hint) from exc
        except OSError as exc:
            raise CommandFailed(f"--data-dir {data_dir}: {exc.strerror}") from exc
        yield
