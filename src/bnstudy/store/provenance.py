"""What a run was trained with: commit, uncommitted changes, versions, machine. No part of a run's identity."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bnstudy.store import devices

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "pandas", "pyarrow")
ROOT = Path(__file__).resolve().parents[3]
CODE = ("src", "conf", "sweeps", "pyproject.toml", "requirements.lock")


@cache
def code() -> dict[str, Any]:
    """Commit of the code, and the hash of uncommitted changes to what decides a run ("" where there are none).

    Where git does not have this very file (an archive, an installed copy, also one inside another repository; no git)
    the commit comes from BNSTUDY_COMMIT, or is "unknown", and a line says so.
    """
    commit, why = None, "git is not there, or gives no answer"
    if _git("--version") is not None:
        why = f"git has no {Path(__file__).name} in {ROOT}"
        if _git("ls-files", "--error-unmatch", "--", __file__) is not None:
            commit = _git("rev-parse", "HEAD")
    if commit is None:
        named = os.environ.get("BNSTUDY_COMMIT")
        if not named:
            print(f"the commit of the code is not known ({why}): set BNSTUDY_COMMIT to record it", file=sys.stderr)
        return {"commit": named or "unknown", "dirty": ""}
    changes = _git("status", "--porcelain", "--", *CODE)
    if changes is None:
        return {"commit": commit, "dirty": "unknown"}
    if not changes:
        return {"commit": commit, "dirty": ""}
    diff = _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", *CODE)
    return {"commit": commit, "dirty": hashlib.sha256(f"{changes}\n{diff}".encode()).hexdigest()[:8]}


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
    """The processor's name."""
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
    """Git's answer about the repository of this file; None where it refuses.

    Never about another repository, which GIT_DIR of a hook or a tool would name. Its owner does not matter: in a
    container that is often somebody else, whose code runs all the same.
    """
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
