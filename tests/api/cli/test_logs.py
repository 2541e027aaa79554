"""The logs of one machine: merged in the order of time, followed through truncation and rotation."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamfleet_api.cli.logs import LogLine, Reader, last_lines, merged
from streamfleet_api.cli.main import cli
from tests.api.conftest import Command
from tests.fakes.patience import PATIENCE

BROKER = ["2026-11-20 10:00:01,000 INFO broker: ready", "2026-11-20 10:00:03,000 INFO broker: bye"]
API = ["2026-11-20 10:00:02,000 ERROR api: oh", "Traceback (most recent call last):", "  File x"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs of a broker and an api, in a data directory."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "broker.log").write_text("".join(f"{line}\n" for line in BROKER))
    (folder / "api.log").write_text("".join(f"{line}\n" for line in API))
    return folder


@pytest.fixture
def reader(folder: Path) -> Iterator[Reader]:
    """A reader that has read what was there."""
    reader = Reader(folder)
    reader.read()
    yield reader
    reader.close()


def texts(lines: list[LogLine]) -> list[str]:
    """What stands in them."""
    return [line.text for line in lines]


def logs(folder: Path, *arguments: str) -> Result:
    """`streamfleet logs`."""
    return CliRunner().invoke(cli, ["--data-dir", str(folder.parent), "logs", *arguments])


# reading --------------------------------------------------------------------------------------------------


def test_lines_come_in_the_order_of_time_and_a_traceback_stays_whole() -> None:
    of_api = [LogLine("2", "api", "oh"), LogLine("2", "api", "  File x")]
    of_broker = [LogLine("1", "broker", "ready"), LogLine("3", "broker", "bye")]

    found = merged([of_api, of_broker])

    assert texts(found) == ["ready", "oh", "  File x", "bye"]
    assert texts(last_lines(found, 2)) == ["  File x", "bye"]
    assert last_lines(found, 0) == []
    assert last_lines(found, 9) == found


def test_what_is_written_is_read_once_and_only_whole_lines(folder: Path, reader: Reader) -> None:
    with (folder / "api.log").open("a") as log:
        log.write("2026-11-20 10:00:04,000 INFO api: one\n2026-11-20 10:00:05")
        log.flush()
        first = reader.read()
        log.write(",000 INFO api: two\n")

    assert texts(first) == ["2026-11-20 10:00:04,000 INFO api: one"]
    assert reader.read() == [
        LogLine("2026-11-20 10:00:05,000", "api", "2026-11-20 10:00:05,000 INFO api: two")
    ]
    assert reader.read() == []


def test_a_log_that_is_truncated_is_read_from_its_beginning(folder: Path, reader: Reader) -> None:
    (folder / "api.log").write_text("anew\n")

    assert texts(reader.read()) == ["anew"]


def test_a_log_that_is_rotated_loses_nothing(folder: Path, reader: Reader) -> None:
    log = folder / "api.log"
    with log.open("a") as old:
        old.write("last of the old\n")
    log.rename(folder / "api.log.1")
    nothing_yet = reader.read()
    log.write_text("first of the new\n")

    assert texts(nothing_yet) == ["last of the old"]
    assert texts(reader.read()) == ["first of the new"]


def test_a_part_that_begins_later_is_read_whole(folder: Path, reader: Reader) -> None:
    (folder / "local-1.log").write_text("hello\n")

    assert reader.read() == [LogLine("", "local-1", "hello")]


def test_only_the_end_of_a_long_log_is_read(folder: Path) -> None:
    reader = Reader(folder, ["broker"], first=60)

    assert texts(reader.read()) == BROKER[1:]
    reader.close()


# the command ----------------------------------------------------------------------------------------------


def test_logs_say_which_part_wrote_a_line(folder: Path) -> None:
    done = logs(folder)

    lines = [f"broker  {BROKER[0]}", *(f"api     {line}" for line in API), f"broker  {BROKER[1]}"]
    assert done.stdout.splitlines() == lines
    assert logs(folder, "-n", "1").stdout.splitlines() == lines[-1:]
    assert logs(folder, "api", "-n", "1").stdout.splitlines() == ["api       File x"]


def test_programs_get_a_document_a_line(folder: Path) -> None:
    (document,) = map(json.loads, logs(folder, "broker", "-n", "1", "--json").stdout.splitlines())

    assert document == {"part": "broker", "at": "2026-11-20 10:00:03,000", "line": BROKER[1]}


def test_a_log_moves_no_cursor(folder: Path) -> None:
    (folder / "api.log").write_text("a\x1b[2Jb\tc\n")

    assert logs(folder, "api").stdout == "api     a?[2Jb  c\n"


def test_what_has_no_logs_is_told_with_the_next_step(folder: Path, tmp_path: Path) -> None:
    unknown = logs(folder, "brokr")
    other = logs(folder, "nobody")
    (tmp_path / "empty").mkdir()
    empty = logs(tmp_path / "empty/logs")
    nowhere = logs(tmp_path / "gone/logs")

    assert [each.exit_code for each in (unknown, other, empty, nowhere)] == [1] * 4
    assert unknown.stderr == "error: no part 'brokr' has a log here\n       did you mean broker?\n"
    assert "there are api, broker" in other.stderr
    assert "journalctl" in empty.stderr
    assert "streamfleet up" in nowhere.stderr
    assert "--data-dir" in nowhere.stderr


def test_logs_are_followed_until_ctrl_c(run: Command, folder: Path) -> None:
    run.options = ["--data-dir", str(folder.parent)]
    process = run.start("logs", "broker", "-f", "-n", "1")
    assert process.stdout is not None
    first = process.stdout.readline()
    with (folder / "broker.log").open("a") as log:
        log.write("and more\n")

    second = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)

    assert (first, second) == (f"broker  {BROKER[1]}\n", "broker  and more\n")
    assert (process.returncode, stdout, stderr) == (130, "", "")
