"""How often a process reads its own memory."""

from __future__ import annotations

from pathlib import Path

from streamfleet_worker.host.own_memory import FIRST_PAUSE, LONGEST_PAUSE, OwnMemory


def test_the_share_of_this_process_is_read_from_the_kernel() -> None:
    assert OwnMemory().at(0.0) > 1_000_000


def test_what_has_settled_is_read_less_often(tmp_path: Path) -> None:
    path = tmp_path / "smaps_rollup"
    memory = OwnMemory(path)
    read: list[int] = []

    for second in range(1000):
        path.write_text(f"Pss: {second} kB\n")
        read.append(memory.at(float(second)) // 1024)

    at = sorted(set(read))
    assert at[:4] == [0, FIRST_PAUSE, 3 * FIRST_PAUSE, 7 * FIRST_PAUSE]
    assert at[-1] - at[-2] == LONGEST_PAUSE


def test_a_kernel_that_does_not_tell_is_no_error(tmp_path: Path) -> None:
    assert OwnMemory(tmp_path / "nothing").at(0.0) == 0
