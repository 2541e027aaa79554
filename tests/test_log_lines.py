"""What a log shows of what peers said: one line an event, whatever stands in it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.rates import Rate
from streamfleet_core.runtime.startup import MAX_LINE, MAX_TRACE, WARNINGS, OneLine, RepeatFilter, one_line
from tests.fakes.patience import PATIENCE

FORMAT = OneLine("%(asctime)s %(levelname)s part: %(message)s")
FORGED = "2026-01-01 00:00:00,000 ERROR broker: cam-7: removed"


def logged(message: str, *args: object, exc: Exception | None = None) -> str:
    info = None if exc is None else (type(exc), exc, exc.__traceback__)
    return FORMAT.format(logging.LogRecord("x", logging.INFO, "file", 1, message, args, info))


@pytest.mark.parametrize(
    "said",
    [
        f"cam\n{FORGED}",
        f"cam\r{FORGED}",
        f"cam\x85{FORGED}",
        f"cam\u2028{FORGED}",
        "\x1b[2K\x1b[1A\x1b]0;title\x07",
        "\x9b31m",
        "a\u202eb\u2066c\u200bd\ufeff",
        "a\x00b",
        "\udc80",
        "\U000e0041",
    ],
)
def test_what_a_peer_says_is_one_line_without_signs_that_steer(said: str) -> None:
    line = logged("%s: refused", said)

    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line.encode()


def test_what_is_readable_stays_as_it_is() -> None:
    assert logged("%s: Tür, 門 und “…” \\n", "cam-7").endswith("INFO part: cam-7: Tür, 門 und “…” \\n")
    assert one_line("a\nb\x1b") == r"a\nb\x1b"


def test_a_long_text_is_cut() -> None:
    assert len(logged("%s", "x" * 1_000_000)) == MAX_LINE
    assert len(logged("%s", "\n" * 1_000_000)) < 10 * MAX_LINE


def test_a_traceback_is_indented_so_that_no_line_of_it_is_taken_for_another_event() -> None:
    try:
        raise ValueError(f"bad\n{FORGED}\n\x1b[31m")
    except ValueError as exc:
        first, *rest = logged("a bug", exc=exc).split("\n")

    assert first.endswith("part: a bug")
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert any(FORGED in line for line in rest)
    assert len(logged("a bug", exc=ValueError("\n" * 10_000)).split("\n")) <= MAX_TRACE + 3


def test_what_ends_a_program_is_logged_as_all_else() -> None:
    start = "from streamfleet_core.runtime.startup import log_as; log_as('x')"
    script = f"{start}; raise ValueError('a\\nb\\x1b[31mc')"

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    first, *rest = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert first.endswith("CRITICAL x: a bug ends the program")
    assert rest[-2:] == ["    ValueError: a", r"    b\x1b[31mc"]


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    assert one_line(text).isprintable()


@pytest.mark.parametrize("how", ["logging.error('%s is gone', url)", "logging.exception('a bug')", "raise"])
def test_an_address_in_a_log_opens_no_door_whoever_repeats_it(how: str) -> None:
    script = f"""
import logging
from streamfleet_core.runtime.startup import log_as
log_as("x")
url = "rtsp://admin:" + "CANARY" + "@h/user=a&password=" + "CANARY" + "&channel=1"
try:
    raise OSError(f"Invalid data found: '{{url}}'")
except OSError:
    {how}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)

    assert "rtsp://h/user=***&password=***&channel=1" in done.stderr
    assert "CANARY" not in done.stderr.replace('"CANARY"', "")  # the line of the program itself


def test_what_a_stranger_does_again_and_again_fills_no_disk_with_warnings() -> None:
    """And hides neither another warning nor an error."""
    script = """
import logging
from streamfleet_core.runtime.startup import log_as
log_as("x")
for number in range(10_000):
    logging.warning("refused the key %s", number)
for number in range(200):
    logging.error("lost %d", number)
library = logging.getLogger("uvicorn.error")
for number in range(10_000):
    library.error("a stranger did this %d", number)
logging.warning("something else")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)

    lines = done.stderr.splitlines()
    assert 1 <= sum("refused the key" in line for line in lines) <= WARNINGS.burst + 20
    assert sum("ERROR x: lost" in line for line in lines) == 200
    assert 1 <= sum("a stranger did this" in line for line in lines) <= WARNINGS.burst + 20
    assert lines[-1].endswith("WARNING x: something else")


def test_the_next_warning_that_is_written_says_how_many_were_not() -> None:
    now = 0.0
    repeat_filter = RepeatFilter(Rate(1, 2), lambda: now)
    record = logging.makeLogRecord({"levelno": logging.WARNING, "msg": "refused %s", "args": ("x",)})

    assert [repeat_filter.filter(record) for _ in range(5)] == [True, True, False, False, False]
    now = 1.0
    assert repeat_filter.filter(record)
    assert record.getMessage() == "refused x (3 like this were left out)"
