"""`streamfleet`, the program, also where nothing of what it needs is installed."""

from __future__ import annotations

from streamfleet_broker.program import needing


def main() -> None:
    """The command line."""
    with needing("streamfleet", "api"):
        from streamfleet_api.cli import main as run

    run()
