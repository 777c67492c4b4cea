"""Checkpoints: what an interrupted group of runs needs to resume with the same bits, in one file, written atomically.

The file is a line with the checksum of the rest, which torch saved. Nothing is parsed before the checksum agrees, since
readers differ in which damage they notice. It is removed when its runs have ended, or when it is damaged; never because
an attempt to resume from it failed.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from bnstudy.store import files, paths
from bnstudy.store.jobs import Group

SCHEMA = 3


def save(results: Path, group: Group, state: dict[str, Any]) -> None:
    """Replace the group's checkpoint. `state` holds tensors and plain values only."""
    members = [job.run_id for job in group.jobs]
    path = _path(results, group.id)
    if not (path.parent / paths.MEMBERS).exists():
        files.write_text(path.parent / paths.MEMBERS, "\n".join(members) + "\n")
    _write(path, {**state, "schema": SCHEMA, "members": members})
    pace = {"step": state["position"]["step"], "wall_sec": state["wall_sec"]}
    files.write_text(path.parent / paths.PACE, json.dumps(pace))  # for commands that do not load torch


def load(results: Path, group: Group) -> dict[str, Any] | None:
    """The group's checkpoint; None where there is none, or, with a message, where it is of no use.

    Raises errors that are not the file's fault: OSError, or torch's where memory does not suffice.
    """
    path = _path(results, group.id)
    if not path.exists():
        return None
    head, _, content = path.read_bytes().partition(b"\n")
    if head != _digest(content):
        old = head.startswith(b"PK")  # how torch's own files begin
        of_no_use(group, f"{path} {'was written by another version' if old else 'is damaged'}")
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        state = None
    members = [job.run_id for job in group.jobs]
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or state.get("members") != members:
        of_no_use(group, f"{path} was written by another version")
        return None
    return state


def of_no_use(group: Group, why: str) -> None:
    """Log that the group's checkpoint is of no use, and why."""
    print(f"the checkpoint of {group.jobs[0].run_id} is of no use ({why}); its runs start again", flush=True)


def exists(results: Path, group: Group) -> bool:
    return _path(results, group.id).exists()


def remove(results: Path, group: Group) -> None:
    shutil.rmtree(_path(results, group.id).parent, ignore_errors=True)


def _path(results: Path, group_id: str) -> Path:
    return paths.groups(results) / group_id / paths.CHECKPOINT


def _write(path: Path, state: dict[str, Any]) -> None:
    """Raises OSError where the disk does; torch, writing to a file, would raise an error of its own instead."""
    content = io.BytesIO()
    torch.save(state, content)
    with files.writing(path) as file:
        file.write(_digest(content.getbuffer()) + b"\n")
        file.write(content.getbuffer())


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
