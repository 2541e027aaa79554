"""Check that the ports of `streamfleet up` are free: ports.py [OPTION...], with the options of `up`.

`up` checks them too. This script checks before anything is installed, and requires only Python.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.local.options import ENVIRONMENT, Options
from streamfleet_api.local.ports import is_free, named, taken_ports

MAX_PORT = 65_535


def given_options(arguments: list[str]) -> dict[str, str]:
    """Return the values from command line and environment by field of Options, without defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option, names in ENVIRONMENT.items():
        values = [os.environ[name] for name in names if os.environ.get(name)]
        parser.add_argument(option, default=next(iter(values), None))
    given, _others = parser.parse_known_args(arguments)
    return {name: value for name, value in vars(given).items() if value is not None}


def main(arguments: list[str]) -> None:
    """Check the ports. Raises: SystemExit."""
    try:
        values = {
            name: text if name == "host" else int(text) for name, text in given_options(arguments).items()
        }
    except ValueError:
        return  # `up` reports the error
    options = Options(data_dir=Path(), **values)  # type: ignore[arg-type]
    if not all(0 <= port <= MAX_PORT for port in options.ports.values()):
        return
    try:
        taken = taken_ports(options.host, options.ports)
    except CommandFailed as exc:
        sys.exit(f"error: {exc}")
    if taken:
        sys.exit(f"error: {named(taken, options.host)}\n       {advice(options, taken)}")


def advice(options: Options, taken: dict[str, int]) -> str:
    """Return what to do about ports that are in use."""
    others = " ".join(f"{option} {nearby_port(options.host, option, port)}" for option, port in taken.items())
    if taken == options.ports:
        others += " --data-dir FOLDER"
        return f"a fleet may run here already: {options.url}; for another: make run ARGS='{others}'"
    return f"stop it, or take other ports: make run ARGS='{others}'"


def nearby_port(host: str, option: str, port: int) -> int:
    """Return a free port near one that is in use."""
    near = (*range(port + 1000, min(port + 1100, MAX_PORT + 1)), *range(max(port - 1100, 1024), port))
    return next((other for other in near if is_free(host, option, other)), port)


if __name__ == "__main__":
    main(sys.argv[1:])
