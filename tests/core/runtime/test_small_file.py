"""Small files: what is larger is refused, and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_core.runtime.small_file import FileTooLarge, read_small


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)

    assert read_small(path, most=10) == b"x" * 10
    with pytest.raises(FileTooLarge) as refused:
        read_small(path, most=9)
    assert str(refused.value) == f"{path}: expected at most 9 bytes, got more"


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(FileTooLarge, match="/dev/zero"):
        read_small(Path("/dev/zero"))
