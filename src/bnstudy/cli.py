"""The command line: one function a command. What a command needs is imported when it runs; `--help` imports nothing."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PRESETS = ("quick", "full")
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status: 0 done (diverged and refuted are results), 1 something failed, 2 bad input, 130 Ctrl-C."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and not getattr(known, "takes_overrides", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if any(word.startswith("-") for word in rest):
        parser.error(f"unknown option {next(w for w in rest if w.startswith('-'))}; {known.command} --help lists them")
    known.overrides = [*getattr(known, "overrides", []), *rest]
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages; read when it is first imported
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill saves as Ctrl-C does
    try:
        sys.exit(known.act(known))
    except ValueError as error:
        print(f"bnstudy: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        print(f"bnstudy: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print("\nbnstudy: interrupted; what was saved is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnstudy", description="Understanding Batch Normalization (Bjorck et al., 2018), tested. See README.md."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, act: object, text: str, *, named: str | None = None, overrides: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(act=act, takes_overrides=overrides)
        if named:
            sub.add_argument("name", help=named)
        if overrides:
            sub.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides")
        return sub

    def places(sub: argparse.ArgumentParser, *, data: bool = False) -> None:
        sub.add_argument("--results", type=Path, default=Path("results"), help="results root (default: results)")
        if data:
            root = Path(os.environ.get("BNSTUDY_DATA_ROOT", "data"))
            sub.add_argument("--data-root", type=Path, default=root, help=f"data folder (default: {root})")

    def parallel(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--jobs", type=_positive, default=None, help="parallel processes (default: one a core)")

    run = command("run", _run, "make one run, e.g. bnstudy run model=resnet20 norm=none optim.lr=0.01", overrides=True)
    places(run, data=True)

    text = "make every run of a sweep that is not done, then reduce it to tables"
    sweep = command("sweep", _sweep, text, named="a file in sweeps/", overrides=True)
    sweep.add_argument("--preset", default="full", help="quick or full (default: full)")
    places(sweep, data=True)
    parallel(sweep)

    text = "data, sweeps, tables, figures, claims and report in one go"
    reproduce = command("reproduce", _reproduce, text, overrides=True)
    reproduce.add_argument("--preset", default="quick", help="quick or full (default: quick)")
    places(reproduce, data=True)
    parallel(reproduce)

    status = command("status", _status, "every sweep: done, diverged, failed, under way, pending")
    status.add_argument("--preset", default=None, help="one preset (default: all)")
    places(status, data=True)

    for name, text in (
        ("figures", "draw the figures and judge the claims from the committed tables, or a preset's"),
        ("report", "the same, and the HTML report"),
    ):
        drawn = command(name, _report, text)
        drawn.add_argument("--preset", default=None, help="quick or full (default: the committed tables)")
        drawn.add_argument(
            "--strict", action="store_true", help="refuse a figure whose runs were made by several commits"
        )
        places(drawn)

    text = "copy a sweep's tables of real data to results/tables and redraw"
    publish = command("publish", _publish, text, named="a file in sweeps/")
    publish.add_argument("--preset", default="full", help="the preset to publish (default: full)")
    places(publish, data=True)

    data = command("data", _data, "get the data sets, or say why they cannot be had")
    places(data, data=True)

    for name, act, text in (
        ("dashboard", _dashboard, "terminal dashboard on the offline W&B runs"),
        ("sync", _sync, "upload the offline W&B runs"),
    ):
        places(command(name, act, text))

    bench = command("bench", _bench, "speed against a textbook loop, as ratios measured in one run")
    bench.add_argument("--rows", default=None, help="comma-separated rows (default: all; empty: only show the tables)")
    bench.add_argument("--name", default=None, help="name of the file in results/bench (default: after the processor)")
    bench.add_argument("--readme", action="store_true", help="put the tables into README.md, too")
    places(bench, data=True)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from bnstudy import compose, study

    return study.single(compose.one(_with_places(arguments)), arguments.results)


def _sweep(arguments: argparse.Namespace) -> int:
    from bnstudy import study

    return study.sweep(arguments.name, arguments.preset, _with_places(arguments), arguments.results, arguments.jobs)


def _reproduce(arguments: argparse.Namespace) -> int:
    from bnstudy import study

    return study.reproduce(arguments.preset, _with_places(arguments), arguments.results, arguments.jobs)


def _status(arguments: argparse.Namespace) -> int:
    from bnstudy import study

    return study.status(arguments.preset, _with_places(arguments), arguments.results)


def _report(arguments: argparse.Namespace) -> int:
    from bnstudy import paths, report

    workspace = paths.workspace(arguments.results, arguments.preset)
    return report.make(workspace, html=arguments.command == "report", strict=arguments.strict)


def _publish(arguments: argparse.Namespace) -> int:
    from bnstudy import study

    return study.publish(arguments.name, arguments.preset, _with_places(arguments), arguments.results)


def _data(arguments: argparse.Namespace) -> int:
    from bnstudy.data import sources

    for name in sources.NAMES:
        found = sources.locate(name, arguments.data_root)
        print(f"{name}: {found.num_train} + {found.num_test} images, {found.kind}, sha256 {found.sha256[:12]}")
        print(f"  from {found.folder}")
    return 0


def _dashboard(arguments: argparse.Namespace) -> int:
    from bnstudy import tracking

    return tracking.dashboard(arguments.results)


def _sync(arguments: argparse.Namespace) -> int:
    from bnstudy import tracking

    return tracking.sync(arguments.results)


def _bench(arguments: argparse.Namespace) -> int:
    from bnstudy import bench

    rows = None if arguments.rows is None else [row for row in arguments.rows.split(",") if row]
    return bench.main(arguments.data_root, arguments.results, rows, name=arguments.name, readme=arguments.readme)


def _with_places(arguments: argparse.Namespace) -> list[str]:
    """The user's overrides, after the folders given as options, quoted for Hydra's grammar."""
    return [
        f"runtime.data_root={_quoted(arguments.data_root)}",
        f"runtime.results={_quoted(arguments.results)}",
        *arguments.overrides,
    ]


def _quoted(path: Path) -> str:
    text = str(path).replace("'", r"\'")
    return f"'{text}'"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _version() -> str:
    from bnstudy import __version__

    return f"bnstudy {__version__}"
