"""What an interrupted group of runs needs to go on to the bit, in one file, written atomically."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from bnstudy import files, paths
from bnstudy.jobs import Group, under_way

SCHEMA = 1


def save(results: Path, group: Group, state: dict[str, Any]) -> None:
    """Replaces the group's checkpoint. `state` holds tensors and plain values only."""
    members = [job.run_id for job in group.jobs]
    path = _path(results, group.id)
    if not (path.parent / paths.MEMBERS).exists():
        files.write_text(path.parent / paths.MEMBERS, "\n".join(members) + "\n")
    with files.replacing(path) as part, part.open("wb") as file:  # a file, so that a full disk is an OSError
        torch.save({"schema": SCHEMA, "members": members, **state}, file)


def load(results: Path, group: Group) -> dict[str, Any] | None:
    """The group's checkpoint, or None where there is none or it cannot be trusted (damaged, of another schema)."""
    state = _read(_path(results, group.id))
    return state if state and state["members"] == [job.run_id for job in group.jobs] else None


def claim(results: Path, group: Group) -> None:
    """Drops other groups' checkpoints that hold a run of this group: its rows, which they name, are written anew."""
    ours = {job.run_id for job in group.jobs}
    for group_id, members in under_way(results).items():
        if group_id != group.id and ours.intersection(members):
            shutil.rmtree(_path(results, group_id).parent, ignore_errors=True)


def forget(results: Path, group: Group) -> None:
    shutil.rmtree(_path(results, group.id).parent, ignore_errors=True)


def _path(results: Path, group_id: str) -> Path:
    return paths.groups(results) / group_id / paths.CHECKPOINT


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch.load raises whatever the bytes provoke; each means the same to us
        print(f"{path} cannot be read ({type(error).__name__}); its runs start again", flush=True)
        return None
    return state if isinstance(state, dict) and state.get("schema") == SCHEMA and "members" in state else None
