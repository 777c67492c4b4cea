"""What a run was made with: commit, uncommitted changes, versions, machine. None of it is part of a run's identity."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bnstudy import devices

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "pandas", "pyarrow")
ROOT = Path(__file__).resolve().parents[2]
CODE = ("src", "conf", "sweeps", "pyproject.toml", "requirements.lock")


@cache
def code() -> dict[str, Any]:
    """Commit of the code, and the hash of uncommitted changes to what decides a run ("" where there are none).

    Where there is no git (an archive, a bare GPU host) the commit comes from BNSTUDY_COMMIT, or is "unknown".
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": os.environ.get("BNSTUDY_COMMIT", "unknown"), "dirty": ""}
    changes = _git("status", "--porcelain", "--", *CODE) or ""
    if not changes:
        return {"commit": commit, "dirty": ""}
    return {
        "commit": commit,
        "dirty": hashlib.sha256(f"{changes}\n{_git('diff', 'HEAD', '--', *CODE)}".encode()).hexdigest()[:8],
    }


@cache
def machine() -> dict[str, Any]:
    """Interpreter, packages and processor."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "processor": processor(),
        "cores": devices.cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
