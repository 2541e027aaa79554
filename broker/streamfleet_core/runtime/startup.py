"""The start of each of our programs: missing packages and logging. Imports only the standard library."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from streamfleet_core.protocol.rates import Bucket, Rate

MAX_LINE = 4096  # characters of a line of a log
MAX_TRACE = 200  # lines of a traceback
WARNINGS = Rate(0.5, 60)  # lines per place in the code, and the burst

_OURS = ("streamfleet", "streamfleet_api", "streamfleet_broker", "streamfleet_core", "streamfleet_worker")


@contextlib.contextmanager
def needing(program: str, extras: str, *later: str) -> Iterator[None]:
    """Wrap the imports of a program: a missing third-party package ends it with one line and exit code 2.

    `later`: modules that only its child processes import.
    """
    try:
        for name in later:
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] in _OURS:
            raise
        text = f"{program} needs {exc.name}, which is not installed: pip install 'streamfleet[{extras}]'"
        print(text, file=sys.stderr)
        sys.exit(2)


def log_as(part: str) -> None:
    """Log to stderr, one line per event, in the same format for each program: time, level, part, message."""
    # Imported here, so that a program without this dependency can still report it.
    from streamfleet_core.protocol.source_reference import redacted

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(f"%(asctime)s %(levelname)s {part}: %(message)s", redacted))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _log_bug


_LOGGERS = ("streamfleet", "root")  # of ours


class RepeatFilter(logging.Filter):
    """Limits the rate of lines per place in the code, so that strangers cannot flood the log.

    It applies to our warnings, and to all records of libraries.
    The next line that passes says how many were left out.
    """

    def __init__(self, rate: Rate = WARNINGS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._rate = rate
        self._clock = clock
        self._places: dict[tuple[str, int], Bucket] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        if record.levelno != logging.WARNING and record.name.startswith(_LOGGERS):
            return True
        place = record.pathname, record.lineno
        if not self._places.setdefault(place, Bucket(self._rate)).take(1, self._clock()):
            self._left_out[place] = self._left_out.get(place, 0) + 1
            return False
        if left_out := self._left_out.pop(place, 0):
            record.msg = f"{record.msg} ({left_out} like this were left out)"
        return True


class OneLine(logging.Formatter):
    """Writes one line per record: text from a peer can neither forge a line nor control the terminal.

    A line begins with its time; the lines of a traceback are indented. `redact` hides the secrets of an
    address that the error of a library repeats.
    """

    def __init__(self, line: str, redact: Callable[[str], str] = str) -> None:
        super().__init__(line)
        self._redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line itself."""
        return one_line(self._redact(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Format the lines of a traceback."""
        return _indented(super().formatException(ei), self._redact)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Format the lines of a stack."""
        return _indented(super().formatStack(stack_info), self._redact)


def one_line(text: str) -> str:
    """Make text fit for one log line: escape control, bidirectional and invisible characters, and cut it."""
    if len(text) > MAX_LINE:
        text = text[: MAX_LINE - 1] + "…"
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _indented(text: str, redact: Callable[[str], str]) -> str:
    lines = text.split("\n")
    left_out = [f"… {len(lines) - MAX_TRACE} lines …"] if len(lines) > MAX_TRACE else []
    shown = [*lines[: MAX_TRACE // 2], *left_out, *lines[-MAX_TRACE // 2 :]] if left_out else lines
    return "\n".join(f"    {one_line(redact(line))}" for line in shown)


def _log_bug(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception. Python itself would print a peer's text without escaping it."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
        return
    logging.getLogger(__name__).critical("a bug ends the program", exc_info=(kind, exc, trace))
