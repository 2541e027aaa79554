"""A draft belongs to the process that writes it, and to nobody after that process was killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamfleet_core.runtime.draft_file import DraftInUse, lock_draft

_WRITER = """
import sys, time
from pathlib import Path
from streamfleet_core.runtime.draft_file import lock_draft

lock_draft(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(3600)
"""


def test_the_draft_of_a_killed_process_is_replaced_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    command = [sys.executable, "-c", _WRITER, str(draft)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"

        with pytest.raises(DraftInUse, match="another process is writing it"):
            lock_draft(draft)
        writer.send_signal(signal.SIGKILL)

    descriptor = lock_draft(draft)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    assert os.path.samestat(draft.stat(), os.fstat(descriptor))
    os.close(descriptor)


def test_what_is_no_file_of_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "folder").mkdir()

    for name in ("link", "folder"):
        with pytest.raises(OSError, match=name):
            lock_draft(tmp_path / name)

    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_one_of_many_has_the_draft(tmp_path: Path) -> None:
    """Each finds one that was left behind, and removes it."""
    draft = tmp_path / "draft"

    def attempt(_: int) -> int | None:
        try:
            return lock_draft(draft)
        except DraftInUse:
            return None

    for _ in range(100):
        draft.write_bytes(b"left behind")
        with ThreadPoolExecutor(8) as pool:
            got = [descriptor for descriptor in pool.map(attempt, range(8)) if descriptor is not None]
        assert len(got) == 1
        assert os.path.samestat(draft.stat(), os.fstat(got[0]))
        os.close(got[0])
