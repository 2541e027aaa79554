"""`streamfleet-worker doctor`, the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamfleet_core.runtime.finding import decode
from tests.fakes.patience import PATIENCE


def doctor(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run it; `code` is executed before, in the same process."""
    program = f"{code}\nfrom streamfleet_worker.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_it_tells_what_it_found_and_ends_with_1_if_something_does_not_work(tmp_path: Path) -> None:
    sound = doctor("--data-dir", str(tmp_path))
    (tmp_path / "identity.json").write_text("{}")
    (tmp_path / "identity.json").chmod(0o644)
    exposed = doctor("--data-dir", str(tmp_path))

    assert (sound.returncode, sound.stderr) == (0, "")
    assert "ok       keys              none yet" in sound.stdout.splitlines()
    assert exposed.returncode == 1
    assert f"→ chmod 600 {tmp_path}/identity.json" in exposed.stdout


def test_its_json_holds_all_findings(tmp_path: Path) -> None:
    found = decode(doctor("--data-dir", str(tmp_path), "--json").stdout.encode())

    assert [each.name for each in found][:4] == ["python", "packages", "onnx runtime", "inference"]
    assert {"decoders", "temperature", "throttling", "clock", "memory", "disk", "keys"} <= {
        each.name for each in found
    }


@pytest.mark.parametrize("package", ["cv2", "numpy", "onnxruntime", "zmq"])
def test_it_runs_where_a_package_is_missing(tmp_path: Path, package: str) -> None:
    hide = f"import sys; sys.modules[{package!r}] = None"

    done = doctor("--data-dir", str(tmp_path), "--json", code=hide)

    assert (done.returncode, done.stderr) == (0, "")
    assert decode(done.stdout.encode())
