"""Private files that are wrong are told with the command that mends them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from streamfleet_core.runtime.finding import Finding
from streamfleet_core.runtime.private_file import write_private
from streamfleet_core.runtime.private_file_check import check_private_files


def test_files_that_are_right_or_do_not_exist_are_one_finding(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")

    found = list(check_private_files([tmp_path / "key", tmp_path / "none"]))

    assert found == [Finding("keys", "ok", "1 private file, closed to others")]
    assert list(check_private_files([])) == [Finding("keys", "ok", "none yet")]


def test_a_file_that_others_may_read_is_mended_by_what_is_told(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(0o644)

    (found,) = check_private_files([path])
    subprocess.run(found.remedy, shell=True, check=True)
    (after,) = check_private_files([path])

    assert (found.severity, found.found) == ("error", f"{path} has rights 044 for others, and is refused")
    assert after.severity == "ok"


def test_an_empty_file_and_a_link_to_nothing_are_errors(tmp_path: Path) -> None:
    write_private(tmp_path / "empty", b"")
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    found = list(check_private_files([tmp_path / "empty", tmp_path / "link"]))

    assert [each.severity for each in found] == ["error", "error"]
    assert [each.found for each in found] == [
        f"{tmp_path}/empty is empty",
        f"{tmp_path}/link: No such file or directory",
    ]
