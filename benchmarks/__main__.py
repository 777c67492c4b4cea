"""`python -m benchmarks`, from the repository's folder: what `make bench` runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import benchmarks


def main() -> int:
    """Exit status 0, 1 where a row failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Speed against a tutorial's and a careful user's loop, as ratios of one run."
    )
    parser.add_argument("--rows", default=None, help="comma-separated rows (default: all; empty: only show the tables)")
    parser.add_argument("--name", default=None, help="name of the file in results/bench (default: after the processor)")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/speed.md, too")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    data_root = Path(os.environ.get("BNSTUDY_DATA_ROOT", "data"))
    parser.add_argument("--data-root", type=Path, default=data_root, help="where the images are (default: %(default)s)")
    given = parser.parse_args()
    rows = None if given.rows is None else [row for row in given.rows.split(",") if row]
    try:
        return benchmarks.main(given.data_root, given.results, rows, name=given.name, docs=given.docs)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
