"""The W&B mirror with the real client: offline runs read back with W&B's own reader, and runs sent to a server here."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from wandb_stub import KEY, Backend

from bnstudy.config import compose
from bnstudy.config.identity import canonical
from bnstudy.config.schema import Config, Sweep, Tracking
from bnstudy.store import locks
from bnstudy.tracking import sync as tracking
from bnstudy.tracking import tracker
from bnstudy.tracking import wandb as mirror
from bnstudy.tracking.tracker import Background
from bnstudy.tracking.wandb import Wandb

# A run as training reports it: the probe's rows for step 2 come before the losses of steps 0 and 1.
STEPS = {step: {"steps/loss": 2.5 / (1 + step), "steps/lr": 0.1} for step in range(4)}
MOMENTS = [
    {
        "depth": depth,
        "layer": f"l{depth}",
        "site": "activation",
        "block_output": True,
        "channel": 0,
        "mean": 1.0,
        "variance": 4.0,
    }
    for depth in (1, 110)
]
TAILS = [
    {"depth": 55, "layer": "l55", "quantity": "kurtosis", "x": None, "x_high": None, "value": 12.5},
    {"depth": 55, "layer": "l55", "quantity": "histogram_linear", "x": -1.0, "x_high": 0.0, "value": 5},
    {"depth": 55, "layer": "l55", "quantity": "histogram_linear", "x": 0.0, "x_high": 1.0, "value": 7},
]
CONFIG = {"model": {"name": "resnet", "depth": 110}, "optim": {"lr": 0.1}}

# The same in a process of its own: W&B reads its environment once a process.
CHILD = """
import json, sys
from pathlib import Path
from bnstudy.tracking.wandb import Wandb
results, mode, content = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
run = Wandb(results, mode=mode, project="p", run_id="run-1", group="init", tags=["resnet110"], config=content["config"])
run.table("activation_moments", 2, content["moments"])
for step, values in content["steps"].items():
    run.scalars(int(step), values)
run.table("gradient_tails", 4, content["tails"])
run.finish("completed", {"test_accuracy": 0.25})
"""
CONTENT = json.dumps({"config": CONFIG, "moments": MOMENTS, "steps": STEPS, "tails": TAILS})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, results: Path) -> Iterator[None]:
    """Each test as in a fresh process: what the mirror remembers and sets in the environment is taken back."""
    mirror._warn.cache_clear()
    mirror._refusal.cache_clear()
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def child(results: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, without a terminal, its home folder empty."""
    home = results.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *command],
        cwd=results.parent,
        env={**os.environ, "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def record(results: Path, mode: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = child(results, "-c", CHILD, str(results), mode, CONTENT, **environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results root of one offline run, to be copied."""
    folder = tmp_path_factory.mktemp("recorded") / "results"
    folder.mkdir()
    done = record(folder, "offline")
    assert done.stdout == done.stderr == ""
    return folder


@pytest.fixture
def recorded(offline: Path, results: Path) -> Path:
    """A results root that holds one offline run."""
    return shutil.copytree(offline, results, symlinks=True, dirs_exist_ok=True)


def sync(results: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return child(results, "-m", "bnstudy", "sync", "--results", str(results), **environment)


def records(run: Path) -> list[dict[str, Any]]:
    """Every record of an offline run, as `wandb leet inspect` prints them."""
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(run: Path) -> dict[int, dict[str, Any]]:
    """An offline run's rows by step, without W&B's own columns; no step stands twice."""
    rows = [r["history"]["item"] for r in records(run) if r["type"] == "history"]
    assert len({row["_step"] for row in rows}) == len(rows)
    return {row["_step"]: _own(row) for row in rows}


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def expected(*, nested: bool) -> dict[int, dict[str, Any]]:
    """What must be found, by step. The reader of offline runs shows a histogram's parts as columns of their own."""
    histogram = "gradient_tails/depth_055/histogram_linear"
    parts = {"_type": "histogram", "bins": [-1, 0, 1], "values": [5, 7]}
    shown = {histogram: parts} if nested else {f"{histogram}.{key}": value for key, value in parts.items()}
    means = {"ln_std": pytest.approx(0.6931471805599453), "ln_abs_mean": 0}
    moments = {f"activation_moments/depth_{d}/activation_{s}": v for d in ("001", "110") for s, v in means.items()}
    tails = {"gradient_tails/depth_055/kurtosis": 12.5, **shown}
    return {0: STEPS[0], 1: STEPS[1], 2: {**STEPS[2], **moments}, 3: STEPS[3], 4: tails}


def make(results: Path, run_id: str = "run-1", mode: str = "offline") -> Wandb:
    return Wandb(results, mode=mode, project="p", run_id=run_id, group="init", tags=["a"], config=CONFIG)


def test_an_offline_run_read_back_holds_what_the_tables_hold(recorded: Path) -> None:
    (run,) = tracking.offline_runs(recorded)
    assert history(run) == expected(nested=False)
    found = records(run)
    head = next(r["run"] for r in found if r["type"] == "run")
    assert (head["run_id"], head["run_group"], head["tags"], head["project"]) == ("run-1", "init", ["resnet110"], "p")
    assert _own(head["config"]["update"]) == CONFIG
    summary: dict[str, Any] = {}
    for r in found:
        summary.update(r["summary"]["update"] if r["type"] == "summary" else {})
    assert (summary["status"], summary["test_accuracy"]) == ("completed", 0.25)
    assert next(r["exit"]["exit_code"] for r in found if r["type"] == "exit") == 0


@pytest.mark.slow
def test_everything_w_and_b_writes_lies_below_its_folder(results: Path) -> None:
    record(results, "offline")
    with Backend() as backend:
        assert sync(results, **backend.environment).returncode == 0
    assert [path.name for path in results.iterdir()] == ["wandb"]
    assert sorted(path.name for path in results.parent.iterdir()) == ["home", "results"]
    assert list((results.parent / "home").iterdir()) == []


def test_an_online_run_arrives_whole(results: Path) -> None:
    with Backend() as backend:
        done = record(results, "online", **backend.environment, WANDB_SILENT="true")  # as `bnstudy` sets it
        assert done.stderr == ""
    arrived = backend.runs["run-1"]
    assert {row["_step"]: _own(row) for row in arrived.history} == expected(nested=True)
    assert _own(arrived.config) == CONFIG
    assert (arrived.group, arrived.tags, arrived.exit_code) == ("init", ["resnet110"], 0)
    assert (arrived.summary["status"], arrived.summary["test_accuracy"]) == ("completed", 0.25)


def test_sync_uploads_offline_runs_once(recorded: Path) -> None:
    with Backend() as backend:
        first = sync(recorded, **backend.environment)
        assert (first.returncode, first.stderr) == (0, "")
        arrived = backend.runs.pop("run-1")
        second = sync(recorded, **backend.environment)
    assert {row["_step"]: _own(row) for row in arrived.history} == expected(nested=True)
    assert (_own(arrived.config), arrived.group, arrived.tags) == (CONFIG, "init", ["resnet110"])
    assert (second.returncode, second.stderr) == (0, "")
    why = f"every offline run in {recorded / 'wandb'} has been uploaded"
    assert second.stdout == f"sync: no offline runs to upload; {why}\n"
    assert backend.runs == {}


def test_sync_without_runs_says_so(results: Path) -> None:
    done = sync(results, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"sync: no offline runs to upload; there are none in {results / 'wandb'}\n"
    assert list(results.iterdir()) == []


def test_sync_without_a_key_says_so(recorded: Path) -> None:
    done = sync(recorded, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("sync: there is no W&B key for http://127.0.0.1:9: run ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_sync_without_a_network_says_so(recorded: Path) -> None:
    done = sync(recorded, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY)  # nothing listens on port 9
    assert done.returncode == 1
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr and "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_sync_with_a_wrong_key_says_so(recorded: Path) -> None:
    with Backend(keys=[]) as backend:
        done = sync(recorded, **backend.environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sync: {backend.url} does not take the W&B key: run ")
    assert len(done.stderr.splitlines()) == 1


def test_sync_says_what_the_server_said(recorded: Path) -> None:
    with Backend(closed=True) as backend:
        done = sync(recorded, **backend.environment)
    assert done.returncode == 1
    assert done.stderr.startswith("sync: W&B refused offline-run-") and "the project is closed" in done.stderr
    assert not any(tracking.offline_runs(recorded)[0].glob("*.synced"))


def test_a_run_that_was_killed_holds_up_no_other_and_is_uploaded_once(recorded: Path) -> None:
    """One whose file is cut off, and one of which W&B wrote no more than the header."""
    (whole,) = tracking.offline_runs(recorded)
    cut, empty = (
        shutil.copytree(whole, whole.with_name(f"offline-run-2020{i}-run-{i}"), symlinks=True) for i in (1, 2)
    )
    for run, size in ((cut, 400), (empty, tracking.HEADER_BYTES)):
        file = next(run.glob("*.wandb"))
        file.write_bytes(file.read_bytes()[:size])
    with Backend() as backend:
        done = sync(recorded, **backend.environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{cut.name} was killed, and is uploaded as far as" in done.stdout and empty.name in done.stdout
        assert "2 of 2 runs uploaded" in done.stdout.splitlines()[-1]
        again = sync(recorded, **backend.environment)
        assert again.returncode == 0 and cut.name not in again.stdout
        assert "has been uploaded, 1 of them as far as W&B wrote them" in again.stdout.splitlines()[-1]
    assert {row["_step"]: _own(row) for row in backend.runs["run-1"].history} == expected(nested=True)


def test_what_there_is_of_a_run_that_was_killed_arrives(recorded: Path) -> None:
    (run,) = tracking.offline_runs(recorded)
    file = next(run.glob("*.wandb"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Backend() as backend:
        done = sync(recorded, **backend.environment)
    assert done.returncode == 0 and "as far as W&B wrote it" in done.stdout
    arrived = {row["_step"]: _own(row) for row in backend.runs["run-1"].history}
    assert arrived and arrived.items() <= expected(nested=True).items()


def test_a_run_that_still_trains_waits(recorded: Path) -> None:
    """W&B would add all of its rows once more to those that were uploaded before it ended."""
    (run,) = tracking.offline_runs(recorded)
    with Backend() as backend:
        with locks.hold(recorded, ["run-1"]):
            done = sync(recorded, **backend.environment)
            assert done.returncode == 0 and f"1 runs still train, such as {run.name}" in done.stdout
            assert "run-1" not in backend.runs
        assert sync(recorded, **backend.environment).returncode == 0
    assert {row["_step"]: _own(row) for row in backend.runs["run-1"].history} == expected(nested=True)


def test_an_unreadable_run_holds_up_neither_its_batch_nor_the_next(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B takes nothing of a batch in which it cannot read a file."""
    script = (
        "import sys\nfrom pathlib import Path\nruns = [Path(a) for a in sys.argv[1:] if Path(a).is_dir()]\n"
        "files = [next(run.glob('*.wandb')) for run in runs]\n"
        "if bad := [file for file in files if file.read_bytes() == b'broken file']:\n"
        "    sys.exit(print(f'wandb: ERROR Failed to read {bad[0]}', file=sys.stderr) or 0)\n"
        "for file in files:\n    file.with_suffix('.wandb.synced').touch()\n"
    )
    for index in range(5):
        (run := results / "wandb" / f"offline-run-{index}").mkdir(parents=True)
        (run / f"run-{index}.wandb").write_bytes(b"broken file" if index == 1 else b"a file that is good")
    monkeypatch.setattr(tracking, "WANDB", (sys.executable, "-c", script))
    monkeypatch.setattr(tracking, "BATCH", 3)
    monkeypatch.setattr(tracking, "obstacle", lambda: None)
    assert tracking.sync(results) == 1
    printed = capsys.readouterr()
    assert "4 of 5 runs uploaded" in printed.out and "W&B refused offline-run-1 (ERROR Failed to read" in printed.err
    assert [run.name for run in tracking.offline_runs(results) if not any(run.glob("*.synced"))] == ["offline-run-1"]


@pytest.mark.slow
def test_sync_gives_up_on_a_server_that_does_not_answer(recorded: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom bnstudy.tracking import sync as tracking\n"
        "sys.exit(tracking.sync(Path(sys.argv[1]), seconds_per_run=3))"
    )
    with Backend(stall=True) as backend:
        done = child(recorded, "-c", script, str(recorded), **backend.environment)
    assert done.returncode == 1
    assert "did not take the runs within 3 s" in done.stderr


def test_a_key_in_netrc_counts(recorded: Path, tmp_path: Path) -> None:
    netrc = tmp_path / "keys"
    with Backend() as backend:
        netrc.write_text(f"machine {urlsplit(backend.url).netloc} login user password {KEY}\n")
        done = sync(recorded, WANDB_BASE_URL=backend.url, NETRC=str(netrc))
    assert done.returncode == 0, done.stderr
    assert "run-1" in backend.runs


@pytest.mark.slow
def test_online_without_a_key_records_offline_and_never_asks(results: Path) -> None:
    done = record(results, "online", WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stderr.startswith("W&B: there is no W&B key for http://127.0.0.1:9")
    assert len(done.stderr.splitlines()) == 1
    (run,) = tracking.offline_runs(results)
    assert history(run) == expected(nested=False)


@pytest.mark.slow
def test_online_with_a_wrong_key_records_offline(results: Path) -> None:
    with Backend(keys=[]) as backend:
        done = record(results, "online", **backend.environment)
    assert "does not take the W&B key" in done.stderr and len(done.stderr.splitlines()) == 1
    (run,) = tracking.offline_runs(results)
    assert history(run) == expected(nested=False)


def test_a_key_that_is_given_later_counts_and_each_other_trouble_is_told(results: Path, tmp_path: Path) -> None:
    """As in a notebook, whose process lives on: no key, a wrong one, the right one."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom bnstudy.tracking.wandb import Wandb\n"
        "for i, text in enumerate(sys.argv[3:]):\n    Path(sys.argv[2]).write_text(text)\n    Wandb(Path(sys.argv[1]), "
        "mode='online', project='p', run_id=f'run-{i}', group=None, tags=[], config={}).finish('completed', {})"
    )
    with Backend() as backend:
        logins = [f"machine {urlsplit(backend.url).netloc} login user password {key}\n" for key in ("w" * 40, KEY)]
        netrc, environment = str(tmp_path / "keys"), {"WANDB_BASE_URL": backend.url, "WANDB_SILENT": "true"}
        done = child(results, "-c", script, str(results), netrc, "", "", *logins, NETRC=netrc, **environment)
    first, second = done.stderr.splitlines()
    assert "there is no W&B key" in first and "does not take the W&B key" in second
    assert list(backend.runs) == ["run-3"] and len(tracking.offline_runs(results)) == 3


def test_the_server_is_asked_again_after_a_while_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs opened at once would each wait for a network that is down."""
    asked = list[str]()

    def ask(question: Any, timeout: float) -> None:
        asked.append(question.full_url)
        raise OSError("the network is down")

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(mirror, "ANSWER_SEC", 1e9)
    assert all("the network is down" in str(mirror.obstacle()) for _ in range(3)) and len(asked) == 1
    monkeypatch.setattr(mirror, "ANSWER_SEC", 1e-9)
    assert "the network is down" in str(mirror.obstacle()) and len(asked) == 2


def test_the_users_process_stays_as_it_was(results: Path) -> None:
    script = (
        "import logging, os, sys\nos.environ.pop('WANDB_SILENT', None)  # of a command that another test ran\n"
        "from pathlib import Path\nfrom bnstudy.tracking.wandb import Wandb\n"
        "run = Wandb(Path(sys.argv[1]), mode='offline', project='p', run_id='1', group=None, tags=[], config={})\n"
        "log, *_ = [h for h in logging.getLogger('wandb').handlers if isinstance(h, logging.FileHandler)]\n"
        "there, log.stream = log.stream, open('/dev/full', 'w')\nlogging.getLogger('wandb').info('on a full disk')\n"
        "log.stream = there\n"
        "assert logging.raiseExceptions and 'WANDB_SILENT' not in os.environ\nrun.finish('completed', {})\n"
        "print('their own', file=sys.stderr)\nimport wandb\nwandb.init(mode='offline', dir=sys.argv[2]).finish()"
    )
    done = child(results, "-c", script, str(results), str(results.parent))
    before, _, after = done.stderr.partition("their own\n")
    assert done.returncode == 0 and before == "" and "wandb: " in after, done.stderr


@pytest.mark.slow
def test_runs_open_at_once_do_not_mix(results: Path) -> None:
    runs = [make(results, f"run-{i}") for i in range(3)]
    for step in range(3):
        for i, run in enumerate(runs):
            run.scalars(step, {"loss": 10.0 * i + step})
    for run in runs:
        run.finish("diverged", {})
    for i in range(3):
        (folder,) = (results / "wandb").glob(f"offline-run-*-run-{i}")
        assert history(folder) == {step: {"loss": 10 * i + step} for step in range(3)}


def test_numbers_that_are_not_finite_are_kept(results: Path) -> None:
    run = make(results)
    run.scalars(0, {"loss": float("inf"), "accuracy": float("nan")})
    run.finish("diverged", {"test_accuracy": None})
    assert history(tracking.offline_runs(results)[0]) == {0: {"loss": "Infinity", "accuracy": "NaN"}}


def test_trouble_at_the_start_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the results root should be")
    for run_id in ("run-1", "run-2"):
        run = make(blocked, run_id)
        run.scalars(0, {"loss": 1.0})
        run.table("activation_moments", 0, MOMENTS)
        run.finish("completed", {})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "the mirror stops" in said[0]


def test_trouble_on_the_way_is_one_warning(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(results)
    client = run._run

    class Broken:
        def log(self, *arguments: Any, **options: Any) -> None:
            raise OSError("No space left on device")

    run._run = Broken()
    for step in range(5):
        run.scalars(step, {"loss": 1.0})
    run.finish("completed", {})
    client.finish()
    said = capsys.readouterr().err
    assert said == "W&B: the mirror stops (No space left on device); training and tables go on without it.\n"


def test_rows_that_no_summary_understands_are_one_warning(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(results)
    client = run._run
    run.table("activation_moments", 0, [{"depth": 1}])
    run.finish("completed", {})
    client.finish()
    assert len(capsys.readouterr().err.splitlines()) == 1


def config(mode: str) -> Config:
    tracking = Tracking(mode=mode, tags=["mine", "batch"])
    return Config(tracking=tracking, sweep=Sweep(name="lr"), model={"name": "resnet", "depth": 20})


def test_the_configuration_decides_group_and_tags(results: Path) -> None:
    tracker.tracker_of(config("offline"), "run-1", results, CONFIG).finish("completed", {})
    head = next(r["run"] for r in records(tracking.offline_runs(results)[0]) if r["type"] == "run")
    assert (head["run_group"], head["project"]) == ("lr", "bnstudy")
    assert head["tags"] == ["resnet20", "batch", "cifar10", "mine"]


class Slow:
    """A tracker that opens when it is let, and notes what is asked of it."""

    def __init__(self, let: threading.Event, asked: list[object], trouble: Exception | None = None) -> None:
        assert let.wait(30)
        self.asked, self.trouble = asked, trouble

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.asked.append((step, dict(values)))

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.asked.append((name, step, list(rows)))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        if self.trouble:
            raise self.trouble
        self.asked.append((status, dict(summary)))


def test_training_waits_for_no_mirror_until_its_end() -> None:
    let, asked = threading.Event(), list[object]()
    runs = [Background(lambda: Slow(let, asked)) for _ in range(2)]
    values, rows = {"loss": 1.0}, [{"depth": 1}]
    for step in range(3):
        values["loss"] = float(step)
        runs[step % 2].scalars(step, values)
    runs[0].table("weights", 3, rows)
    rows.clear()
    assert asked == []
    let.set()
    for run in runs:
        run.finish("completed", {"accuracy": 0.5})
    curves = [(step, {"loss": float(step)}) for step in range(3)]
    assert asked == [*curves, ("weights", 3, [{"depth": 1}]), *[("completed", {"accuracy": 0.5})] * 2]


@pytest.mark.parametrize("delay_sec", [0.0, 1e6])
def test_a_mirror_opens_after_a_while_or_when_the_run_ends(delay_sec: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "DELAY_SEC", delay_sec)
    let, opened, asked = threading.Event(), threading.Event(), list[object]()
    let.set()

    def begin() -> Slow:
        opened.set()
        return Slow(let, asked)

    run = Background(begin)
    run.scalars(0, {"loss": 1.0})
    assert opened.wait(30) if delay_sec == 0 else not opened.is_set()
    run.finish("completed", {})
    assert asked == [(0, {"loss": 1.0}), ("completed", {})]


def test_what_a_mirror_in_the_background_raises_is_raised_at_its_end() -> None:
    let = threading.Event()
    let.set()
    with pytest.raises(ZeroDivisionError):
        Background(lambda: Slow(let, [], ZeroDivisionError())).finish("completed", {})


def test_what_a_mirror_raised_on_the_way_is_raised_when_it_has_ended() -> None:
    let, asked = threading.Event(), list[object]()
    let.set()

    class Failing(Slow):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            raise ZeroDivisionError

    run = Background(lambda: Failing(let, asked))
    run.scalars(0, {"loss": 1.0})
    with pytest.raises(ZeroDivisionError):
        run.finish("completed", {})
    assert asked == [("completed", {})]


def test_an_interrupted_run_leaves_mirrors_that_do_not_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is waited for a little, those behind it are not; a later run has a thread of its own."""
    monkeypatch.setattr(tracker, "LEAVE_SEC", 0.05)
    monkeypatch.setattr(tracker, "DELAY_SEC", 0.0)
    down, up, asked = threading.Event(), threading.Event(), list[object]()
    runs = [Background(lambda: Slow(down, asked)) for _ in range(3)]
    for run in runs:
        run.scalars(0, {"loss": 1.0})
        run.finish("interrupted", {})
    assert asked == [] and capsys.readouterr().err.count("is left; the tables have everything") == 1
    up.set()
    Background(lambda: Slow(up, asked)).finish("completed", {})
    assert asked == [("completed", {})]
    down.set()


def test_an_interrupted_run_ends_a_mirror_that_is_open() -> None:
    let, asked = threading.Event(), list[object]()
    let.set()
    run = Background(lambda: Slow(let, asked))
    run.scalars(0, {"loss": 1.0})
    run.finish("interrupted", {})
    assert asked == [(0, {"loss": 1.0}), ("interrupted", {})]


def test_a_process_that_ends_waits_for_no_mirror() -> None:
    code = (
        "import time\nfrom bnstudy.tracking import tracker\ntracker.LEAVE_SEC = 0.05\n"
        "tracker.Background(lambda: time.sleep(1e6)).finish('interrupted', {})\nprint('over')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_off_writes_nothing(results: Path) -> None:
    run = tracker.tracker_of(config("off"), "run-1", results, CONFIG)
    run.scalars(0, {"loss": 1.0})
    run.table("activation_moments", 0, MOMENTS)
    run.finish("completed", {})
    assert list(results.iterdir()) == []


def test_what_the_users_wandb_mode_forbids_is_left_and_told_once(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(results / "quick", ["figure2"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for mode in ("offline", "online"):
        tracker.tracker_of(config(mode), "run-1", results, CONFIG).finish("completed", {})
    assert tracking.log_figures(results / "quick", results) == 0 and not (results / "wandb").exists()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "WANDB_MODE=disabled" in told[0] and "tracking.mode=offline" in told[0]
    monkeypatch.setenv("WANDB_MODE", "offline")
    for run_id in ("run-1", "run-2"):
        tracker.tracker_of(config("online"), run_id, results, CONFIG).finish("completed", {})
    assert len(tracking.offline_runs(results)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "WANDB_MODE=offline" in line and "tracking.mode=online" in line


@pytest.mark.parametrize(("variable", "mode"), [("online", "offline"), ("disabled", "off"), ("offline", "offline")])
def test_wandb_mode_never_asks_for_more(
    variable: str, mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert mirror.limited(mode) == mode and capsys.readouterr().err == ""


def test_the_project_is_that_of_wandb_project_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "_composed", compose._composed.__wrapped__)  # without what was composed before
    before = compose.one([])
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    after = compose.one([])
    assert (before.tracking.project, after.tracking.project) == ("bnstudy", "mine")
    assert compose.one(["tracking.project=other"]).tracking.project == "other"
    assert canonical(after, {}) == canonical(before, {})  # it is the same run


def pictures(workspace: Path, names: Sequence[str]) -> None:
    (workspace / "figures").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4), "white").save(workspace / "figures" / f"{name}.png")


def test_figures_become_one_run_a_workspace(results: Path) -> None:
    workspace = results / "quick"
    pictures(workspace, ["figure2"])
    assert tracking.log_figures(workspace, results) == 1
    pictures(workspace, ["figure5"])
    assert tracking.log_figures(workspace, results) == 2
    (run,) = tracking.offline_runs(results)  # in place of the first
    (row,) = history(run).values()
    assert {name.split(".")[0] for name in row} == {"figures/figure2", "figures/figure5"}
    assert len(list(run.rglob("*.png"))) == 2


def test_no_figures_no_run(results: Path) -> None:
    pictures(results / "quick", ["figure2"])
    assert tracking.log_figures(results / "quick", results, mode="off") == 0
    assert tracking.log_figures(results / "full", results) == 0
    assert tracking.offline_runs(results) == []


def test_the_dashboard_needs_runs_and_a_terminal(results: Path, offline: Path) -> None:
    command = ("-m", "bnstudy", "dashboard", "--results", str(results))
    empty = child(results, *command)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr.startswith(f"dashboard: there are no W&B runs in {results / 'wandb'}")
    shutil.copytree(offline, results, symlinks=True, dirs_exist_ok=True)
    piped = child(results, *command)
    assert (piped.returncode, piped.stderr) == (1, "dashboard: it needs a terminal; run `make dashboard` in one\n")


def test_the_dashboard_shows_the_runs(recorded: Path) -> None:
    main, other = pty.openpty()
    home = {"HOME": str(recorded.parent / "home")}
    environment = {**os.environ, **home, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "48"}
    command = [sys.executable, "-m", "bnstudy", "dashboard", "--results", str(recorded)]
    process = subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
    )
    os.close(other)
    shown, deadline = b"", time.monotonic() + 60
    try:
        while b"run-1" not in shown and time.monotonic() < deadline and process.poll() is None:
            if select.select([main], [], [], 0.2)[0]:
                shown += os.read(main, 65536)
        assert b"run-1" in shown, shown[-2000:]
        os.write(main, b"q")
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    os.read(main, 65536)
                except OSError:  # the other end is closed
                    break
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
