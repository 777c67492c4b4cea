"""The folders of the interface for Python where none is named: the project's, wherever Python was started."""

from __future__ import annotations

from collections.abc import Iterable

from bnstudy.config.project import ROOT as PROJECT
from bnstudy.config.project import data_root, results

__all__ = ["PROJECT", "data_root", "results", "unknown"]


def unknown(what: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name, with the nearest known one."""
    from bnstudy.config.errors import suggestions  # here, because it loads Hydra

    return ValueError(f"{what} = {given!r}: there is none of that name; {suggestions(given, known)}")
