"""Plans on the disk. The name of a plan says which model, version of TensorRT and kind of GPU it fits."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

MOST = 16  # plans that are kept
SIZE = 4 * 1024**3  # bytes of all plans that are kept
MOST_CRASHES = 2  # while a plan is loaded: a model is given up after three
_SUFFIX = ".plan"
_LOADING = ".loading"  # a line for each load that has not ended
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNSAFE = re.compile(r"[^\w.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """All that decides whether a plan can be used."""

    sha256: str  # of the model's file
    tensorrt: str  # the version
    capability: str  # of the GPU: 8.7
    precision: str
    batch: int  # the most slots of one run

    @property
    def name(self) -> str:
        """The name of its file."""
        parts = self.sha256, f"trt{self.tensorrt}", f"sm{self.capability}", self.precision, f"b{self.batch}"
        return _UNSAFE.sub("_", "-".join(parts)) + _SUFFIX


class PlanStore:
    """The plans of a device, in a folder. The least recently used ones are removed."""

    def __init__(self, folder: Path, *, most: int = MOST, size: int = SIZE) -> None:
        self._folder, self._most, self._size = folder, most, size

    def path(self, key: PlanKey) -> Path:
        """The file of a plan, which may not exist."""
        return self._folder / key.name

    def read(self, key: PlanKey) -> bytes | None:
        """Read a plan, and note that it is used; None if there is none."""
        with contextlib.suppress(OSError):
            content = self.path(key).read_bytes()
            with contextlib.suppress(OSError):
                os.utime(self.path(key))
            return content
        return None

    def remove(self, key: PlanKey) -> None:
        """Remove a plan that cannot be used."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def begin_load(self, key: PlanKey) -> bool:
        """Record that a plan is being loaded. Returns False if that ended two processes since the boot."""
        record = self.path(key).with_suffix(_LOADING)
        boot = _boot()
        lines = []
        with contextlib.suppress(OSError):
            lines = [line for line in record.read_text().splitlines()[-MOST_CRASHES:] if line == boot]
        if len(lines) >= MOST_CRASHES:
            return False
        with contextlib.suppress(OSError):
            record.write_text("\n".join([*lines, boot]))
        return True

    def end_load(self, key: PlanKey) -> None:
        """Record that loading ended without ending the process."""
        with contextlib.suppress(OSError):
            self.path(key).with_suffix(_LOADING).unlink()

    def write(self, key_name: str, plan: bytes) -> None:
        """Write a plan, complete or not at all, and remove old ones. Raises: OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._folder / f"{key_name}.{os.getpid()}.draft"
        try:
            with draft.open("wb") as file:
                file.write(plan)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._folder / key_name)
        finally:
            draft.unlink(missing_ok=True)
        self._tidy(key_name)

    def _tidy(self, newest: str) -> None:
        """Remove drafts of killed processes, and what exceeds the limits, but never the newest plan."""
        for draft in self._folder.glob("*.draft"):
            draft.unlink(missing_ok=True)  # one process at a time writes
        plans = [(path.stat().st_mtime, path) for path in self._folder.glob(f"*{_SUFFIX}")]
        kept, size = 0, 0
        for _, path in sorted(plans, key=lambda plan: (plan[1].name != newest, -plan[0])):
            kept, size = kept + 1, size + path.stat().st_size
            if path.name != newest and (kept > self._most or size > self._size):
                path.unlink(missing_ok=True)
                path.with_suffix(_LOADING).unlink(missing_ok=True)


def _boot() -> str:
    """The id of this boot, so that a loss of power counts as no crash."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
