"""Runs with plausible made-up numbers, written through the real store and reduction, for the tests of the analysis."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnstudy import probes
from bnstudy.analysis import findings, frames
from bnstudy.store import paths, reduction
from bnstudy.store.runs import Store

REPOSITORY = Path(__file__).resolve().parents[1]
FINDINGS = REPOSITORY / "analysis" / "findings"
SEEDS = (0, 1, 2, 3, 4)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def write_workspace(root: Path, *, synthetic: bool = False, sweeps: Sequence[str] = ("init", "lenet_lr_grid")) -> Path:
    """A workspace with reduced tables of both sweeps, five seeds an arm (three for LeNet)."""
    store = Store(root)
    workspace = paths.workspace(root, "quick")
    if "init" in sweeps:
        ids = [write_init_run(store, norm, seed, synthetic=synthetic) for norm in ("batch", "none") for seed in SEEDS]
        reduction.reduce(store, ids, paths.tables(workspace, "init"))
    if "lenet_lr_grid" in sweeps:
        ids = [
            write_lenet_run(store, norm, lr, seed, synthetic=synthetic)
            for norm in ("batch", "none")
            for lr in RATES
            for seed in range(3)
        ]
        reduction.reduce(store, ids, paths.tables(workspace, "lenet_lr_grid"))
    return workspace


@cache
def shared(*, synthetic: bool = False) -> Path:
    """The same workspace for every test that only reads it, made once a process."""
    root = Path(tempfile.mkdtemp(prefix="bnstudy-synthetic-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return write_workspace(root, synthetic=synthetic)


def copy(workspace: Path, to: Path) -> Path:
    """The tables of a workspace, for a test that changes them or builds from them."""
    shutil.copytree(workspace / "tables", to / "tables")
    return to


def frames_of(name: str, workspace: Path | None = None) -> tuple[findings.Finding, dict[str, pd.DataFrame]]:
    """A finding of the repository with the frames it asks for."""
    finding = findings.load(FINDINGS / f"{name}.py")
    source = shared() if workspace is None else workspace
    data = frames.needed(source, finding.sweep, finding.needs)
    if finding.published is not None:
        data["published"] = frames.published(FINDINGS.parent / "paper_curves", finding.published)
    return finding, data


def config(model: dict[str, Any], norm: str, lr: float, seed: int, data: str, train: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "norm": {"name": norm},
        "init": "xavier_uniform",
        "data": {"name": data, "batch_size": 128, "normalise": "channel", "augment": True, "num_train": None},
        "optim": {"lr": lr, "momentum": 0.9, "weight_decay": 1e-4, "milestones": [0.5, 0.75], "decay": 0.1},
        "train": train,
        "precision": "fp32",
        "seed": seed,
    }


def manifest(config_: dict[str, Any], *, synthetic: bool = False, **values: Any) -> dict[str, Any]:
    return {
        "status": "completed",
        "outcome": None,
        "diverged_step": None,
        "error": None,
        "config": config_,
        "data": {
            "name": config_["data"]["name"],
            "source": "synthetic" if synthetic else "arrays",
            "sha256": "1a2b3c4d" * 8,
        },
        "provenance": {"commit": "0123456789abcdef" * 2, "dirty": "", "device": "cpu", "threads": 1},
        "num_steps": 0,
        "final": None,
        "wall_sec": 12.5,
        "probe_share": 0.9,
        **values,
    }


def write_init_run(store: Store, norm: str, seed: int, *, synthetic: bool = False) -> str:
    run_id = f"resnet110-{norm}-lr0.1-s{seed}-{'ab' if norm == 'batch' else 'cd'}{seed:06d}"
    rng = np.random.default_rng([seed, norm == "batch"])
    writer = store.writer(run_id)
    for table, rows in _init_tables(norm, rng).items():
        writer.add(table, {"step": "int64", **probes.columns(table)}, rows)
    config_ = config({"name": "resnet", "depth": 110}, norm, 0.1, seed, "cifar10", {"epochs": 165, "steps": 0})
    writer.finish(manifest(config_, synthetic=synthetic))
    return run_id


def write_lenet_run(store: Store, norm: str, lr: float, seed: int, *, synthetic: bool = False) -> str:
    run_id = f"lenet-{norm}-lr{lr:g}-s{seed}-{'ab' if norm == 'batch' else 'cd'}{seed:06d}"
    rng = np.random.default_rng([seed, int(lr * 100), norm == "batch"])
    centre, reach, limit = (0.7, 1.6, 50.0) if norm == "batch" else (0.9, 0.55, 2.0)
    train = max(0.1, 0.88 * np.exp(-((np.log10(lr / centre)) ** 2) / (2 * reach**2))) + rng.normal(0, 0.01)
    diverged = lr > limit
    outcome = "diverged" if diverged else "stalled" if train < 0.3 else "trained"
    final = {"train_loss": 1 - train, "train_accuracy": train, "test_loss": 1.1 - train, "test_accuracy": train - 0.03}
    writer = store.writer(run_id)
    writer.finish(
        manifest(
            config({"name": "lenet"}, norm, lr, seed, "fashion_mnist", {"epochs": 2, "steps": None}),
            synthetic=synthetic,
            status="diverged" if diverged else "completed",
            outcome=outcome,
            diverged_step=17 if diverged else None,
            num_steps=17 if diverged else 470,
            final=dict.fromkeys(final) if diverged else final,
        )
    )
    return run_id


def _init_tables(norm: str, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    return {
        "activation_moments": _moments(norm, rng),
        "gradient_tails": _tails(norm, rng),
        "conv_gradient_sums": _sums(norm, rng),
        "logit_gradient": _logits(norm, rng),
        "gradient_correlation": _correlation(norm, rng),
    }


def _width(depth: int) -> int:
    return 10 if depth == 110 else 16 if depth <= 37 else 32 if depth <= 73 else 64


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _moments(norm: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    walk = rng.normal(0, 0.25)
    for depth in range(1, 111):
        block = (depth - 2) // 2 % 18 + 1 if depth > 1 else 1
        walk += rng.normal(0, 0.04)
        ln_std = 0.5 * np.log(1 + 0.32 * block) if norm == "batch" else -1.4 + 0.05 * depth + walk
        if depth == 110:
            ln_std = -0.8 if norm == "batch" else 3.0 + walk
        shift = 0.0 if norm == "batch" else 0.3
        for channel in range(_width(depth)):
            std = float(np.exp(ln_std + rng.normal(0, 0.3)))
            rows += [
                {
                    "step": 0,
                    "depth": depth,
                    "layer": f"layer{depth}",
                    "site": site,
                    "block_output": depth % 2 == 1 and 1 < depth < 110,
                    "channel": channel,
                    "mean": std * (0.8 + shift) * float(rng.normal(0, 1)),
                    "variance": std**2,
                }
                for site in ("preactivation", "activation")
            ]
    return _columns(rows)


def _tails(norm: str, rng: np.random.Generator) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    scale = np.exp(rng.normal(0, 0.3))
    for depth in range(1, 111):
        if norm == "batch":
            sample = rng.standard_t(30, 4000) * 0.008
        else:
            sample = rng.standard_t(4.5, 4000) * 2.2 * scale * np.exp((55 - depth) / 60)
        std = float(sample.std())
        kurtosis = float(((sample - sample.mean()) ** 4).mean() / std**4)
        largest = float(np.abs(sample).max())
        counts, edges = np.histogram(sample, bins=64)
        ordered = np.sort(np.abs(sample))[::-1]

        def add(
            quantity: str,
            value: float,
            x: float = np.nan,
            x_high: float = np.nan,
            low: float = np.nan,
            high: float = np.nan,
            depth: int = depth,
        ) -> None:
            rows.append(
                {
                    "step": 0,
                    "depth": depth,
                    "layer": f"layer{depth}",
                    "quantity": quantity,
                    "x": x,
                    "x_high": x_high,
                    "value": value,
                    "low": low,
                    "high": high,
                }
            )

        add("count", 4000.0)
        add("mean", float(sample.mean()))
        add("std", std)
        add("kurtosis", kurtosis)
        add("max_abs", largest)
        for index, count in enumerate(counts):
            add("histogram_linear", float(count), edges[index], edges[index + 1])
        fixed = 10.0 ** (np.arange(-48, 17) / 8)  # the same in every run
        fixed[0] = 0.0
        for index, count in enumerate(np.histogram(np.abs(sample), fixed)[0]):
            add("histogram_log", float(count), fixed[index], fixed[index + 1])
        for share in np.linspace(0.01, 0.1, 10):
            k = int(share * 4000)
            alpha = 1 / float(np.mean(np.log(ordered[:k] / ordered[k])))
            add("hill", alpha, x=float(share), low=alpha * 0.85, high=alpha * 1.15)
    return _columns(rows)


def _sums(norm: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    for depth in range(1, 110):
        num = 128 * {16: 1024, 32: 256, 64: 64}[_width(depth)]
        if norm == "batch":
            sum_abs, ratio = 8e-5 * np.exp(-depth / 40), 300 * np.exp(-depth / 45)
        else:
            sum_abs, ratio = 1.5e-4 * np.exp(depth / 120), 2.5
        sum_abs, ratio = sum_abs * np.exp(rng.normal(0, 0.2)), ratio * np.exp(rng.normal(0, 0.1))
        rows.append(
            {
                "step": 0,
                "depth": depth,
                "layer": f"layer{depth}",
                "num_summands": num,
                "sum_abs": sum_abs,
                "abs_sum": sum_abs / ratio,
                "ratio": ratio,
            }
        )
    return _columns(rows)


def _logits(norm: str, rng: np.random.Generator) -> dict[str, Any]:
    labels = rng.integers(0, 10, 128)
    logits = rng.normal(0, 1, (128, 10)) * (0.8 if norm == "batch" else 2.0) + rng.normal(0, 1, 10) * (
        1.0 if norm == "batch" else 25.0
    )
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    entries = (softmax - np.eye(10)[labels]) / 128
    positive = np.clip(entries, 0, None).sum(0)
    scalars = {
        "top_column_share": positive.max() / positive.sum(),
        "mean_max_softmax": softmax.max(1).mean(),
        "max_abs_column_sum": np.abs(entries.sum(0)).max(),
        "cosine": (0.08 if norm == "batch" else 0.43) + rng.normal(0, 0.02),
        "cosine_without_label": (0.3 if norm == "batch" else 0.95) + rng.normal(0, 0.02),
    }
    rows = [
        {"step": 0, "quantity": "entry", "example": i, "label": labels[i], "column": j, "value": entries[i, j]}
        for i in range(128)
        for j in range(10)
    ]
    rows += [
        {"step": 0, "quantity": q, "example": -1, "label": -1, "column": -1, "value": float(v)}
        for q, v in scalars.items()
    ]
    return _columns(rows)


def _correlation(norm: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    for depth in range(1, 111):
        for size in (1, 16, 32, 128):
            defined = not (size == 1 and norm == "batch")
            level = 0.02 * np.log2(size + 1) if norm == "batch" else 1 - 0.55 / size**0.4
            rows.append(
                {
                    "step": 0,
                    "depth": depth,
                    "layer": f"layer{depth}",
                    "batch_size": size,
                    "num_batches": 8,
                    "num_pairs": 28,
                    "cosine_mean": level + rng.normal(0, 0.015) if defined else np.nan,
                    "cosine_std": 0.1 if defined else np.nan,
                    "defined": defined,
                }
            )
    return _columns(rows)
