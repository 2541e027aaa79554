"""`streamfleet-api`, the program."""

from __future__ import annotations

import sys

from streamfleet_core.runtime.startup import needing


def main() -> None:
    """Ends with 0 after SIGTERM or SIGINT, with 1 and one line where it cannot work."""
    with needing("streamfleet-api", "api"):
        from streamfleet_api.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
