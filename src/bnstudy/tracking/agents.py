"""A sweep's twin at W&B: its grid, composed from the sweep itself, from which agents take one run after another."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bnstudy.config import compose
from bnstudy.config.identity import canonical
from bnstudy.store import files, paths
from bnstudy.tracking import sync as tracking
from bnstudy.tracking.wandb import confine, obstacle

REGISTER_SEC = 60.0
AXIS = "axis."  # before an axis in a parameter's name, which W&B puts among the run's own keys: norm is one of those
WHOLE = "job"  # the one parameter of a grid whose axes W&B would go through in vain


def definition(sweep: str, preset: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The sweep's definition for W&B: one parameter per axis, and the command that trains one run.

    Where several points of the grid are one and the same run, there is one parameter whose values are the runs. Raises
    as `compose.expand`, by which every point is checked.
    """
    configs = compose.expand(sweep, preset, overrides)
    axes = compose.axes(sweep, preset, overrides)
    runs = dict(zip((canonical(config, {}) for config in configs), itertools.product(*axes.values()), strict=True))
    parameters = {
        f"{AXIS}{key}": {"values": [_typed(text.partition("=")[2]) for text in texts]} for key, texts in axes.items()
    }
    if len(runs) < len(configs) or not parameters:
        parameters = {WHOLE: {"values": [shlex.join(texts) for texts in runs.values()]}}
    given = [text for text in overrides if text.partition("=")[0].lstrip("+~") not in axes]
    run = ["-m", "bnstudy", "run", "--yes", "--sweep", sweep, "--preset", preset]
    words = [*run, *given, "tracking.mode=online"]
    return {
        "project": configs[0].tracking.project,
        "name": f"{sweep} ({preset})",
        "description": compose.describe(sweep),
        "method": "grid",
        "parameters": parameters,
        "program": "bnstudy",
        "command": ["${env}", "${interpreter}", *words, "${args_no_hyphens}"],
    }


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of one run, taken from the arguments that agents give."""
    whole = f"{WHOLE}="
    parts = (shlex.split(text.removeprefix(whole)) if text.startswith(whole) else [text] for text in overrides)
    return [text.removeprefix(AXIS) for part in parts for text in part]


def register_sweep(sweep: str, preset: str, overrides: Sequence[str], results: Path) -> int:
    """Register the twin and print how agents are started; exit status 1, with a message, where that fails."""
    twin = definition(sweep, preset, overrides)  # an agent's machine has folders of its own (see `work`)
    confine(results)
    file = paths.wandb(results) / "sweeps" / f"{sweep}-{preset}.yaml"
    files.write_text(file, yaml.safe_dump(twin, sort_keys=False))
    if (reason := obstacle()) is not None:
        print(f"wandb-sweep: {reason}. What would be registered is in {file}", file=sys.stderr)
        return 1
    # WANDB_PROJECT would count for more than the file
    command = [*tracking.WANDB, "sweep", "--project", twin["project"], str(file.resolve())]
    try:
        done = subprocess.run(
            command, cwd=results, env={**os.environ, "WANDB_SILENT": "false"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=REGISTER_SEC,
        )  # fmt: skip
        output = done.stderr
    except subprocess.TimeoutExpired:
        output = f"W&B did not answer within {REGISTER_SEC:.0f} s"
    if (match := re.search(r"wandb agent (\S+)", output)) is None:
        print(f"wandb-sweep: {' '.join(output.split())[-300:]}", file=sys.stderr)
        return 1
    count = math.prod(len(each["values"]) for each in twin["parameters"].values())
    print(
        f"{sweep} ({preset}): {count} runs for agents; start as many as you like, on any machine with this repository:"
    )
    print(f"make wandb-agent SWEEP={match[1]}")
    print(f"when they are done, the tables: make sweep-{sweep} PRESET={preset}")
    return 0


def work(sweep: str, results: Path, data_root: Path) -> int:
    """One agent: trains runs of a registered sweep, one at a time, until none is left; W&B's exit status.

    The runs are written, and images looked for, in this machine's folders.
    """
    confine(results)
    if (reason := obstacle()) is not None:
        print(f"wandb-agent: {reason}", file=sys.stderr)
        return 1
    interpreter = Path(sys.executable).parent  # agents know it as `python`
    environment = {
        "PATH": f"{interpreter}{os.pathsep}{os.environ.get('PATH', '')}",
        "WANDB_DIR": str(results.resolve()),
        "BNSTUDY_RESULTS": str(results.resolve()),
        "BNSTUDY_DATA_ROOT": str(data_root.resolve()),
    }
    return subprocess.call([*tracking.WANDB, "agent", sweep], env=os.environ | environment)


def _typed(text: str) -> Any:
    """A value as a number, where written out again that is the same text; else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and str(value) == text else text
