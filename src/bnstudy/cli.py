"""The command line: one function a command. What a command needs is imported when it runs; `--help` imports nothing."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnstudy.store import paths

PRESETS = ("quick", "full")
DRAWN = (*PRESETS, paths.CUSTOM)
MINUTES_OF_TEN_YEARS = 5_256_000
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status: 0 done (diverged and refuted are results), 1 something failed, 2 bad input, 130 Ctrl-C."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and not getattr(known, "takes_overrides", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    for word in rest:
        if word.startswith("-"):
            listed = f"bnstudy {known.command} --help lists those there are"
            parser.error(f"unknown option {word}; {listed}; values are given without dashes, as optim.lr=0.1")
    known.overrides = [*getattr(known, "overrides", []), *rest]
    _say_what_is_given_twice(known.overrides)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages; read when it is first imported
    for polite in (signal.SIGINT, signal.SIGTERM):  # both save; SIGINT too where a script's `&` or nohup has it ignored
        signal.signal(polite, signal.default_int_handler)
    from bnstudy.sweep import budget

    try:
        with budget.minutes(getattr(known, "budget_min", None)):
            code = known.act(known)
        sys.exit(code)
    except budget.Spent as spent:
        print(f"bnstudy: the time is spent, what was done is kept; the same command goes on. {spent}".rstrip())
    except ValueError as error:
        print(f"bnstudy: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        print(f"bnstudy: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever is still to end: another one ends it at once
        print("\nbnstudy: interrupted; what was saved is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnstudy",
        description="The experiments of 'Understanding Batch Normalization' (Bjorck et al., 2018). See README.md.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    a_sweep = {"metavar": "SWEEP", "help": f"one of {', '.join(_sweeps())}"}
    a_suite = {"metavar": "SUITE", "help": "as sweeps/*.yaml name it: paper_init, paper_train, textbook"}

    def command(
        name: str, act: object, text: str, *, of: Mapping[str, str] | None = None, overrides: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(act=act, takes_overrides=bool(overrides))
        if of:
            sub.add_argument("name", metavar=of["metavar"], help=of["help"])
        if overrides:
            sub.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=overrides)
        return sub

    def places(sub: argparse.ArgumentParser, *, results: bool = True, data: bool = False) -> None:
        folders = {"--results": ("where everything made goes", Path("results"))} if results else {}
        if data:
            folders["--data-root"] = ("where the images are", Path(os.environ.get("BNSTUDY_DATA_ROOT", "data")))
        for option, (text, default) in folders.items():
            text = f"{text} (default: %(default)s)"
            sub.add_argument(option, type=_folder, default=str(default), metavar="FOLDER", help=text)

    def preset(
        sub: argparse.ArgumentParser, default: str | None, known: Sequence[str] = PRESETS, otherwise: str = ""
    ) -> None:
        text = f"default: {default or otherwise}"
        sub.add_argument("--preset", choices=known, default=default, help=text)

    def parallel(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--jobs", type=_positive, default=None, metavar="N", help="processes at a time (default: one a core)"
        )

    def accept_code(sub: argparse.ArgumentParser) -> None:
        text = "count runs as done though a file of their norm, network, initialiser or probe has changed since"
        sub.add_argument("--accept-code", action="store_true", help=text)

    def budget_min(sub: argparse.ArgumentParser) -> None:
        text = "stop after so many minutes, with everything saved; the same command goes on (default: never)"
        sub.add_argument("--budget-min", type=_minutes, default=None, metavar="N", help=text)

    def again(sub: argparse.ArgumentParser) -> None:
        text = "train runs that are published, too (default: they count as done)"
        sub.add_argument("--again", action="store_true", help=text)

    keys = "conf/ has what can be chosen, src/bnstudy/config/schema.py every key with its default"
    text = "make one run, as in: bnstudy run model=lenet data=fashion_mnist recipe=lenet norm=batch optim.lr=0.1"
    run = command("run", _run, text, overrides=f"what the run is: {keys}")
    text = "make a run of this sweep: the overrides are one value of each of its axes"
    run.add_argument("--sweep", choices=_sweeps(), default=None, metavar="SWEEP", help=text)
    preset(run, "full")
    places(run, data=True)
    accept_code(run)

    text = "make every run of a sweep that is not done, then the sweep's tables"
    values = f"what to change, several values make an axis, as in optim.lr=0.1,1; {keys}"
    sweep = command("sweep", _sweep, text, of=a_sweep, overrides=values)
    preset(sweep, "full")
    places(sweep, data=True)
    accept_code(sweep)
    parallel(sweep)
    budget_min(sweep)
    again(sweep)
    text = "who makes the runs (default: processes of this command); launcher.KEY=VALUE sets what is in conf/launcher"
    named = ", ".join(_launchers())
    sweep.add_argument("--launcher", type=_launcher, default="local", metavar="NAME", help=f"{text}: {named}")
    text = "only give the jobs to the cluster; the same command without it waits for them and makes the tables"
    sweep.add_argument("--no-wait", dest="wait", action="store_false", help=text)

    text = "data, sweeps, tables, figures, claims and report in one go"
    reproduce = command("reproduce", _reproduce, text, overrides=values)
    preset(reproduce, "quick")
    places(reproduce, data=True)
    accept_code(reproduce)
    parallel(reproduce)

    text = "every sweep of a suite, one after another, the estimate first, then their report"
    suite = command("suite", _suite, text, of=a_suite, overrides=values)
    preset(suite, "quick")
    places(suite, data=True)
    accept_code(suite)
    parallel(suite)
    budget_min(suite)
    again(suite)

    status = command("status", _status, "every sweep: completed, diverged, failed, running, pending; time left")
    preset(status, None, otherwise="both")
    places(status, data=True)

    text = "make the runs that failed once more, of every sweep or of one"
    retry = command("retry", _retry, text, overrides="runtime.* and tracking.* only")
    retry.add_argument("--sweep", default=None, metavar=a_sweep["metavar"], help=a_sweep["help"])
    places(retry, data=True)
    parallel(retry)

    text = "forget one run: its tables, its manifest, what was saved of it; refused while a process is making it"
    clean_run = command("clean-run", _clean_run, text)
    clean_run.add_argument("run_id", metavar="ID", help="the run's name, whole")
    places(clean_run)

    text = "write a finished run's last weights to a file: .safetensors, or .pt for torch.load"
    kept = command("weights", _weights, text)
    kept.add_argument("run_id", metavar="ID", help="the run's name, whole")
    kept.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file ending in .safetensors or .pt")
    places(kept)

    for name, text in (
        ("figures", "draw the figures and judge the claims from tables: the committed ones, or a preset's"),
        ("report", "the same as figures, and a page that shows them all: report.html"),
    ):
        drawn = command(name, _report, text)
        preset(drawn, None, DRAWN, otherwise="the committed tables, drawn into results/redrawn")
        drawn.add_argument(
            "--strict", action="store_true", help="refuse a figure whose runs were made by several commits"
        )
        places(drawn)

    text = "run the notebooks of analysis/notebooks on the committed tables; each as .ipynb and .html"
    notebooks = command("notebooks", _notebooks, text)
    notebooks.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    places(notebooks)

    text = "add a sweep's whole seeds to the committed tables and draw those anew; refuses stand-in data"
    publish = command("publish", _publish, text, of=a_sweep)
    preset(publish, "full")
    text = "take the raw run where it differs from what is published, and drop what the preset does not ask for"
    publish.add_argument("--replace", action="store_true", help=text)
    places(publish, data=True)

    data = command("data", _data, "get the data sets, or say why they cannot be had")
    places(data, results=False, data=True)

    for name, act, text in (
        ("dashboard", _dashboard, "terminal dashboard on the offline W&B runs"),
        ("sync", _sync, "upload the offline W&B runs"),
    ):
        places(command(name, act, text))

    text = "register a sweep's grid at W&B, for agents to make its runs"
    twin = command("wandb-sweep", _wandb_sweep, text, of=a_sweep, overrides=values)
    preset(twin, "full")
    places(twin, data=True)

    agent = command("wandb-agent", _wandb_agent, "make runs of a sweep registered at W&B, one after another")
    agent.add_argument("id", metavar="ENTITY/PROJECT/SWEEP", help="as wandb-sweep says")
    places(agent)

    shared = command("wandb-workspace", _wandb_workspace, "save the study's dashboard to a W&B project")
    shared.add_argument("--project", default="bnstudy", help="default: %(default)s")
    places(shared)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from bnstudy.config import compose
    from bnstudy.sweep import study

    overrides = _with_places(arguments)
    if arguments.sweep is None:
        return study.single(compose.one(overrides), arguments.results)
    from bnstudy.tracking import agents

    config = compose.point(arguments.sweep, arguments.preset, agents.chosen(overrides))
    return study.single(config, arguments.results)


def _sweep(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import launchers, study

    launcher, overrides = launchers.chosen(arguments.launcher, _with_places(arguments), wait=arguments.wait)
    at = arguments.results, arguments.jobs, launcher
    return study.sweep(arguments.name, arguments.preset, overrides, *at, again=arguments.again)


def _reproduce(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import study

    return study.reproduce(arguments.preset, _with_places(arguments), arguments.results, arguments.jobs)


def _suite(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import suite

    overrides, at = _with_places(arguments), (arguments.results, arguments.jobs)
    return suite.run(arguments.name, arguments.preset, overrides, *at, again=arguments.again)


def _status(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import upkeep

    return upkeep.status(arguments.preset, _with_places(arguments), arguments.results)


def _retry(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import upkeep

    return upkeep.retry(arguments.sweep, _with_places(arguments), arguments.results, arguments.jobs)


def _clean_run(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import upkeep

    return upkeep.forget(arguments.run_id, arguments.results)


def _report(arguments: argparse.Namespace) -> int:
    from bnstudy.analysis import report

    workspace = paths.workspace(arguments.results, arguments.preset)
    into = workspace if arguments.preset else paths.redrawn(arguments.results)  # the committed ones stay as they are
    return report.make(workspace, into=into, html=arguments.command == "report", strict=arguments.strict)


def _notebooks(arguments: argparse.Namespace) -> int:
    from bnstudy.analysis import notebook

    return notebook.make(arguments.names, arguments.results)


def _publish(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import study

    overrides, replace = _with_places(arguments), arguments.replace
    return study.publish(arguments.name, arguments.preset, overrides, arguments.results, replace=replace)


def _data(arguments: argparse.Namespace) -> int:
    from bnstudy.data import sources

    for name in sources.NAMES:
        found = sources.locate(name, arguments.data_root)
        print(f"{name}: {found.num_train} + {found.num_test} images, {found.kind}, sha256 {found.sha256[:12]}")
        print(f"  {found.title or name} from {found.folder}")
    return 0


def _dashboard(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import sync as tracking

    return tracking.dashboard(arguments.results)


def _sync(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import sync as tracking

    return tracking.sync(arguments.results)


def _wandb_sweep(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import agents

    places = arguments.results, arguments.data_root
    return agents.register(arguments.name, arguments.preset, arguments.overrides, *places)


def _wandb_agent(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import agents

    return agents.work(arguments.id, arguments.results)


def _wandb_workspace(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import workspace

    return workspace.save(arguments.project, arguments.results)


def _weights(arguments: argparse.Namespace) -> int:
    from bnstudy.store import weights

    return weights.export(arguments.run_id, arguments.to, arguments.results)


def _with_places(arguments: argparse.Namespace) -> list[str]:
    """The user's overrides, after the folders given as options, quoted for Hydra's grammar."""
    from bnstudy.config.compose import quoted

    return [
        *(["runtime.accept_code=true"] if getattr(arguments, "accept_code", False) else []),
        f"runtime.data_root={quoted(arguments.data_root)}",
        f"runtime.results={quoted(arguments.results)}",
        *arguments.overrides,
    ]


def _say_what_is_given_twice(overrides: Sequence[str]) -> None:
    """Of several values for one key the last counts, as in a shell's options; which those are is said."""
    last: dict[str, str] = {}
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key in last and last[key] != text and "=" in text:
            print(f"bnstudy: {last[key]} does not count: {text} follows it", file=sys.stderr)
        last[key] = text


def _sweeps() -> list[str]:
    """The names of the sweeps, without what it takes to read them."""
    return sorted(path.stem for path in (Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def _launchers() -> list[str]:
    """The names of the launchers, without what it takes to read them."""
    return ["local", *sorted(path.stem for path in (Path(__file__).parents[2] / "conf/launcher").glob("*.yaml"))]


def _folder(text: str) -> Path:
    """A folder; `~` at its beginning is the home, also where no shell has put it there (`--results=~/x`)."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise argparse.ArgumentTypeError(f"{text!r} is an address; name a folder of this machine")
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("name a folder; . is the one you are in")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r}: there is no such home; write ./{text} for a folder") from None


def _launcher(text: str) -> str:
    if text == "joblib":
        raise argparse.ArgumentTypeError("joblib is there no more: --jobs N (make: JOBS=N) alone does the same")
    if text not in _launchers():
        raise argparse.ArgumentTypeError(f"there is no {text!r}; there are: {', '.join(_launchers())}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _minutes(text: str) -> float:
    try:
        if 1e-6 <= float(text) <= MINUTES_OF_TEN_YEARS:  # what the system's timer takes
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")


def _version() -> str:
    from bnstudy import __version__

    return f"bnstudy {__version__}"
