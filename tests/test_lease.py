"""One process holds a run at a time; who dies loses it at once, who falls silent in time, whatever the clocks say."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from bnstudy.store import lease, paths
from bnstudy.store.lease import Holder, Taken, Watch, claimed, held, look

FORK = multiprocessing.get_context("fork")


def away(monkeypatch):
    """From here on this process is one of another machine."""
    monkeypatch.setattr(lease, "_machine", lambda: "elsewhere")


def test_what_is_held_is_nobody_elses_and_free_afterwards(tmp_path):
    with claimed(tmp_path, ["a", "b"]) as claim:
        claim.check()
        assert set(held(tmp_path)) == {"a", "b"}
        here = held(tmp_path)["a"]
        assert here.pid == os.getpid() and not here.dead and Holder.named(here.name) == here
        making = rf"making this run \(process {os.getpid()} on .*'b'"
        with pytest.raises(Taken, match=making) as caught, claimed(tmp_path, ["c", "b"]):
            pass
        assert caught.value.filename == "b"
        assert set(held(tmp_path)) == {"a", "b"}  # all or nothing
    assert held(tmp_path) == {} and not list(paths.leases(tmp_path).iterdir())


def claim_and_die(results, told):
    with claimed(results, ["a"]):
        told.set()
        signal.pause()


def test_who_is_killed_loses_the_run_at_once(tmp_path):
    told = FORK.Event()
    process = FORK.Process(target=claim_and_die, args=(tmp_path, told))
    process.start()
    assert told.wait(30)
    with pytest.raises(Taken), claimed(tmp_path, ["a"]):
        pass
    assert Watch(tmp_path).holder("a") == held(tmp_path)["a"]
    os.kill(process.pid or 0, signal.SIGKILL)
    while lease._started(process.pid or 0) is not None:  # a zombie, as nobody has waited for it, is dead
        time.sleep(0.01)
    assert held(tmp_path) == {} and Watch(tmp_path).holder("a") is None and look(tmp_path, "a") is not None
    with claimed(tmp_path, ["a"]):
        assert held(tmp_path)["a"].pid == os.getpid()
    process.join()


def test_a_later_process_of_the_same_number_is_another():
    here = Holder.here()
    assert not here.dead
    assert Holder(here.host, here.machine, here.pid, "0", "").dead
    assert not Holder(here.host, "elsewhere", here.pid, "0", "").dead  # of other machines nothing is certain


def test_a_claim_that_stands_still_is_given_up_by_the_own_clock_alone(tmp_path, monkeypatch):
    """The other machine's clock is an hour late, then jumps years ahead and back; only whether it changes counts."""
    now = 0.0
    watch = Watch(tmp_path, clock=lambda: now)
    with claimed(tmp_path, ["a"]) as theirs:
        (path,) = theirs._files.values()
        away(monkeypatch)
        other = held(tmp_path)["a"]
        for stamp in (time.time() - 3600, time.time() + 1e9, 1.0, 2.0):
            os.utime(path, (stamp, stamp))
            for _ in range(3):
                assert watch.holder("a") == other and watch.expired() == {}
                now += lease.EXPIRE_SEC / 4
        with pytest.raises(Taken), claimed(tmp_path, ["a"], watch.expired()):
            pass
        now += lease.EXPIRE_SEC / 4
        assert watch.holder("a") is None
        os.utime(path, (3.0, 3.0))  # it was only slow: what was seen is no longer so
        with pytest.raises(Taken), claimed(tmp_path, ["a"], watch.expired()):
            pass
        assert watch.holder("a") == other
        now += lease.EXPIRE_SEC
        assert watch.holder("a") is None and set(watch.expired()) == {"a"}
        with claimed(tmp_path, ["a"], watch.expired()) as ours:
            theirs.renew()
            with pytest.raises(Taken, match="another process"):
                theirs.check()
            ours.check()
            with pytest.raises(Taken), claimed(tmp_path, ["a"], watch.expired()):  # seen of the old holder
                pass
    assert look(tmp_path, "a") is None


def test_who_slept_finds_out_before_it_goes_on(tmp_path, monkeypatch):
    """A suspended machine renews nothing; the first check afterwards does, or tells."""
    clock = lease._uptime()
    monkeypatch.setattr(lease, "_uptime", lambda: clock)
    with claimed(tmp_path, ["a"]) as claim:
        (path,) = claim._files.values()
        path.rename(path.with_name("other~machine~1~1~1"))
        claim.check()  # a moment ago all was well
        clock += 3 * lease.BEAT_SEC
        with pytest.raises(Taken):
            claim.check()
    assert look(tmp_path, "a") is not None  # another's, which is not ours to give up


def test_a_file_system_that_stays_away_costs_the_claim_and_a_hiccup_does_not(tmp_path, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(lease, "_uptime", lambda: clock)

    def stale(path):
        raise OSError(116, "Stale file handle")

    with claimed(tmp_path, ["a"]) as claim:
        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", stale)
            clock = lease.EXPIRE_SEC / 2
            claim.check()
        claim.check()
        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", stale)
            clock += 2 * lease.EXPIRE_SEC
            with pytest.raises(Taken):
                claim.check()


def test_claims_are_renewed_while_they_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SEC", 0.01)
    with claimed(tmp_path, ["a"]):
        first, deadline = look(tmp_path, "a"), time.monotonic() + 30
        while look(tmp_path, "a") == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert look(tmp_path, "a") != first


def test_what_a_killed_release_leaves_is_free(tmp_path):
    paths.lease(tmp_path, "a").mkdir(parents=True)
    assert look(tmp_path, "a") is None and held(tmp_path) == {}
    with claimed(tmp_path, ["a"]):
        pass


def test_what_is_not_a_claim_is_somebodys_until_it_has_stood_still(tmp_path):
    now = 0.0
    watch = Watch(tmp_path, clock=lambda: now)
    paths.lease(tmp_path, "a").mkdir(parents=True)
    (paths.lease(tmp_path, "a") / "notes~x").write_text("")
    assert held(tmp_path) == {} and str(watch.holder("a")) == "process 0 on ?"
    with pytest.raises(Taken, match="another process is making this run"), claimed(tmp_path, ["a"]):
        pass
    now = lease.EXPIRE_SEC
    assert watch.holder("a") is None
    with claimed(tmp_path, ["a"], watch.expired()):
        pass


CONTEND = """
import os, random, sys, time
from pathlib import Path
from bnstudy.store import lease
results, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
lease.BEAT_SEC = 0.001
while not (results / "go").exists():
    time.sleep(0.001)
for _ in range(150):
    run = random.choice("abc")
    try:
        with lease.claimed(results, [run]):
            mark = results / f"{run}.mark"
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another is inside
            with open(results / f"{run}.log", "a") as log:
                log.write("x")
            mark.unlink()
            if random.random() < 0.05 and seed:
                os._exit(9)  # dies holding it
    except lease.Taken:
        time.sleep(0.0005)
"""


def test_many_processes_at_once_never_hold_the_same_run_and_who_dies_holds_nothing(tmp_path):
    command = [sys.executable, "-c", CONTEND, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(4)]
    (tmp_path / "go").touch()
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert {code for _, code in ended} <= {0, 9} and ended[0][1] == 0, ended
    assert held(tmp_path) == {}
    assert all((tmp_path / f"{run}.log").stat().st_size > 20 for run in "abc")
    for run in "abc":
        with claimed(tmp_path, [run]):
            pass
