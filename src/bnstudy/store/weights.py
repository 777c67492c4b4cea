"""Export the kept weights of a finished run as a file that plain torch loads."""

from __future__ import annotations

import io
from pathlib import Path

from bnstudy.store import files
from bnstudy.store.runs import Store

SUFFIXES = (".safetensors", ".pt")


def export(run_id: str, to: Path, results: Path) -> int:
    """Write the run's state dictionary to a new file.

    Raises ValueError for a file that ends otherwise or is there, or for a run that is not there, and StoreError for a
    run without weights.
    """
    if to.suffix not in SUFFIXES:
        raise ValueError(f"--to {to}: name a file ending in {' or '.join(SUFFIXES)}")
    if to.exists():
        raise ValueError(f"--to {to}: the file is there already; name another, or remove it")
    store = Store(results)
    store.require(run_id)
    content = store.weights_file(run_id).read_bytes()
    if to.suffix == ".pt":
        import torch

        torch.save(store.weights(run_id), buffer := io.BytesIO())
        content = buffer.getvalue()
    with files.replacing(to) as part:
        part.write_bytes(content)
    print(f"{run_id}: its weights are in {to} ({len(content) / 1e6:.1f} MB)")
    return 0
