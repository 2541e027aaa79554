"""The file of a checkpoint: whatever happens to its writer, it has the state before or after a step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from streamfleet.complete import checkpoint_file
from streamfleet.complete.checkpoint_file import CheckpointFile
from streamfleet.complete.values import Checkpoint, Position
from streamfleet.errors import BadSetting


class Steps:
    """A subscriber of three pipelines that writes its file after each step."""

    def __init__(self, path: Path) -> None:
        self.file = CheckpointFile(path)
        self.states = [Checkpoint()]

    def step(self) -> None:
        number = len(self.states)
        name, position = f"belt-{number % 3}", Position(1, 0, number, "edge-1" if number % 2 else None)
        self.states.append(Checkpoint({**self.states[-1].positions, name: position}))
        self.file.write({name: position}, lambda: self.states[-1])


def test_it_has_the_last_step_after_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "MAX_LINES", 7)
    path = tmp_path / "checkpoint"
    steps = Steps(path)
    for _ in range(30):
        steps.step()

        assert Checkpoint.load(path) == steps.states[-1]

    steps.file.close()
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_of_a_part_of_it_the_last_whole_line_holds(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    steps = Steps(path)
    for _ in range(5):
        steps.step()
    content = path.read_bytes()
    first = content.index(b"\n")

    for size in range(first + 1, len(content) + 1):
        path.write_bytes(content[:size])
        found = Checkpoint.load(path)
        assert found in steps.states[1:]
        path.write_bytes(content[:size] + bytes(100))  # as after a power cut
        assert Checkpoint.load(path) == found
    assert found == steps.states[-1]


def test_a_full_disk_leaves_no_half_line_before_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    steps = Steps(path)
    steps.step()
    write, limit = os.write, [10]

    def short(file: int, content: bytes) -> int:
        if not limit[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, content[: limit[0]])
        limit[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space left"):
            steps.step()
        with pytest.raises(OSError, match="No space left"):
            steps.step()
        assert Checkpoint.load(path) == steps.states[1]
    steps.step()
    steps.step()

    assert Checkpoint.load(path) == steps.states[-1]
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_a_file_that_was_written_at_once_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = Checkpoint({f"belt-{number}": Position(3, 0, 41, "e" * 64) for number in range(1000)})
    path.write_text(checkpoint.encode())

    assert Checkpoint.load(path) == checkpoint
    assert Checkpoint.load(tmp_path / "none") == Checkpoint()
    path.write_text("junk\n{}")
    with pytest.raises(BadSetting, match="expected a checkpoint"):
        Checkpoint.load(path)
