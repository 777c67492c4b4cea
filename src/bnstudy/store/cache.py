"""A cache in one SQLite file of what was read from many files, valid while those files stay unchanged.

A cache and nothing more: a value stands beside a stamp of what it was read from and counts while that is the same, so
that no writer has to keep it up to date. It can be removed at any time; a damaged one is begun anew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnstudy.store import paths

VERSION = 3  # of what is remembered: another one is begun anew
WAIT_SEC = 5.0  # for another process that writes
Remembered = dict[str, tuple[str, str]]  # key -> stamp, value as JSON


class Cache:
    """The cache of one results folder. Where no file can be written everything is read anew each time."""

    def __init__(self, results: Path) -> None:
        self._results, self._path = results, paths.cache(results)

    def read(self, kind: str) -> Remembered:
        """All entries of this kind: stamp and value by key."""
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as file:
            rows = file.execute("SELECT key, stamp, value FROM remembered WHERE kind = ?", [kind]).fetchall()
            return {key: (stamp, value) for key, stamp, value in rows}
        return {}

    def write(self, kind: str, values: Mapping[str, tuple[str, Any]]) -> None:
        """Store the entries: stamp and value by key."""
        rows = [(kind, key, stamp, json.dumps(value, separators=(",", ":"))) for key, (stamp, value) in values.items()]
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as file:
            file.executemany("INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._results.is_dir():  # nothing is there that could be remembered
            raise FileNotFoundError(self._results)
        self._path.parent.mkdir(exist_ok=True)
        try:
            file = self._connect()
        except sqlite3.DatabaseError as error:
            self._remove_damaged(error)
            file = self._connect()
        try:
            with contextlib.closing(file), file:
                yield file
        except sqlite3.DatabaseError as error:  # of a page that only reading or writing comes to
            self._remove_damaged(error)
            raise

    def _remove_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Remove the file, to be begun anew; raise the error again where the file is busy or not to be written."""
        if isinstance(error, sqlite3.OperationalError):
            raise error
        self._path.unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=WAIT_SEC)
        try:
            file.execute("PRAGMA synchronous = OFF")  # a file that a power cut damages is begun anew
            if file.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                file.executescript(
                    f"""DROP TABLE IF EXISTS remembered;
                    CREATE TABLE remembered
                        (kind TEXT, key TEXT, stamp TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
                    PRAGMA user_version = {VERSION};"""
                )
        except BaseException:
            file.close()
            raise
        return file
