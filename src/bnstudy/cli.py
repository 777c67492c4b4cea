"""The command line: one function per command, which imports what it needs when it runs; `--help` imports nothing."""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnstudy.config import project
from bnstudy.store import paths

DRAWN = (*paths.PRESETS, paths.CUSTOM)
MINUTES_OF_TEN_YEARS = 5_256_000
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status: 0 done (diverged and refuted are results), 1 failed, 2 bad input, 130 Ctrl-C."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and not COMMANDS[known.command].overrides:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    for word in rest:
        if word.startswith("-"):
            listed = f"bnstudy {known.command} --help lists the options"
            parser.error(f"unknown option {word}; {listed}; values are given without dashes, as optim.lr=0.1")
    known.overrides = [*getattr(known, "overrides", []), *rest]
    _say_what_is_given_twice(known.overrides)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages; read when it is first imported
    os.environ.setdefault("WANDB_SILENT", "true")  # here and in processes started here; the mirror tells what matters
    from bnstudy.training import signals

    signals.raise_interrupts()
    try:
        for folder in getattr(known, "components", None) or ():
            project.use_components(folder)
        with signals.limit(getattr(known, "budget_min", None)):
            code = COMMANDS[known.command].act(known)
        sys.stdout.flush()
        sys.exit(code)
    except signals.Spent as spent:
        print(f"bnstudy: the time is spent, what was done is kept; the same command resumes. {spent}".rstrip())
    except ValueError as error:
        print(f"bnstudy: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():  # as in `bnstudy show ID | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILED)
        print(f"bnstudy: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        signals.end_on_interrupt()  # whatever is still to end
        print("\nbnstudy: interrupted; what was saved is kept, the same command resumes there", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _nobody_reads() -> bool:
    """Whether the reader of the output has closed it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _parser() -> argparse.ArgumentParser:
    from bnstudy import __version__

    parser = argparse.ArgumentParser(
        prog="bnstudy",
        description="The experiments of 'Understanding Batch Normalization' (Bjorck et al., 2018). See README.md.",
    )
    parser.add_argument("--version", action="version", version=f"bnstudy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        for argument, rest in command.options:
            default = rest.get("default")
            sub.add_argument(argument, **(rest | {"default": default()} if callable(default) else rest))
        if command.overrides:
            sub.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=command.overrides)
    return parser


def _sweeps() -> list[str]:
    """The names of the sweeps, without importing what reads them."""
    return sorted(path.stem for path in (project.ROOT / "sweeps").glob("*.yaml"))


def _launchers() -> list[str]:
    """The names of the launchers, without importing what reads them."""
    return ["local", *sorted(path.stem for path in (project.ROOT / "conf/launcher").glob("*.yaml"))]


def _folder(text: str) -> Path:
    try:
        return project.folder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _launcher(text: str) -> str:
    if text == "joblib":
        raise argparse.ArgumentTypeError("joblib is no longer supported: --jobs N (make: JOBS=N) alone does the same")
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


def _result_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text) or text in ("tables", "figures"):
        raise argparse.ArgumentTypeError(f"{text!r}: give letters, digits, - and _, as in mine; not tables or figures")
    return text


Act = Callable[[argparse.Namespace], int]
Option = tuple[str, dict[str, Any]]  # an argument's name, and its keywords for argparse


@dataclass(frozen=True)
class Command:
    act: Act
    help: str
    options: tuple[Option, ...]
    overrides: str  # what KEY=VALUE arguments mean here; empty where the command takes none


COMMANDS: dict[str, Command] = {}


def command(help: str, *options: Option, overrides: str = "") -> Callable[[Act], Act]:
    """Make a function of the parsed arguments a command: `_clean_run` becomes `bnstudy clean-run`."""

    def register(act: Act) -> Act:
        COMMANDS[act.__name__.strip("_").replace("_", "-")] = Command(act, help, options, overrides)
        return act

    return register


def option(name: str, help: str, **rest: Any) -> Option:
    return name, {"help": help, **rest}


def _preset_unless(otherwise: str, choices: Sequence[str] = paths.PRESETS) -> Option:
    """The option of a command for which no preset means `otherwise`, and not the default preset."""
    return option("--preset", f"default: {otherwise}", choices=choices)


PRESET_OF_SWEEP = option(
    "--preset",
    f"of the sweep: {paths.QUICK} is for minutes, {paths.FULL} is what is published (default: {paths.QUICK})",
    choices=paths.PRESETS,
)
PRESET = option(
    "--preset",
    "how many seeds, epochs and values: quick is for minutes, full is what is published (default: %(default)s)",
    choices=paths.PRESETS,
    default=paths.QUICK,
)


CONFIGURED = "conf/ lists the choices, src/bnstudy/config/schema.py every key with its default"
ONE_RUN = f"what the run is: {CONFIGURED}"
SEVERAL_RUNS = f"what to change, several values make an axis, as in optim.lr=0.1,1; {CONFIGURED}"
SWEEP_NAMES = f"one of {', '.join(_sweeps())}"
SWEEP = option("name", SWEEP_NAMES, metavar="SWEEP")
SWEEP_OR_VALUES = option("name", f"{SWEEP_NAMES}; or none, with values alone: a sweep without a file", metavar="SWEEP")
SUITE = option("name", "as sweeps/*.yaml name it: paper_init, paper_train, textbook, beyond", metavar="SUITE")
RUN_ID = option("run_id", "the run's whole name", metavar="ID")
RESULTS = option(
    "--results",
    "folder of all results (default: %(default)s)",
    type=_folder,
    default=lambda: os.environ.get(project.RESULTS) or str(project.results()),
    metavar="FOLDER",
)
DATA = option(
    "--data-root",
    "where the images are (default: %(default)s)",
    type=_folder,
    default=lambda: os.environ.get(project.DATA_ROOT) or str(project.data_root()),
    metavar="FOLDER",
)
JOBS = option("--jobs", "processes at a time (default: one per core)", type=_positive, metavar="N")
COMPONENTS = option(
    "--components",
    "folder of own norms/, models/, probes/, sweeps/ and conf/ (may be given several times)",
    type=_folder,
    action="append",
    metavar="FOLDER",
)
ACCEPT_CODE = option(
    "--accept-code",
    "count runs as done though a file of their norm, network, initialiser or probe has changed since",
    action="store_true",
)
BUDGET = option(
    "--budget-min",
    "stop after this many minutes, with everything saved; the same command resumes (default: never)",
    type=_minutes,
    metavar="N",
)
AGAIN = option("--again", "train runs that are published, too (default: they count as done)", action="store_true")
DRY_RUN = option(
    "--dry-run", "train nothing: list the runs, which are done, and the time the others take", action="store_true"
)
CFG = option("--cfg", "train nothing: print the resolved configuration of each run", choices=("job",))
YES = option("--yes", "train also what takes more than a day", action="store_true")
PREVIEW = DRY_RUN, CFG, YES
NAMED = option(
    "--name",
    "results under a name of their own, beside others: in FOLDER/custom/NAME",
    type=_result_name,
    metavar="NAME",
    dest="title",
)
PLACES = RESULTS, DATA
TRAINED_AT = *PLACES, COMPONENTS, ACCEPT_CODE
STRICT = option("--strict", "refuse a figure whose runs were trained by several commits", action="store_true")


@command(
    "train one run, as in: bnstudy run model=lenet data=fashion_mnist recipe=lenet norm=batch optim.lr=0.1",
    option(
        "--sweep",
        "train a run of this sweep: the overrides are one value of each of its axes",
        metavar="SWEEP",
    ),
    option("-m", "several values make an axis: a sweep without a file", dest="several", action="store_true"),
    PRESET_OF_SWEEP,
    *TRAINED_AT,
    *PREVIEW,
    overrides=ONE_RUN,
)
def _run(arguments: argparse.Namespace) -> int:
    from bnstudy.config import compose
    from bnstudy.sweep import study

    if arguments.several and arguments.sweep is not None:
        raise ValueError(f"-m and --sweep {arguments.sweep}: give one of them; a whole sweep: bnstudy sweep NAME")
    overrides, preview = _with_places(arguments), _preview(arguments)
    preset = _preset(arguments, None if arguments.several else arguments.sweep)
    _print_choices(arguments)
    if arguments.several:
        return study.sweep(compose.AD_HOC, preset, overrides, arguments.results, None, **preview)
    if arguments.sweep is None:
        return study.train_one(compose.one(overrides), arguments.results, **preview)
    from bnstudy.tracking import agents

    config = compose.point(arguments.sweep, preset, agents.run_overrides(overrides))
    return study.train_one(config, arguments.results, **preview)


def _preset(arguments: argparse.Namespace, sweep: str | None) -> str:
    """The preset of the sweep. Raises ValueError where a preset is given without a named sweep."""
    if sweep is None and arguments.preset:
        raise ValueError(f"--preset {arguments.preset}: only a named sweep has presets; leave it out")
    return arguments.preset or paths.QUICK


def _preview(arguments: argparse.Namespace) -> dict[str, Any]:
    from bnstudy.sweep.preview import Show

    show = Show.configurations if getattr(arguments, "cfg", None) else Show.runs if arguments.dry_run else Show.nothing
    return {"show": show, "yes": arguments.yes}


@command(
    "train every run of a sweep that is not done, then write the sweep's tables",
    SWEEP_OR_VALUES,
    PRESET_OF_SWEEP,
    *TRAINED_AT,
    *PREVIEW,
    NAMED,
    JOBS,
    BUDGET,
    AGAIN,
    option(
        "--launcher",
        "where runs train (default: in processes of this command); launcher.KEY=VALUE sets what is in conf/launcher: "
        + ", ".join(_launchers()),
        type=_launcher,
        default="local",
        metavar="NAME",
    ),
    option(
        "--no-wait",
        "only submit the jobs to the cluster; the same command without it waits for them and writes the tables",
        dest="wait",
        action="store_false",
    ),
    overrides=SEVERAL_RUNS,
)
def _sweep(arguments: argparse.Namespace) -> int:
    from bnstudy.config import compose
    from bnstudy.sweep import launchers, study

    name = arguments.name
    if "=" in name:
        arguments.overrides.insert(0, name)
        name = compose.AD_HOC
    preset = _preset(arguments, None if name == compose.AD_HOC else name)
    _print_choices(arguments)
    launcher, overrides = launchers.choose(arguments.launcher, _with_places(arguments), wait=arguments.wait)
    at = arguments.results, arguments.jobs, launcher
    preview = _preview(arguments)
    return study.sweep(name, preset, overrides, *at, again=arguments.again, named=arguments.title, **preview)


@command(
    "data, sweeps, tables, figures, claims and report in one go",
    PRESET,
    *TRAINED_AT,
    JOBS,
    overrides=SEVERAL_RUNS,
)
def _reproduce(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import study

    return study.reproduce(arguments.preset, _with_places(arguments), arguments.results, arguments.jobs)


@command(
    "every sweep of a suite, one after another, the estimate first, then their report",
    SUITE,
    PRESET,
    *TRAINED_AT,
    DRY_RUN,
    YES,
    JOBS,
    BUDGET,
    AGAIN,
    overrides=SEVERAL_RUNS,
)
def _suite(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import study

    overrides, at = _with_places(arguments), (arguments.results, arguments.jobs)
    return study.suite(arguments.name, arguments.preset, overrides, *at, again=arguments.again, **_preview(arguments))


@command(
    "how far sweeps are, those begun or named: runs completed, diverged, failed, running, pending; time left",
    option("names", SWEEP_NAMES, metavar="SWEEP", nargs="*"),
    _preset_unless("both"),
    *PLACES,
    COMPONENTS,
)
def _status(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import overview

    return overview.status(arguments.names, arguments.preset, _with_places(arguments), arguments.results)


@command(
    "list runs with their state, test accuracy and age; KEY=VALUE (a column) or a part of the name chooses some",
    option("wanted", "as in state=failed norm=batch,none seed=0", metavar="KEY=VALUE", nargs="*"),
    option("--csv", "every column, as comma-separated values", action="store_true"),
    RESULTS,
)
def _ls(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import listing

    return listing.ls(arguments.wanted, arguments.results, as_csv=arguments.csv)


@command(
    "print what is known about one run: state, configuration, results, tables, what it was trained with",
    option("run_id", "the run's name, or a beginning that no other run has", metavar="ID"),
    RESULTS,
)
def _show(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import listing

    return listing.show(arguments.run_id, arguments.results)


@command(
    "train failed runs once more, of every sweep or of one",
    option("--sweep", SWEEP_NAMES, metavar="SWEEP"),
    *PLACES,
    COMPONENTS,
    JOBS,
    overrides="runtime.* and tracking.* only",
)
def _retry(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import study

    return study.retry(arguments.sweep, _with_places(arguments), arguments.results, arguments.jobs)


@command("remove one run: its tables, its manifest, its checkpoint; refused while a process trains it", RUN_ID, RESULTS)
def _clean_run(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import listing

    return listing.remove(arguments.run_id, arguments.results)


REDRAWN = "the committed tables, drawn into results/redrawn"


@command(
    "draw the figures and judge the claims from tables: the committed ones, or a preset's",
    _preset_unless(REDRAWN, DRAWN),
    NAMED,
    STRICT,
    RESULTS,
    COMPONENTS,
)
def _figures(arguments: argparse.Namespace) -> int:
    return _draw(arguments, html=False)


@command(
    "the same as figures, and a page that shows them all: report.html",
    _preset_unless(REDRAWN, DRAWN),
    NAMED,
    STRICT,
    RESULTS,
    COMPONENTS,
)
def _report(arguments: argparse.Namespace) -> int:
    return _draw(arguments, html=True)


def _draw(arguments: argparse.Namespace, *, html: bool) -> int:
    from bnstudy.analysis import report

    workspace = paths.workspace(arguments.results, arguments.preset)
    if arguments.title:
        if arguments.preset:
            raise ValueError(f"--preset {arguments.preset} --name {arguments.title}: give one of them")
        workspace = paths.named(arguments.results, arguments.title)
        if not workspace.is_dir():
            known = ", ".join(sorted(path.parent.name for path in workspace.parent.glob("*/tables"))) or "none"
            raise ValueError(f"--name {arguments.title}: there are no results of that name; there are: {known}")
    own = arguments.preset or arguments.title
    into = workspace if own else paths.redrawn(arguments.results)  # the committed ones stay as they are
    return report.write(workspace, into=into, html=html, strict=arguments.strict)


@command(
    "run the notebooks of analysis/notebooks on the committed tables; each as .ipynb and .html",
    option("names", "which (default: all)", nargs="*", metavar="NAME"),
    RESULTS,
)
def _notebooks(arguments: argparse.Namespace) -> int:
    from bnstudy.analysis import notebook

    return notebook.write(arguments.names, arguments.results)


@command(
    "add a sweep's whole seeds to the committed tables and draw those anew; refuses synthetic data",
    SWEEP,
    option(
        "--replace",
        "take the raw run where it differs from what is published, and drop what the sweep does not ask for",
        action="store_true",
    ),
    *PLACES,
    COMPONENTS,
)
def _publish(arguments: argparse.Namespace) -> int:
    from bnstudy.sweep import tables

    overrides, replace = _with_places(arguments), arguments.replace
    return tables.publish(arguments.name, overrides, arguments.results, replace=replace)


@command(
    "download the data sets, or say why that fails; or import your own images, as in: "
    "bnstudy data import FOLDER --name mine",
    option(
        "import_from",
        "images in FOLDER/train/CLASS and FOLDER/test/CLASS, or in FOLDER/CLASS, become a data set",
        nargs="*",
        metavar="import FOLDER",
    ),
    option("--name", "name of the imported data set, as in data.name=NAME (default: the folder's)"),
    option("--title", "what figures, claims and report call it"),
    option("--size", "side in pixels to which imported images are scaled", type=_positive, metavar="N"),
    DATA,
)
def _data(arguments: argparse.Namespace) -> int:
    from bnstudy.data import sources

    missing: list[str] = []
    if arguments.import_from:
        word, *folders = arguments.import_from
        if word != "import" or len(folders) != 1:
            raise ValueError(f"data {' '.join(arguments.import_from)}: give import and one folder, or nothing")
        from bnstudy.config.overrides import override
        from bnstudy.data.importing import import_images

        folder = _folder(folders[0])
        name = arguments.name or folder.resolve().name
        title = arguments.title or ""
        located = [import_images(folder, name, arguments.data_root, size=arguments.size, title=title)]
        chosen = shlex.quote(override("data.name", name))
        # not project.data_root(): DATA_ROOT of make reaches no other command
        usual = arguments.data_root.resolve() == project.usual("data").resolve()
        place = "" if usual else f" --data-root {shlex.quote(str(arguments.data_root))}"
        print(f"to train on it: bnstudy run model=resnet20 {chosen} train.epochs=10{place}")
    elif idle := [key for key in ("name", "title", "size") if getattr(arguments, key) is not None]:
        raise ValueError(f"--{idle[0]}: without `import FOLDER` it has no effect; leave it out")
    else:
        located = []
        for name in sources.NAMES:
            try:
                located.append(sources.locate(name, arguments.data_root))
            except sources.DataError as error:
                missing.append(str(error))
    for source in located:
        images = f"{source.num_train} + {source.num_test} images"
        print(f"{source.name}: {images}, {source.kind}, sha256 {source.sha256[:12]}")
        print(f"  {source.title or source.name} from {source.folder}")
    if missing:
        raise sources.DataError("\n".join(missing))
    return 0


@command("terminal dashboard on the offline W&B runs", RESULTS)
def _dashboard(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import sync as tracking

    return tracking.dashboard(arguments.results)


@command("upload the offline W&B runs", RESULTS)
def _sync(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import sync as tracking

    return tracking.sync(arguments.results)


@command(
    "register a sweep's grid at W&B, for agents to train its runs",
    SWEEP,
    PRESET,
    RESULTS,
    COMPONENTS,
    overrides=SEVERAL_RUNS,
)
def _wandb_sweep(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import agents

    return agents.register_sweep(arguments.name, arguments.preset, arguments.overrides, arguments.results)


@command(
    "train runs of a sweep registered at W&B, one after another",
    option("id", "as wandb-sweep says", metavar="ENTITY/PROJECT/SWEEP"),
    *PLACES,
    COMPONENTS,
)
def _wandb_agent(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import agents

    return agents.work(arguments.id, arguments.results, arguments.data_root)


@command(
    "save the study's dashboard to a W&B project",
    option("--project", "default: %(default)s", default=lambda: os.environ.get("WANDB_PROJECT") or "bnstudy"),
    RESULTS,
)
def _wandb_workspace(arguments: argparse.Namespace) -> int:
    from bnstudy.tracking import workspace

    return workspace.save(arguments.project, arguments.results)


@command(
    "write a finished run's last weights to a file: .safetensors, or .pt for torch.load",
    RUN_ID,
    option("--to", "a new file ending in .safetensors or .pt", type=_folder, required=True, metavar="FILE"),
    RESULTS,
)
def _weights(arguments: argparse.Namespace) -> int:
    from bnstudy.store import weights

    return weights.export(arguments.run_id, arguments.to, arguments.results)


def _with_places(arguments: argparse.Namespace) -> list[str]:
    """The user's overrides, after the folders given as options, quoted for Hydra's grammar.

    Raises ValueError for a folder of results among the overrides: the option --results names it.
    """
    from bnstudy.config.overrides import keys, quoted

    if "runtime.results" in keys([text for text in arguments.overrides if "results" in text]):
        raise ValueError("runtime.results: give the folder as an option, --results=FOLDER")
    return [
        *(["runtime.accept_code=true"] if getattr(arguments, "accept_code", False) else []),
        f"runtime.data_root={quoted(arguments.data_root)}",
        f"runtime.results={quoted(arguments.results)}",
        *arguments.overrides,
    ]


def _print_choices(arguments: argparse.Namespace) -> None:
    """Print what the chosen recipe, arm or variant sets: a rate and a budget, too, which its name does not say."""
    from bnstudy.config import compose

    for line in compose.choices([text for text in arguments.overrides if not text.startswith("launcher.")]):
        print(line, file=sys.stderr)


def _say_what_is_given_twice(overrides: Sequence[str]) -> None:
    """Print which values do not count: of several for one key only the last counts, as in a shell's options, and a
    budget in steps takes the place of one in epochs.
    """
    last: dict[str, str] = {}
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key in last and last[key] != text and "=" in text:
            print(f"bnstudy: {last[key]} does not count: {text} follows it", file=sys.stderr)
        last[key] = text
    epochs, steps = (last.get(f"train.{budget}") for budget in ("epochs", "steps"))
    if epochs and steps and not steps.endswith("=null"):
        print(f"bnstudy: {epochs} does not count: {steps} takes its place", file=sys.stderr)
