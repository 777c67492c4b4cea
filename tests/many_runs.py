"""Runs of a grid of LeNets, as many as are wanted, filled with made numbers: each with a manifest and a table as a real
one has."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from bnstudy.config.schema import Config, resolved
from bnstudy.store import paths
from bnstudy.store.runs import Store, sealed

SWEEP = "lenet_lr_grid"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NUM_EPOCHS = 5
EPOCHS = {
    "epoch": "int64",
    "step": "int64",
    **dict.fromkeys(("lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"), "float64"),
}
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
