"""`streamfleet`, the program, also where nothing of what it needs is installed."""

from __future__ import annotations

from streamfleet_core.runtime.startup import needing


def main() -> None:
    """The command line."""
    with needing("streamfleet", "api"):
        from streamfleet_api.cli.main import main as run

    run()
