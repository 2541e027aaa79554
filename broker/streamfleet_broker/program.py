"""How each program of ours begins. It loads nothing but the standard library."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator

_OURS = ("streamfleet_api", "streamfleet_broker", "streamfleet_worker")


@contextlib.contextmanager
def needing(program: str, extras: str, *later: str) -> Iterator[None]:
    """Around its imports: what others have made and nobody installed ends it with one line and code 2.

    `later`: modules that its children alone import.
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
    """On stderr, a line an event, from every part in the same order: when, how grave, who, what."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {part}: %(message)s")
