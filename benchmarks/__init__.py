"""`make bench`: which rows are measured, and where their numbers go.

Every row is measured against a tutorial's loop and a careful user's, in turns within one run, so that its ratios hold
on a machine that is slow or busy, too. What is slow to import is imported in `main`: the baselines' own processes must
not pay for it.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path


def main(
    data_root: Path, results: Path, rows: Sequence[str] | None, *, name: str | None = None, docs: bool = False
) -> int:
    """Measures the rows named (None: all; none: only shows what is there) and keeps them in RESULTS/bench/NAME.json.

    `name`: of the file, by default after the processor or GPU. Rows that were measured before stay, if it was on this
    machine and with these packages. `docs`: every file's table is written into docs/speed.md, too. Exit status 1 if a
    row failed. Raises ValueError for an unknown row.
    """
    from benchmarks import limits, measure, record, render
    from benchmarks import rows as known
    from bnstudy.store import devices

    machine = record.machine(devices.cores())
    on_gpu = machine["gpu"] is not None
    chosen = known.choose(rows, on_gpu)
    path = record.path(results, name or record.slug(machine))
    failed = False
    if chosen:
        record.begin(path, machine, known.locate(data_root))
        if on_gpu:
            record.keep(path, limits=limits.measured())
        for number, row in enumerate(chosen, start=1):
            print(f"[{number}/{len(chosen)}] {row.name}: {row.what}", flush=True)
            with tempfile.TemporaryDirectory(prefix="bnstudy-bench-") as scratch:
                setting = known.setting(data_root.absolute(), Path(scratch), devices.cores(), on_gpu)
                sides = {name: partial(side, setting) for name, side in row.sides.items()}
                try:
                    measured = measure.interleaved(sides, row.repeats, report=render.progress(row.unit))
                except measure.MeasurementError:
                    print(f"  failed\n{traceback.format_exc()}", file=sys.stderr)
                    failed = True
                    continue
            entry = record.row(row.what, row.unit, row.more_is_better, row.note, measured)
            record.keep(path, row=(row.name, entry))
            print(f"  {render.result(entry)}", flush=True)
    records = record.read_all(results)
    for file, content in records.items():
        if file == path or not chosen:
            print(f"\n{render.table(content)}\n{file}")
    if docs:
        render.write(list(records.values()))
    return int(failed)
