"""A sweep killed at random moments of every phase, and begun again, ends with the bytes of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest
from small_runs import config, launch_here, names, quadrants, torch_as_it_was, written

from bnstudy.analysis import report
from bnstudy.config.schema import resolved
from bnstudy.store import checkpoint, locks, paths, provenance, reduction
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import Store, Writer
from bnstudy.sweep import pool, rounds

FORK = multiprocessing.get_context("fork")  # real processes, that need not import torch
PHASES = ("training", "checkpointing", "writing tables", "reducing", "drawing")
SWEEP = "a_sweep"
PROVENANCE = ["wall_sec", "probe_share"]  # of the table of runs: these tell how long it took
STYLE = Path(__file__).resolve().parents[1] / "analysis" / "bnstudy.mplstyle"
FINDING = f'''"""The loss of every run."""
from bnstudy.analysis.findings import Evidence, claim, judge

TITLE, CAPTION, SWEEP, SIZE = "Loss", "caption", "{SWEEP}", (4, 3)
NEEDS = {{"steps": None}}


def plot(fig, frames):
    ax = fig.subplots()
    for _, rows in frames["steps"].groupby("run_id", observed=True):
        ax.plot(rows["step"], rows["loss"].clip(upper=10))
    ax.set(xlabel="step", ylabel="loss")


@claim(id="1", where="w", says="s", criterion="c", scale="reduced")
def counts(frames):
    return Evidence(str(len(frames["steps"])), "s", 3, judge(3, full=True, partial=True))


def numbers(frames):
    return []
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def sweep(root):
    """Three runs in lockstep, one of which diverges, and one alone."""
    looks = {"weights": {"at": [0], "every_steps": 4, "at_end": True}}
    how = {"probes": looks, "train__steps": 12, "runtime__checkpoint_every_sec": 0.0}
    wild = {"norm": {"name": "none"}, "optim__momentum": 0.0}
    return [config(root, **how, **wild, optim__lr=lr) for lr in (0.1, 1e9, 0.3)] + [config(root, **how)]


def work(configs, results, findings, phase, log):
    """All that `make sweep-NAME` and `make report` do; `phase` holds which part of it is under way."""
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]  # one of the parent's is no child of this
    pool.launch = launch_here

    @contextmanager
    def during(name):
        before, phase.value = phase.value, PHASES.index(name)
        yield
        phase.value = before

    checkpoint.save = during("checkpointing")(checkpoint.save)
    Writer.finish = during("writing tables")(Writer.finish)  # type: ignore[method-assign]
    wanted, workspace = jobs(configs), paths.workspace(results, "quick")
    with during("training"):
        bad = rounds.train_pending(SWEEP, wanted, results, 1)
    with during("reducing"):
        expected = {job.run_id: resolved(job.config) for job in wanted}
        folder = paths.tables(workspace, SWEEP)
        reduction.reduce(Store(results), list(expected), folder, expected=expected)
    with during("drawing"):
        bad |= bool(report.write(workspace, html=True, findings_dir=findings))
    os._exit(int(bad))


def made(configs, results):
    """Everything that has to be alike: raw tables, reduced tables, claims and pictures."""
    workspace, found = paths.workspace(results, "quick"), dict[object, object](written(results, names(configs)))
    files = [p for p in workspace.rglob("*") if p.is_file() and ".part" not in p.name]
    for path in sorted(p for p in files if p.parent.name != ".drawn"):  # says which tables figures were drawn from
        if path.stem == "runs":
            found[path.name] = pd.read_parquet(path).drop(columns=PROVENANCE).to_csv()
        elif path.stem not in ("throughput", "report"):  # the page says how long the runs took
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_killed_at_any_moment_and_begun_again(tmp_path, root, num_kills, record_property):
    provenance.code()  # once for all processes: the commit may change meanwhile
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    configs, findings = sweep(root), tmp_path / "analysis" / "findings"
    findings.mkdir(parents=True)
    (findings / "loss.py").write_text(FINDING)
    shutil.copy(STYLE, findings.parent)
    phase, log = FORK.Value("i", -1, lock=False), tmp_path / "log"

    def begin(results):
        process = FORK.Process(target=work, args=(configs, results, findings, phase, log))
        phase.value = -1
        process.start()
        return process

    with torch_as_it_was():
        whole = begin(tmp_path / "whole")
        whole.join(60)
        assert whole.exitcode == 0
        wanted = made(configs, tmp_path / "whole")
        assert {"steps.parquet", "runs.parquet", "weights.parquet", "loss.png", "claims.json"} <= wanted.keys()
        kills, wholes, results = Counter[str](), 0, tmp_path / "cut0"
        while kills.total() < num_kills:
            aim = PHASES[kills.total() % len(PHASES)]
            process = begin(results)
            kind, pause = PHASES.index(aim), draw.uniform(0, 0.03)
            entries = draw.randrange(1, 8) if aim in PHASES[:2] else 1
            while entries and process.is_alive():  # the so manieth time that this phase begins
                entries -= phase.value == kind
                while phase.value == kind and entries and process.is_alive():
                    time.sleep(0.0002)
            time.sleep(pause)
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGKILL)
            hit = PHASES[phase.value] if phase.value >= 0 else "training"
            process.join(60)
            if process.exitcode == -signal.SIGKILL:
                kills[hit] += 1
                continue
            assert process.exitcode == 0, (seed, process.exitcode, log.read_text())
            assert made(configs, results) == wanted, seed
            wholes += 1
            shutil.rmtree(results)
            results = tmp_path / f"cut{wholes}"
        last = begin(results)
        last.join(60)
        assert last.exitcode == 0, seed
    assert made(configs, results) == wanted, seed
    assert locks.holders(results) == {}
    told = ", ".join(f"{count} {name}" for name, count in kills.items())
    record_property("told", f"{num_kills} kills: {told}; {wholes + 1} sweeps ended, each with the same bytes")
