"""The W&B mirror of a run: offline by default, without an account; it never asks, and never stops the training.

W&B drops a row whose step is below the last one. Rows of probes may reach us before those of earlier steps (which wait
on the device), so rows are held until a curve has passed their step.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import netrc
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bnstudy.store import paths
from bnstudy.tracking.summaries import Histogram, summarise

REACH_SEC = 10.0  # for one answer of the server, before anything is sent to it
ANSWER_SEC = 60.0  # for which an answer counts: many runs may be opened at once, on a network that is down
INIT_SEC = 30.0
FINISH_SEC = 60.0  # for what is still to upload when a run ends; after it the run stays on disk


class Wandb:
    """One W&B run, its id the run's identity. Several may be open in one process."""

    def __init__(
        self,
        results: Path,
        *,
        mode: str,
        project: str,
        run_id: str,
        group: str | None,
        tags: Sequence[str],
        config: Mapping[str, Any],
        job_type: str = "run",
    ) -> None:
        self._run: Any = None  # None: trouble, or finished; then every call does nothing
        self._held: dict[int, dict[str, float | Histogram]] = {}
        self._last = 0
        facts = {"project": project, "id": run_id, "name": run_id, "group": group, "job_type": job_type}
        try:
            self._run = _open(results, mode, {**facts, "tags": list(tags), "config": dict(config)})
        except Exception as error:
            self._stop(error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Hold the values, and send everything of earlier steps."""
        self._hold(step, values)
        self._send(before=step)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hold what `summarise` makes of the rows."""
        self._attempt(lambda _: self._hold(step, summarise(name, rows)))

    def images(self, pictures: Mapping[str, Path]) -> None:
        """Send picture files by name."""
        self._attempt(lambda run: run.log({name: _image(path) for name, path in pictures.items()}))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Send what is held and close the run."""
        self._send(before=None)
        self._attempt(lambda run: run.summary.update({"status": status, **summary}))
        self._attempt(lambda run: run.finish(exit_code=0 if status in ("completed", "diverged") else 1))
        self._run = None

    def _hold(self, step: int, values: Mapping[str, float | Histogram]) -> None:
        if self._run is not None:
            self._held.setdefault(step, {}).update(values)

    def _send(self, before: int | None) -> None:
        for step in sorted(s for s in self._held if before is None or s < before):
            row = self._held.pop(step, {})
            self._last = max(self._last, step)
            self._log(row, self._last)

    def _log(self, row: Mapping[str, float | Histogram], step: int) -> None:
        self._attempt(lambda run: run.log({name: _shown(value) for name, value in row.items()}, step=step))

    def _attempt(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._run, self._held = None, {}
        _warn(f"the mirror stops ({first_line(error)}); training and tables go on without it")


def limited(mode: str) -> str:
    """The mode of a mirror: `tracking.mode`, unless WANDB_MODE asks for less."""
    limit = os.environ.get("WANDB_MODE")
    if mode != "off" and limit == "disabled":
        _warn(f"WANDB_MODE=disabled: nothing is mirrored. Unset it for tracking.mode={mode}")
        return "off"
    if mode == "online" and limit in ("offline", "dryrun"):
        _warn(f"WANDB_MODE={limit}: runs are kept offline. Unset it for tracking.mode=online; `make sync` uploads them")
        return "offline"
    return mode


def obstacle() -> str | None:
    """A message about what prevents uploading; None if the server answers and takes the key."""
    import wandb

    settings = wandb.setup().settings  # read once a process; a key may be given later
    address = settings.base_url
    key = os.environ.get("WANDB_API_KEY") or settings.api_key or _key_in_netrc(address)
    if key is None:
        return f"there is no W&B key for {address}: run `.venv/bin/wandb login`, or set WANDB_API_KEY"
    return _refusal(address, key, int(time.monotonic() / ANSWER_SEC))


@lru_cache(maxsize=1)
def _refusal(address: str, key: str, period: int) -> str | None:
    """Why the server takes no uploads with this key; asked once a period."""
    login = base64.b64encode(f"api:{key}".encode()).decode()
    question = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { id } }"}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(question, timeout=REACH_SEC) as answer:
            viewer = (json.load(answer).get("data") or {}).get("viewer")
    except (OSError, ValueError) as error:  # HTTPError and URLError are OSErrors
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
            return f"{address} does not take the W&B key: run `.venv/bin/wandb login --relogin`"
        cause = getattr(error, "reason", None) or error
        return f"{address} cannot be reached ({cause}): connect to the network, or set WANDB_BASE_URL"
    return None if viewer else f"{address} does not take the W&B key: run `.venv/bin/wandb login --relogin`"


def confine(results: Path) -> None:
    """Keep W&B's own files below the results root; what the user has set stands."""
    folder = paths.wandb(results).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if _home() is None:
        os.environ.setdefault("WANDB_CONFIG_DIR", str(folder / "config"))
    for name, value in {
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        os.environ.setdefault(name, value)


def _open(results: Path, mode: str, facts: Mapping[str, Any]) -> Any:
    confine(results)
    import wandb

    if mode == "online" and (reason := obstacle()) is not None:
        _warn(f"{reason}. Runs are kept offline; `make sync` uploads them")
        mode = "offline"
    settings = wandb.Settings(
        quiet=True,
        silent=True,
        console="off",
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        symlink=False,
        init_timeout=INIT_SEC,
        finish_timeout=FINISH_SEC,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    folder = paths.wandb(results).parent.resolve()  # W&B itself appends "wandb", and would expand a `~`
    options: dict[str, Any] = {"mode": mode, "reinit": "create_new", "resume": "allow", "settings": settings}
    with _quiet_log():
        return wandb.init(dir=folder, **options, **facts)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Where W&B cannot write the log of a run opened here, keep it from printing a traceback for every line."""
    log, raises = logging.getLogger("wandb"), logging.raiseExceptions
    others = {*log.handlers}
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for handler in {*log.handlers} - others:
            handler.handleError = lambda record: None  # type: ignore[method-assign]


def _shown(value: float | Histogram) -> Any:
    if not isinstance(value, Histogram):
        return value
    import wandb

    return wandb.Histogram(np_histogram=(np.asarray(value.counts), np.asarray(value.edges)))


def _image(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path.resolve()))


def _key_in_netrc(address: str) -> str | None:
    """The key where `wandb login` keeps it."""
    home = _home()
    for path in (os.environ.get("NETRC"), home and home / ".netrc", home and home / "_netrc"):
        try:
            entry = netrc.netrc(path).authenticators(urlsplit(address).netloc) if path else None
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None:
            return entry[2]
    return None


def _home() -> Path | None:
    """The user's home, where there is one to be read."""
    try:
        home = Path.home()
        os.listdir(home)
    except (OSError, RuntimeError):
        return None
    return home


def first_line(error: Exception) -> str:
    """What the error says in its first line, or its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@cache
def _warn(text: str) -> None:
    """Print the text once in a process, however many runs are open."""
    print(f"W&B: {text}.", file=sys.stderr, flush=True)
