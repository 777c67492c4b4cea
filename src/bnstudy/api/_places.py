"""Where the interface for Python looks where no folder is named: in the project, wherever Python was started."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
RESULTS, DATA_ROOT = "BNSTUDY_RESULTS", "BNSTUDY_DATA_ROOT"  # environment variables that name other folders


def results(given: str | os.PathLike[str] | None = None) -> Path:
    """The results folder: the one given, the one that BNSTUDY_RESULTS names, or the project's `results`.

    That holds what is published, and the runs that `make` trains.
    """
    given = given or os.environ.get(RESULTS)
    return Path(given).expanduser() if given else PROJECT / "results"


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where the images are: the folder given, the one that BNSTUDY_DATA_ROOT names, or the project's `data`."""
    given = given or os.environ.get(DATA_ROOT)
    return Path(given).expanduser() if given else PROJECT / "data"


def unknown(what: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is none, with the nearest one."""
    from bnstudy.config.errors import suggestions  # here, because it loads Hydra

    return ValueError(f"{what} = {given!r}: there is none of that name; {suggestions(given, known)}")
