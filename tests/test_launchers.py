"""Sweeps handed to Slurm, with synthetics for its commands (check_slurm has the real ones)."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import config, job, launch_here, make, names, quadrants, torch_as_it_was, written

from bnstudy import cli
from bnstudy.config import errors
from bnstudy.config.schema import to_dict
from bnstudy.store import devices, locks, paths
from bnstudy.store.jobs import Group, jobs
from bnstudy.store.runs import RunEnded, State, Store
from bnstudy.sweep import launchers, pool, slurm, task
from bnstudy.sweep.launchers import LOCAL, Launcher

SLURM = Launcher("slurm")
TOO_WIDE = {"name": "mlp", "hidden": "1000000000000"}  # for any memory: what a run of it raises is not seen before


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture
def here(monkeypatch):
    """Jobs make their runs in this process."""
    monkeypatch.setattr(pool, "launch", launch_here)
    with torch_as_it_was():
        yield


def test_a_group_described_in_a_file_is_the_group(tmp_path, root, monkeypatch):
    """From any folder, with the threads that it is to have."""
    monkeypatch.chdir(root.parent)
    relative = config(root, runtime__data_root=root.name, norm={"name": "batch", "eps": 1e-3})
    group = Group((job(relative), job(replace(relative, seed=1))))
    task.write_group(tmp_path / "group.json", group, 3)
    monkeypatch.chdir(tmp_path)
    read = task.read_group(tmp_path / "group.json")
    assert read.id == group.id
    assert [one.source.folder.is_dir() for one in read.jobs] == [True, True]
    for one, other in zip(read.jobs, group.jobs, strict=True):
        assert to_dict(one.config) == to_dict(replace(other.config, runtime=replace(other.config.runtime, threads=3)))


def test_a_job_makes_what_is_not_done_and_says_what_failed(tmp_path, root, here, capsys):
    good, bad = config(root), config(root, model=TOO_WIDE)
    make([good], tmp_path / "alone")
    assert task.train_cluster_job(Group((job(good),)), tmp_path) == {}
    (told,) = task.train_cluster_job(Group((job(bad),)), tmp_path).items()
    assert told[0] == job(bad).run_id and told[1].startswith("failed: RuntimeError: ")
    assert f"{task.OWN}{told[0]}: {told[1]}" in capsys.readouterr().err
    assert written(tmp_path, names([good])) == written(tmp_path / "alone", names([good]))
    before = {path: path.stat().st_mtime_ns for path in paths.run(tmp_path, job(good).run_id).iterdir()}
    task.train_cluster_job(Group((job(good),)), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in paths.run(tmp_path, job(good).run_id).iterdir()} == before


@pytest.fixture
def waiting(monkeypatch):
    """Jobs whose making comes to nothing when they are sent signals: those to send, a list a life; the lives' runs."""
    to_send, began = list[list[signal.Signals]](), list[set[str]]()

    def make(wanted, pending, results, workers, progress):
        began.append(set(pending))
        numbers = to_send.pop(0)
        for number in numbers:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 0.01)  # the handler runs before the next line
        for run_id in () if numbers else pending:
            Store(results).writer(run_id).finish({"status": "completed"})
        return [RunEnded(run_id, State.partial if numbers else State.completed) for run_id in pending]

    monkeypatch.setattr(pool, "train_on_this_machine", make)
    return to_send, began


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_job_that_is_to_be_queued_again_is_once_all_is_saved(tmp_path, root, waiting, number):
    to_send, began = waiting
    to_send += [[number], []]
    queued = []
    before = signal.signal(number, lambda told, _: queued.append((told, len(began))))  # as submitit does
    try:
        task.train_cluster_job(Group((job(config(root)),)), tmp_path)
    finally:
        signal.signal(number, before)
    assert queued == [(number, 1)]


def test_a_job_that_is_only_warned_goes_on(tmp_path, root, waiting):
    to_send, began = waiting
    to_send += [[signal.SIGTERM], []]
    before = signal.getsignal(signal.SIGTERM)
    task.train_cluster_job(Group((job(config(root)),)), tmp_path)
    assert len(began) == 2 and began[0] == began[1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_process_of_a_job_does_not_die_of_the_jobs_signals(tmp_path, root):
    """They reach every process of a job; who waits for the worker hears them, and has it save."""
    seen = []

    def warn():
        while not (found := [p.pid for p in multiprocessing.active_children() if p.pid]):
            pass
        os.kill(found[0], signal.SIGUSR2)
        seen.append(found[0])

    thread = threading.Thread(target=warn)
    thread.start()
    group = Group((job(config(root)),))
    ended = pool.launch([group], tmp_path, workers=1, threads=1, report=lambda *told: None)
    thread.join()
    assert seen and [end.state for end in ended] == ["completed"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_what_a_launcher_is_told():
    launcher, rest = launchers.choose("slurm", ["launcher.partition=gpu", "seed=0", "launcher.mem_gb=4"], wait=False)
    assert launcher == Launcher("slurm", ("partition=gpu", "mem_gb=4"), wait=False) and rest == ["seed=0"]
    assert launchers.choose("local", ["seed=0"]) == (LOCAL, ["seed=0"])
    with pytest.raises(ValueError, match=r"^launcher\.partition=gpu: .*--launcher slurm"):
        launchers.choose("local", ["launcher.partition=gpu"])
    with pytest.raises(ValueError, match=r"^--no-wait: .*--launcher slurm"):
        launchers.choose("local", [], wait=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [("012345", "012345"), ("no", "no"), ("4:00:00", "4:00:00"), ("240", 240), ("true", True), ("null", None),
     ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("[a100|h100]&nvme", "[a100|h100]&nvme"), ("%j", "%j"),
     ("[rack1|rack2]", "[rack1|rack2]"), ("!v100", "!v100"), ("a: b: c", "a: b: c")],
)  # fmt: skip
def test_a_launchers_value_is_a_number_only_where_it_reads_as_one(text, value):
    """YAML would take an account for an octal number, a partition for false, and a time for seconds."""
    assert launchers._typed("account", text) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [("partion=gpu", "did you mean partition"), ("timeout_min=long", "minutes"), ("array_parallelism", "give a value"),
     ("timeout_min=4:00:00", "minutes, as in launcher.timeout_min=240"), ("timeout_min=true", "minutes")],
)  # fmt: skip
def test_a_value_that_a_launcher_does_not_take_is_refused_before_anything_starts(value, words):
    with pytest.raises(ValueError, match=rf"^launcher\.{value}.*{words}"):
        launchers.choose("slurm", [f"launcher.{value}"])


def test_the_launchers_of_the_help_are_the_files_there_are():
    names = cli._launchers()
    assert names == ["local", "slurm"]
    for name in names:
        assert launchers.choose(name, []) == (Launcher(name), [])


def test_an_own_file_says_what_differs_and_one_of_earlier_releases_is_refused(tmp_path, monkeypatch):
    shutil.copy(launchers.CONF / "slurm.yaml", tmp_path)
    monkeypatch.setattr(launchers, "CONF", tmp_path)
    (tmp_path / "mine.yaml").write_text("mem_gb: 3\n")
    made = Launcher("mine", ("timeout_min=7",)).executor(tmp_path, cluster="debug", name="a title")
    assert made.parameters.items() >= {"mem_gb": 3, "timeout_min": 7, "cpus_per_task": 2, "name": "a title"}.items()
    (tmp_path / "mine.yaml").write_text("defaults: [slurm, _self_]\nhydra: {launcher: {mem_gb: 3}}\n")
    with pytest.raises(errors.ComposeError, match=r"mine\.yaml.*without hydra\.launcher"):
        launchers.choose("mine", [])


@pytest.mark.parametrize(("name", "words"), [("joblib", "--jobs N"), ("slrum", "there are: local, slurm")])
def test_a_launcher_that_is_not_there_is_bad_input(name, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", "init", "--launcher", name])
    assert ended.value.code == cli.EXIT_USAGE and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("driver", "chosen", "names"),
    [(0, None, []), (2, None, ["0", "1"]), (4, "2,3", ["2", "3"]), (2, "GPU-a,GPU-b", ["GPU-a", "GPU-b"]), (2, "", [])],
)
def test_the_gpus_there_are(tmp_path, monkeypatch, driver, chosen, names):
    for number in range(driver):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(devices.VISIBLE, chosen)
    assert devices.names() == names and devices.gpus() == len(names)


def test_each_process_has_a_gpu_for_itself_and_one_that_follows_it_the_same(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    taken: list[str | None] = []
    for _ in range(4):
        taken.append(devices.choose_gpu("auto", taken))
    assert taken == ["0", "1", "2", "0"]
    assert devices.choose_gpu("cuda", ["0", "2"]) == "1"  # whose process died
    assert devices.choose_gpu("cuda:1", []) is None and devices.choose_gpu("cpu", []) is None
    monkeypatch.setenv(devices.VISIBLE, "1")
    assert devices.choose_gpu("auto", []) is None  # there is nothing to choose


def test_a_worker_is_started_with_its_gpu_alone_in_sight(monkeypatch):
    seen = []

    class Context:
        Pipe = staticmethod(multiprocessing.Pipe)

        def Process(self, **options):
            return self

        def start(self):
            seen.append((os.environ.get(devices.VISIBLE), os.environ["OMP_NUM_THREADS"]))

    monkeypatch.setenv(devices.VISIBLE, "4,5")
    worker = pool._start(Context(), Path("results"), 3, "5", 0)
    assert seen == [("5", "3")] and worker.gpu == "5" and os.environ[devices.VISIBLE] == "4,5"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands as scripts: sbatch counts, squeue prints the file `queue`, or fails where there is none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "sbatch": 'echo "$@" >> {0}/submitted; echo "Submitted batch job $((6 + $(wc -l < {0}/submitted)))"',
        "squeue": "cat {0}/queue",
        "srun": "true",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script.format(folder)}\n")
        (folder / name).chmod(0o755)
    (folder / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SEC", 0.01)
    return folder


@pytest.fixture
def wanted(root):
    return jobs([config(root, seed=seed) for seed in (0, 1)])


def submit(wanted, results, *, wait=False, at_a_time=None):
    pending = {one.run_id for one in wanted}
    return slurm.train_on_cluster("t", wanted, pending, results, replace(SLURM, wait=wait), at_a_time)


def test_jobs_are_an_array_that_is_found_again(tmp_path, cluster, wanted, here, capsys):
    (results := tmp_path / "results").mkdir()
    assert submit(wanted, results, at_a_time=5) == []
    assert "t: 2 jobs are submitted, as 7" in capsys.readouterr().out
    (script,) = [Path(line) for line in (cluster / "submitted").read_text().split()]
    text = (paths.cluster(results) / "7" / "7_submission.sh").read_text() if not script.exists() else script.read_text()
    assert "#SBATCH --array=0-1%2" in text and "#SBATCH --job-name=bnstudy-t" in text
    assert "#SBATCH --signal=USR2@120" in text and "#SBATCH --cpus-per-task=2" in text
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 PENDING\n")
    assert submit(wanted, results) == []
    told = capsys.readouterr().out
    assert "t: 2 runs are in the queue already, as 7" in told and "are submitted" not in told
    described = [task.read_group(file) for file in sorted((paths.cluster(results) / "groups").iterdir())]
    assert {one.run_id for group in described for one in group.jobs} == {one.run_id for one in wanted}
    for group in described:  # as the cluster does
        task.train_cluster_job(group, results)
    assert set(submit(wanted, results, wait=True)) == {RunEnded(one.run_id, "completed") for one in wanted}
    assert {Store(results).manifest(one.run_id)["provenance"]["threads"] for one in wanted} == {1}


def test_jobs_of_another_user_are_found_and_their_record_stays(tmp_path, cluster, wanted, monkeypatch, capsys):
    """Two people with one results folder: `squeue --me` shows only one's own."""
    (results := tmp_path / "results").mkdir()
    submit(wanted, results)
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 PENDING\n")
    (cluster / "squeue").write_text(f"#!/bin/sh\ncase $1 in --user={os.getuid()}) cat {cluster}/queue;; esac\n")
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    capsys.readouterr()
    assert submit(wanted, results) == []
    printed = capsys.readouterr().out
    assert "t: 2 runs are in the queue already, as 7" in printed and "are submitted" not in printed
    assert "scancel" not in printed
    monkeypatch.setattr(locks, "holder", lambda *_: locks.UNKNOWN)  # a killed job's lock, which only its user may try
    (cluster / "queue").write_text("")
    looks = iter([{"7_0": "RUNNING", "7_1": "RUNNING"}])  # and from then on no job
    monkeypatch.setattr(slurm, "_queue", lambda users: next(looks, {}))
    assert [end.state for end in submit(wanted, results, wait=True)] == ["partial"] * 2
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{cluster}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    assert submit(wanted, results) == [] and (paths.cluster(results) / "7.json").exists()
    assert "2 jobs are submitted" in capsys.readouterr().out


def test_a_job_that_is_gone_leaves_its_runs_unfinished(tmp_path, cluster, wanted):
    (results := tmp_path / "results").mkdir()
    submit(wanted, results)
    record = json.loads((paths.cluster(results) / "7.json").read_text())
    log = Path(record[0]["log"])
    log.write_text("submitit INFO\nbnstudy: the disk is full\nsrun: error: task 0: Killed\n")
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 RUNNING\n")
    looks = list[None]()
    queue = slurm._queue

    def shorter(users):
        looks.append(None)
        if len(looks) == 3:
            (cluster / "queue").write_text("")
        return queue(users)

    slurm._queue = shorter
    try:
        ended = submit(wanted, results, wait=True)
    finally:
        slurm._queue = queue
    notes = {end.note for end in ended}
    assert [end.state for end in ended] == ["partial", "partial"] and len(looks) >= 4
    assert f"job 7_0 ended first (the disk is full); its log: {log}" in notes


def test_a_run_that_another_process_makes_is_waited_for(tmp_path, cluster, wanted, monkeypatch):
    """Its job may be gone: somebody else took the run up."""
    (results := tmp_path / "results").mkdir()
    submit(wanted, results)
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 RUNNING\n")
    looks = []

    def holder(results, run_id):
        looks.append(run_id)
        return locks.UNKNOWN if len(looks) < 20 else None

    monkeypatch.setattr(locks, "holder", holder)
    earlier = slurm._earlier(results, {one.run_id for one in wanted})
    (cluster / "queue").write_text("")
    monkeypatch.setattr(slurm, "_earlier", lambda *_: earlier)
    assert [end.state for end in submit(wanted, results, wait=True)] == ["partial"] * 2 and len(looks) >= 20


def test_a_queue_that_does_not_answer_is_no_end(tmp_path, cluster, wanted, monkeypatch):
    (results := tmp_path / "results").mkdir()
    submit(wanted, results)
    (cluster / "queue").unlink()
    with pytest.raises(ValueError, match=r"^Slurm's queue does not answer"):
        submit(wanted, results)  # there may be jobs in it
    assert slurm._shown([], None) == "Slurm's queue does not answer"


def test_without_slurm_that_is_said(tmp_path, wanted, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^LAUNCHER=slurm: there is no sbatch here"):
        submit(wanted, tmp_path)


def test_a_folder_that_sbatch_would_read_as_a_pattern_is_refused(tmp_path, cluster, wanted):
    with pytest.raises(ValueError, match=r"--results .*100% .*pattern; name another folder"):
        submit(wanted, tmp_path / "100% mine")
    assert not (cluster / "submitted").exists()


def test_jobs_in_a_folder_of_any_other_name_are_submitted(tmp_path, cluster, wanted):
    results = tmp_path / "josé's (a,b) [c] {d} $e x=y #1"
    results.mkdir()
    submit(wanted, results)
    (record,) = [json.loads(path.read_text()) for path in paths.cluster(results).glob("*.json")]
    assert all(Path(each["log"]).is_relative_to(results) for each in record)
    described = [task.read_group(file) for file in sorted((paths.cluster(results) / "groups").iterdir())]
    assert {one.run_id for group in described for one in group.jobs} == {one.run_id for one in wanted}


def test_what_slurm_refuses_is_told_in_its_words(tmp_path, cluster, wanted):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"^Slurm refused the jobs: Invalid account$"):
        submit(wanted, tmp_path)
