"""Where everything lies under the results root: the only place that joins these names."""

from __future__ import annotations

from pathlib import Path

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
TRACEBACK = "traceback.txt"
MEMBERS = "members.txt"
PACE = "pace.json"
QUICK, FULL = "quick", "full"
PRESETS = (QUICK, FULL)  # presets of every sweep: for minutes, and for publishing; QUICK unless one is given
CUSTOM = "custom"  # the workspace of sweeps whose overrides ask for other runs than a preset


def runs(results: Path) -> Path:
    """Raw runs, one folder each; never committed."""
    return results / "runs"


def run(results: Path, run_id: str) -> Path:
    """One run's folder: its manifest, its tables, while it is under way its checkpoint."""
    return runs(results) / run_id


def groups(results: Path) -> Path:
    """Checkpoints of groups of runs that train in lockstep, one folder per group."""
    return results / "groups"


def locks(results: Path) -> Path:
    """Locks of the processes that train runs, one file per run, for as long as it is held."""
    return results / "locks"


def lock(results: Path, run_id: str) -> Path:
    return locks(results) / run_id


def cache(results: Path) -> Path:
    """What is remembered of runs and sweeps; it can be removed at any time."""
    return results / "index" / "cache.sqlite"


def cluster(results: Path) -> Path:
    """Jobs of a cluster: the groups they train, their logs, and which were submitted."""
    return results / "cluster"


def workspace(results: Path, preset: str | None) -> Path:
    """Tables, figures, claims and report of a preset, or CUSTOM; the published ones (None) are `results` itself."""
    return results if preset is None else results / preset


def named(results: Path, name: str) -> Path:
    """The workspace of results that a user gave a name."""
    return results / CUSTOM / name


def redrawn(results: Path) -> Path:
    """Figures, claims and report drawn anew from the published tables; what is published stays as it is."""
    return results / "redrawn"


def sweeps(workspace: Path) -> list[Path]:
    """The folders of all sweeps that have reduced tables, by name."""
    folder = workspace / "tables"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def tables(workspace: Path, sweep: str) -> Path:
    """The reduced tables of one sweep."""
    return workspace / "tables" / sweep


def figures(workspace: Path) -> Path:
    return workspace / "figures"


def drawn(workspace: Path) -> Path:
    """What each figure was drawn from, so that it is drawn again only where that has changed; can be removed."""
    return workspace / ".drawn"


def notebooks(results: Path) -> Path:
    """Notebooks as they were run, and as pages."""
    return results / "notebooks"


def wandb(results: Path) -> Path:
    """Offline W&B runs, side by side, so that `wandb leet` shows them as one workspace."""
    return results / "wandb"


def bench(results: Path) -> Path:
    return results / "bench"
