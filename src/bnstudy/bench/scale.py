"""How store, status, reduction and report behave with many runs: measured on made ones, each step in a process anew.

The runs are those of a grid of LeNets, each with a manifest and a table of five epochs as a real one has, filled with
made numbers. Processor time is what is compared, since a machine may be busy with other things.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bnstudy import index, lease, pace, paths, reduction, report
from bnstudy.config import Config, resolved
from bnstudy.roster import Wanted
from bnstudy.store import Store, sealed

SWEEP = "lenet_lr_grid"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NUM_EPOCHS = 5
EPOCHS = {
    "epoch": "int64",
    "step": "int64",
    **dict.fromkeys(("lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"), "float64"),
}
Row = dict[str, Any]  # step, num_runs, cpu_sec, wall_sec, peak_mib
LINKS = 10_000  # names one file may have, safely


def run_ids(count: int) -> list[str]:
    """The first so many runs: every rate, with BN and without, seed after seed."""
    return [_run_id(n) for n in range(count)]


def _run_id(number: int) -> str:
    digest = hashlib.sha256(str(number).encode()).hexdigest()[:8]
    return f"lenet-{_arm(number)}-lr{RATES[number % 10]:g}-s{number // 20}-{digest}"


def _arm(number: int) -> str:
    return ("batch", "none")[number // 10 % 2]


def fill(results: Path, count: int) -> None:
    """Makes the runs that are not there yet. Tables are one file under many names; manifests are each their own."""
    store = Store(results)
    template = store.writer(".template")
    values = [i / NUM_EPOCHS for i in range(NUM_EPOCHS)]
    rows: dict[str, list[Any]] = {
        name: [int(v * 5) for v in values] if t == "int64" else values for name, t in EPOCHS.items()
    }
    for number in range(count):
        folder = paths.run(results, _run_id(number))
        if folder.exists():
            continue
        if number % LINKS == 0 or not (paths.run(results, ".template") / "epochs.parquet").exists():
            template.restart()
            template.add("epochs", EPOCHS, rows)
            template.finish({"status": "completed"})
            tables = store.manifest(".template")["tables"]
        folder.mkdir()
        os.link(paths.run(results, ".template") / "epochs.parquet", folder / "epochs.parquet")
        (folder / paths.MANIFEST).write_text(sealed(_manifest(number), folder.name, tables), encoding="utf-8")
    shutil.rmtree(paths.run(results, ".template"), ignore_errors=True)


def _manifest(number: int) -> dict[str, Any]:
    config = resolved(Config(model={"name": "lenet"}, norm={"name": _arm(number)}, seed=number // 20))
    config["optim"] |= {"lr": RATES[number % 10]}
    config["train"] |= {"epochs": NUM_EPOCHS}
    final = {f"{part}_{what}": 0.5 for part in ("train", "test") for what in ("loss", "accuracy")}
    return {
        "status": "completed",
        "outcome": "trained",
        "diverged_step": None,
        "error": None,
        "config": config,
        "sweep": SWEEP,
        "data": {"name": "fashion_mnist", "source": "arrays", "sha256": "0" * 64, "title": "made"},
        "provenance": {"commit": "0" * 40, "dirty": "", "device": "cpu", "threads": 1, "num_runs": 10},
        "num_steps": 1175,
        "final": final,
        "wall_sec": 40.0,
        "probe_share": 0.0,
    }


def _status(results: Path, count: int) -> None:
    """All that `status` does but for composing the sweep, which is remembered too."""
    names = run_ids(count)
    entries = index.entries(results, names)
    runs = [Wanted(name, 235 * NUM_EPOCHS, "lenet") for name in names]
    pace.how_far(runs, entries, pace.measured(runs, entries, results), lease.held(results))


def _index(results: Path, count: int) -> None:
    shutil.rmtree(paths.index(results), ignore_errors=True)
    _status(results, count)


def _reduce(results: Path, count: int) -> None:
    folder = paths.tables(results / f"of{count}", SWEEP)
    reduction.reduce(Store(results), run_ids(count), folder, tables=["epochs"])


def _report(results: Path, count: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        report.build(results / f"of{count}", report.FINDINGS, progress=lambda line: None)


STEPS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "fill": ("writing the made runs", fill),
    "index": ("`status` without an index", _index),
    "status": ("`status`", _status),
    "reduce": ("reduction", _reduce),
    "report": ("report", _report),
}


def measure(
    scratch: Path, sizes: Sequence[int], steps: Sequence[str] = (), tell: Callable[[str], None] = print
) -> list[Row]:
    """One row a step and size: processor and wall seconds, peak memory in MiB; of several sizes the smallest first."""
    found = []
    for size in sorted(sizes):
        for step in STEPS:
            if steps and step not in steps and step != "fill":
                continue
            command = [sys.executable, "-m", "bnstudy.bench.scale", step, str(size), str(scratch)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{step} of {size} runs: {done.stderr.strip()}")
            found.append({"step": step, "num_runs": size, **json.loads(done.stdout.splitlines()[-1])})
            tell(
                f"{step:8} {size:8,} runs: {found[-1]['cpu_sec']:8.2f} s of processor, {found[-1]['peak_mib']:6.0f} MiB"
            )
    return found


def exponent(rows: Sequence[Row], key: str) -> float:
    """k of the power law `key` = c n^k through the first and the last size: 1 is linear."""
    first, last = rows[0], rows[-1]
    return math.log(last[key] / first[key]) / math.log(last["num_runs"] / first["num_runs"])


def _main(step: str, count: str, scratch: str) -> None:
    began = time.perf_counter()
    STEPS[step][1](Path(scratch), int(count))
    taken = {"cpu_sec": time.process_time(), "wall_sec": time.perf_counter() - began}  # the first with imports
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**taken, "peak_mib": peak}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
