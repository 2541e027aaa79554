"""What a process says of itself to the kernel, seen from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE

_SAYS_ALL = """
import resource, sys
from streamfleet_core.runtime import process
process.name_process("a-name-that-is-too-long")
process.forbid_core_dumps()
process.make_files_private()
process.forbid_new_privileges()
open(sys.argv[1], "w").close()
print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)
sys.stdin.read()
"""

# The parent says the id of a child that sleeps, and is then killed.
_STARTS_A_CHILD = """
import subprocess, sys
from streamfleet_core.runtime.process import dying_with_parent
child = subprocess.Popen(["sleep", "600"], preexec_fn=dying_with_parent())
print(child.pid, flush=True)
sys.stdin.read()
"""
_FORKS = """
import os, signal, sys
from streamfleet_core.runtime.process import tie_to_parent
said, says = os.pipe()
if (child := os.fork()) == 0:
    tie_to_parent()
    os.write(says, b"tied")
    signal.pause()
os.read(said, 4)
print(child, flush=True)
sys.stdin.read()
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python that runs a script."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_has_a_name_private_files_no_dumps_and_no_way_to_more_rights(tmp_path: Path) -> None:
    with start(_SAYS_ALL, str(tmp_path / "file")) as process:
        assert process.stdout is not None
        limits = process.stdout.readline()
        of_kernel = Path(f"/proc/{process.pid}")

        assert (of_kernel / "comm").read_text() == "a-name-that-is-\n"
        assert limits == "(0, 0)\n"
        assert "NoNewPrivs:\t1\n" in (of_kernel / "status").read_text()
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600

        process.kill()


@pytest.mark.parametrize("script", [_STARTS_A_CHILD, _FORKS])
def test_a_child_dies_with_its_parent(script: str) -> None:
    with start(script) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))

        parent.kill()
        ended, _, _ = select.select([child], [], [], PATIENCE)
        if not ended:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)

    assert ended == [child]
