"""Which runs train side by side, how the work is shared out, and how interrupted groups are found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.config import plugins
from bnstudy.config.schema import Config, Optim, Runtime, Train
from bnstudy.data import sources
from bnstudy.data.sources import Source
from bnstudy.store import devices, files, paths
from bnstudy.store.jobs import Group, Job, jobs, under_way
from bnstudy.sweep.plan import MAX_STACK, MAX_STACK_CPU, can_share_a_process, plan

SOURCE = Source("fashion_mnist", "arrays", Path("nowhere"), "0" * 64, 100, 10, (1, 28, 28), 10)


def run(lr=1.0, seed=0, norm="batch", model="lenet", engine="auto"):
    return Job(
        Config(
            model={"name": model},
            norm={"name": norm},
            optim=Optim(lr=lr),
            seed=seed,
            train=Train(epochs=1),
            runtime=Runtime(engine=engine),
        ),
        SOURCE,
    )


def shape(groups):
    return [len(group.jobs) for group in groups]


def interrupted(results, *members):
    """A group that has a checkpoint."""
    group = Group(members)
    path = paths.groups(results) / group.id / paths.MEMBERS
    files.write_text(path, "\n".join(job.run_id for job in members) + "\n")
    return group


def test_runs_that_differ_in_the_rate_alone_train_side_by_side(tmp_path):
    wanted = [run(lr, seed, norm) for norm in ("batch", "none") for seed in (0, 1) for lr in (0.1, 1.0, 3.0)]
    groups = plan(wanted, {job.run_id for job in wanted}, tmp_path, workers=1)
    assert shape(groups) == [3, 3, 3, 3]
    for group in groups:
        assert len({(job.config.seed, job.config.norm["name"]) for job in group.jobs}) == 1
        assert [job.config.optim.lr for job in group.jobs] == [0.1, 1.0, 3.0]


def test_only_what_is_pending_is_made(tmp_path):
    wanted = [run(lr) for lr in (0.1, 0.2, 0.3)]
    (group,) = plan(wanted, {wanted[0].run_id, wanted[2].run_id}, tmp_path, workers=1)
    assert group.jobs == (wanted[0], wanted[2])
    assert plan(wanted, set(), tmp_path, workers=4) == []


def test_groups_have_a_largest_size_and_are_halved_for_idle_workers(tmp_path):
    wanted = [run(lr / 10) for lr in range(1, 2 * MAX_STACK_CPU + 4)]
    everything = {job.run_id for job in wanted}
    assert MAX_STACK_CPU == 5 and shape(plan(wanted, everything, tmp_path, workers=1)) == [4, 4, 5]
    assert [job for group in plan(wanted, everything, tmp_path, workers=1) for job in group.jobs] == wanted
    few, some = wanted[:5], {job.run_id for job in wanted[:5]}
    assert shape(plan(few, some, tmp_path, workers=1)) == [5]
    assert shape(plan(few, some, tmp_path, workers=2)) == [3, 2]
    assert shape(plan(few, some, tmp_path, workers=3)) == [2, 1, 2]
    assert shape(plan(few, some, tmp_path, workers=64)) == [1] * 5


def test_runs_that_share_a_device_or_a_network_stand_in_larger_groups(tmp_path, monkeypatch):
    stacked = [run(lr / 10, engine="stacked") for lr in range(1, 2 * MAX_STACK + 1)]
    assert shape(plan(stacked, {job.run_id for job in stacked}, tmp_path, workers=64)) == [MAX_STACK, MAX_STACK]
    monkeypatch.setattr(devices, "on_gpu", lambda device: True)
    wanted = [run(lr / 10) for lr in range(1, MAX_STACK + 1)]
    assert shape(plan(wanted, {job.run_id for job in wanted}, tmp_path, workers=1)) == [MAX_STACK]


def test_what_may_not_be_stacked_trains_alone(tmp_path):
    for changes in ({"model": "resnet"}, {"engine": "plain"}):
        assert plugins.flag("models", "resnet", "STACKABLE") is False
        wanted = [run(lr, **changes) for lr in (0.1, 0.2)]
        assert shape(plan(wanted, {job.run_id for job in wanted}, tmp_path, workers=1)) == [1, 1]
    with pytest.raises(ValueError, match=r"runtime\.engine = 'stacked': resnet with norm batch do not stack; use auto"):
        can_share_a_process(run(model="resnet", engine="stacked").config)
    assert can_share_a_process(run(engine="stacked").config)


def test_what_is_asked_to_be_stacked_is_stacked_or_refused(tmp_path):
    wanted = [run(lr, seed, engine="stacked") for seed in (0, 1) for lr in (0.1, 0.2, 0.3)]
    everything = {job.run_id for job in wanted}
    assert shape(plan(wanted, everything, tmp_path, workers=64)) == [3, 3]  # halved for nobody
    assert shape(plan(wanted, {wanted[0].run_id}, tmp_path, workers=1)) == [1]  # the others are done
    with pytest.raises(ValueError, match=r"runtime\.engine = 'stacked': no other run differs from lenet-.* use auto"):
        plan(wanted[:1], everything, tmp_path, workers=1)
    with pytest.raises(ValueError, match=r"runtime\.engine = 'stacked': resnet with norm batch do not stack; use auto"):
        plan([run(lr, model="resnet", engine="stacked") for lr in (0.1, 0.2)], set(), tmp_path, workers=1)


def test_a_group_that_is_there_whole_and_in_part_goes_on_whole(tmp_path):
    """As a kill leaves it that came while it was taken apart; also where one of its runs is done."""
    wanted = [run(lr) for lr in (0.1, 0.2, 0.3)]
    for job in wanted[:2]:
        interrupted(tmp_path, job)
    group = interrupted(tmp_path, *wanted)
    assert plan(wanted, {job.run_id for job in wanted}, tmp_path, workers=1) == [group]
    assert plan(wanted, {job.run_id for job in wanted[1:]}, tmp_path, workers=1) == [group]


def test_an_interrupted_group_goes_on_as_it_was(tmp_path):
    """Also where some of its members have their manifests already: the others' rows lie in its checkpoint."""
    wanted = [run(lr) for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    group = interrupted(tmp_path, wanted[3], wanted[1])
    for pending in ({wanted[1].run_id}, {job.run_id for job in (wanted[0], *wanted[2:])}):
        groups = plan(wanted, pending, tmp_path, workers=1)
        assert groups[0] == group and groups[0].id == group.id
        rest = [job.run_id for other in groups[1:] for job in other.jobs]
        assert rest == [job.run_id for job in wanted if job.run_id in pending and job not in group.jobs]


def test_a_group_that_is_done_or_not_wanted_is_left_alone(tmp_path):
    wanted = [run(lr) for lr in (0.1, 0.2, 0.3)]
    interrupted(tmp_path, wanted[0], wanted[1])  # all done, but for the removal of its checkpoint
    interrupted(tmp_path, wanted[2], run(9.0))  # of a sweep with one more rate
    (group,) = plan(wanted, {wanted[2].run_id}, tmp_path, workers=1)
    assert group.jobs == (wanted[2],)
    assert len(under_way(tmp_path)) == 2


def test_nothing_under_way(tmp_path):
    assert under_way(tmp_path) == {}


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    rates=st.lists(st.sampled_from([0.1 * k for k in range(1, 30)]), unique=True, min_size=1, max_size=15),
    workers=st.integers(1, 8),
)
def test_every_pending_run_is_made_exactly_once(tmp_path_factory, data, rates, workers):
    results = tmp_path_factory.mktemp("results")
    wanted = [run(lr, seed) for seed in (0, 1) for lr in rates]
    pending = data.draw(st.sets(st.sampled_from([job.run_id for job in wanted])))
    held = wanted[: data.draw(st.integers(0, 4))]
    if held:
        interrupted(results, *held)
    groups = plan(wanted, pending, results, workers)
    made = [job.run_id for group in groups for job in group.jobs]
    assert len(made) == len(set(made)) and pending <= set(made)
    assert set(made) - pending <= {job.run_id for job in held}
    assert all(len(group.jobs) <= max(MAX_STACK_CPU, len(held)) for group in groups)


def test_a_groups_name_is_its_members(tmp_path):
    a, b = run(0.1), run(0.2)
    assert Group((a, b)).id == Group((run(0.1), run(0.2))).id != Group((a,)).id


def test_jobs_find_their_data_once_and_each_identity_once(data_root, monkeypatch):
    calls = []
    locate = sources.locate

    def counted(name, *arguments, **options):
        calls.append(name)
        return locate(name, *arguments, **options)

    monkeypatch.setattr(sources, "locate", counted)
    runtime = Runtime(data_root=str(data_root))
    configs = [Config(seed=seed, runtime=runtime) for seed in (0, 1, 0)]
    assert [job.config.seed for job in jobs(configs)] == [0, 1]
    assert calls == ["cifar10"]
