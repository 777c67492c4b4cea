"""Count what the architecture is judged by: rooms, their lines, floors, imports between rooms.

A room is a package or a module directly below `bnstudy`. It stands one floor above the highest room that it imports.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import grimp

SOURCES = {".py", ".c", ".h", ".jinja"}
PACKAGE = Path(__file__).resolve().parents[1] / "src" / "bnstudy"


def imports() -> dict[str, set[str]]:
    """By room, the rooms that it imports; imports for type checking alone do not count."""
    graph = grimp.build_graph("bnstudy", exclude_type_checking_imports=True, cache_dir=None)
    rooms = {name: set[str]() for name in sorted(graph.find_children("bnstudy")) if name != "bnstudy.__main__"}
    for importer in graph.modules - {"bnstudy", "bnstudy.__main__"}:
        for imported in graph.find_modules_directly_imported_by(importer) - {"bnstudy"}:
            above, below = (".".join(name.split(".")[:2]) for name in (importer, imported))
            rooms[above] |= {below} - {above}
    return rooms


def lines(room: str) -> int:
    """Of Python, C and templates in a room."""
    path = PACKAGE / room.removeprefix("bnstudy.")
    files = [path.with_suffix(".py")] if not path.is_dir() else [f for f in path.rglob("*") if f.suffix in SOURCES]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def main() -> None:
    below = imports()

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in below[room]), default=0)

    for room in sorted(below, key=lambda room: (-floor(room), room)):
        names = ", ".join(sorted(name.removeprefix("bnstudy.") for name in below[room]))
        print(f"floor {floor(room)}  {room.removeprefix('bnstudy.'):9} {lines(room):6,} lines  imports {names or '-'}")
    num_imports = sum(map(len, below.values()))
    print(f"{len(below)} rooms, {max(map(floor, below))} floors, {num_imports} imports between rooms")


if __name__ == "__main__":
    main()
