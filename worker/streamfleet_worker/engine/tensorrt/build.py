"""A process that builds a plan, at low priority. An engine starts it, and it ends with that engine.

    python -m streamfleet_worker.engine.tensorrt.build < REQUEST      writes why it failed, or nothing

The request is JSON (`BuildRequest`). One plan is built at a time on a device: others wait for a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from streamfleet_core.runtime.process import forbid_core_dumps, name_process
from streamfleet_worker.engine.tensorrt.library import TensorRT
from streamfleet_worker.engine.tensorrt.plan_store import PlanStore

LONGEST = 1800  # seconds for one plan, after it has got the lock


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build."""

    weights_path: str
    sha256: str
    folder: str  # of the plans
    name: str  # of the plan's file
    max_batch: int

    def encode(self) -> bytes:
        """As the process reads it."""
        return json.dumps(asdict(self)).encode()


def main() -> int:
    """Build one plan."""
    name_process("sf-plan")
    os.nice(10)
    forbid_core_dumps()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # the engine's limit is for running a model
    request = BuildRequest(**json.load(sys.stdin))
    store = PlanStore(Path(request.folder))
    try:
        content = Path(request.weights_path).read_bytes()
        if hashlib.sha256(content).hexdigest() != request.sha256:
            raise OSError("the model file has changed")
        with _alone(Path(request.folder)):
            signal.alarm(LONGEST)  # ends the process, whatever native code it is in
            store.write(request.name, TensorRT().build(content, max_batch=request.max_batch))
    except (OSError, RuntimeError, ValueError, MemoryError) as exc:
        sys.stdout.write(" ".join(f"{type(exc).__name__}: {exc}".split()))
        return 1
    return 0


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
