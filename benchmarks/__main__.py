"""`make bench`: every benchmark, one table each."""

from __future__ import annotations

import sys

from benchmarks import recovery, throughput

BENCHMARKS = {"throughput": throughput.run, "recovery": recovery.run}


def main() -> None:
    """Run those that are named, or all."""
    names = sys.argv[1:] or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        print(BENCHMARKS[name]())


if __name__ == "__main__":
    main()
