"""The W&B side of the command line: the dashboard on offline runs, their upload, and the figures as one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bnstudy.store import locks, paths
from bnstudy.tracking.wandb import Wandb, confine, limited, obstacle

WANDB = (sys.executable, "-P", "-m", "wandb")  # its own command
BATCH = 20  # offline runs handed to one `wandb sync`
HEADER_BYTES = 7  # what W&B writes into a file as it opens it; a killed run may leave no more
IN_PART = "uploaded-in-part"  # our mark in a run's folder: the bytes that there were of a file that W&B found cut off
CUT = "incomplete"  # what W&B says of such a file, after it has uploaded what there is
SYNC_SEC = 60.0  # allowed for each of them; without a network `wandb sync` would wait for ever


def offline_runs(results: Path) -> list[Path]:
    """Folders of runs recorded offline, oldest first, uploaded or not."""
    return sorted(path for path in paths.wandb(results).glob("offline-run-*") if any(path.glob("*.wandb")))


def dashboard(results: Path) -> int:
    """Open the terminal dashboard on every W&B run on this disk; return an exit code."""
    folder = paths.wandb(results)
    if not any(folder.glob("*run-*/*.wandb")):
        return _refuse(f"dashboard: there are no W&B runs in {folder}; `make reproduce` or any sweep records some")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _refuse("dashboard: it needs a terminal; run `make dashboard` in one")
    confine(results)
    return subprocess.call([*WANDB, "leet", "run", str(folder)])


def sync(results: Path, *, seconds_per_run: float = SYNC_SEC) -> int:
    """Upload the offline runs that are not uploaded yet; return an exit code: 1, with a message, where that fails.

    Having nothing to upload is no failure. A run that W&B refuses holds up no other: it is named at the end. One that
    was killed is uploaded as far as W&B wrote it. One that still trains waits: what were uploaded of it now, W&B would
    add once more when the run has ended.
    """
    recorded, empty, training = list[Path](), list[Path](), list[Path]()
    for run in offline_runs(results):
        whole = any(file.stat().st_size > HEADER_BYTES for file in run.glob("*.wandb"))
        trains = locks.holder(results, run.name.split("-", 3)[-1]) is not None  # offline-run-TIME-ID
        (training if trains else recorded if whole else empty).append(run)
    if training:
        print(f"sync: {len(training)} runs still train, such as {training[0].name}: sync again when they have ended")
    if empty:
        why = "they were killed as they began"
        print(f"sync: {len(empty)} runs hold nothing to upload, such as {empty[0].name}: {why}")
    waiting = [run for run in recorded if not _uploaded(run) and not _uploaded_in_part(run)]
    if not waiting:
        folder = paths.wandb(results)
        why = f"every offline run in {folder} has been uploaded" if recorded else f"there are none in {folder}"
        if in_part := sum(map(_uploaded_in_part, recorded)):
            why += f", {in_part} of them as far as W&B wrote them"
        print(f"sync: no offline runs to upload; {why}")
        return 0
    confine(results)
    if (reason := obstacle()) is not None:
        return _refuse(f"sync: {reason}. {len(waiting)} offline runs wait in {paths.wandb(results)}")
    refused, silent = dict[Path, str](), ""
    for first in range(0, len(waiting), BATCH):
        batch = waiting[first : first + BATCH]
        print(f"sync: {first - len(refused)} of {len(waiting)} runs uploaded", flush=True)
        try:
            trouble = _upload(batch, results, seconds_per_run * len(batch))
        except subprocess.TimeoutExpired as expired:
            silent = f"W&B did not take the runs within {expired.timeout:.0f} s. "  # nor will it take the next ones
            break
        if trouble is not None:  # W&B takes none of a batch that has a file that it cannot read
            left = {batch[0]: trouble} if len(batch) == 1 else _one_by_one(batch, results, seconds_per_run)
            refused |= left
            if len(left) == BATCH:  # nor will it take the next ones
                break
    cut = [run for run, trouble in refused.items() if CUT in trouble]
    for run in cut:
        del refused[run]
        (run / IN_PART).write_text(str(_size(run)), encoding="utf-8")
        print(f"sync: {run.name} was killed, and is uploaded as far as W&B wrote it")
    print(f"sync: {sum(map(_uploaded, waiting)) + len(cut)} of {len(waiting)} runs uploaded")
    if not refused and not silent:
        return 0
    for run, trouble in refused.items():
        print(f"sync: W&B refused {run.name} ({trouble})", file=sys.stderr)
    return _refuse(f"sync: {silent}Run `make sync` again for the runs that are left")


def log_figures(workspace: Path, results: Path, *, mode: str = "offline", project: str = "bnstudy") -> int:
    """Send a workspace's figures (PNG) as images of one W&B run, in place of its last one; return how many.

    Does nothing, and returns 0, where the mode is off or there are no figures.
    """
    pictures = {f"figures/{path.stem}": path for path in sorted(paths.figures(workspace).glob("*.png"))}
    if not pictures or (mode := limited(mode)) == "off":
        return 0
    run_id = f"figures-{workspace.name}"
    for earlier in paths.wandb(results).glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(earlier, ignore_errors=True)
    run = Wandb(
        results, mode=mode, project=project, run_id=run_id, group=workspace.name, tags=["figures"],
        config={"workspace": workspace.name}, job_type="figures",
    )  # fmt: skip
    run.images(pictures)
    run.finish("completed", {"num_figures": len(pictures)})
    return len(pictures)


def _uploaded(run: Path) -> bool:
    """Whether W&B has left its mark."""
    return any(run.glob("*.synced"))


def _uploaded_in_part(run: Path) -> bool:
    """Whether all that there is of a run whose file is cut off has been uploaded."""
    try:
        return (run / IN_PART).read_text(encoding="utf-8") == str(_size(run))
    except FileNotFoundError:
        return False


def _size(run: Path) -> int:
    return sum(file.stat().st_size for file in run.glob("*.wandb"))


def _one_by_one(runs: Sequence[Path], results: Path, seconds: float) -> dict[Path, str]:
    """Upload each of the runs that is not uploaded yet; return those that are left, with the reason."""
    left, silent = dict[Path, str](), False
    for run in runs:
        if _uploaded(run):
            continue
        try:
            trouble = "not tried, as W&B is silent" if silent else _upload([run], results, seconds)
        except subprocess.TimeoutExpired:
            trouble, silent = f"not taken within {seconds:.0f} s", True
        if trouble is not None:
            left[run] = trouble
    return left


def _upload(runs: Sequence[Path], results: Path, seconds: float) -> str | None:
    """None once all of the runs are uploaded, or what went wrong first. Raises subprocess.TimeoutExpired."""
    command = [*WANDB, "sync", "--yes", *(str(run.resolve()) for run in runs)]
    done = subprocess.run(  # W&B keeps a log of each upload in the folder `wandb` of where it runs
        command,
        cwd=results,
        env={**os.environ, "WANDB_SILENT": "false"},  # its errors are wanted: it exits 0 when refused
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if all(map(_uploaded, runs)):
        return None
    reasons = [line.removeprefix("wandb: ").strip() for line in done.stderr.splitlines() if "error" in line.lower()]
    return reasons[0] if reasons else f"exit code {done.returncode}"


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1
