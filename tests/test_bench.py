"""The bench: its baseline computes what our plain engine does, and every side of every row runs. Nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import benchmarks as bench
from benchmarks import careful, measure, rows, tutorial
from benchmarks.rows import LENET, RESNET, ROWS, Row, Setting
from bnstudy.config import project
from bnstudy.store.jobs import jobs
from bnstudy.training import construct, engine

ARMS = {"batch": ("norm=batch",), "none": ("norm=none",)}
BY_NAME = {row.name: row for row in ROWS}
IN_PROCESSES = {"lenet_grid", "help", "first_step", "memory"}  # rows that start processes: seconds each


@pytest.fixture
def setting(data_root: Path, tmp_path: Path) -> Setting:
    return Setting(
        data_root, tmp_path, threads=1, synthetic=False, depth=8, batch_size=32, updates=1, trial_batches=1,
        test_images=64, rates=(0.01, 0.1), epochs=2,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What `host.prepare` sets is for a run's own process."""
    deterministic, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic
    filled = fill.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(deterministic)
    fill.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("network", [LENET, RESNET], ids=["lenet", "resnet"])
def test_the_baseline_has_the_losses_of_the_plain_engine(network: tuple[str, ...], norm: str, setting: Setting) -> None:
    setting = replace(setting, depth=20)
    # At larger rates a ResNet amplifies the rounding of the memory formats, which differ, within a few updates.
    arm = (*ARMS[norm], *(["optim.lr=1e-4"] if network == RESNET else []))
    config = rows._config(setting, network + arm, "runtime.engine=plain")
    (job,) = jobs([config])
    loader = construct.make_loader(job, torch.device("cpu"))
    ours = construct.build_network(config, loader.shape, loader.num_classes)
    loop = rows._loop(setting, config, rows._images(setting, config), 0)
    names = loop.network.state_dict()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in loop.network.parameters())
    loop.network.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)))
    plain = engine.build_engine([config], [ours], torch.device("cpu"))
    loop.network.train()
    for step in range(3):
        images_NCHW, labels_N = loader.batch(step)
        result = plain.step((images_NCHW, labels_N), [config.optim.lr])
        loss, correct = loop.step(images_NCHW, labels_N)
        assert loss == pytest.approx(result.loss_R.item(), rel=1e-4 if step else 1e-5)  # rounding has been amplified
        assert correct == int(result.correct_R)


def test_the_baseline_trains_with_torchs_sgd_and_the_recipes_values(setting: Setting) -> None:
    config = rows._config(setting, RESNET, "optim.lr=0.3")
    recipe = rows._recipe(config)
    loop = rows._loop(setting, config, rows._images(setting, config), 0)
    group = loop.optimizer.param_groups[0]
    assert type(loop.optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.9, 1e-4)
    assert (recipe.norm, recipe.augment, recipe.standardise, recipe.depth) == (True, True, True, 8)
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in loop.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "plain"])
@pytest.mark.parametrize("network", [LENET, RESNET], ids=["lenet", "resnet"])
def test_the_careful_loop_has_the_losses_of_the_tutorials(
    network: tuple[str, ...], channels_last: bool, setting: Setting
) -> None:
    config = rows._config(replace(setting, depth=20), network, "optim.lr=1e-4")
    images = rows._images(setting, config)
    tutorials, ours = rows._loop(setting, config, images, 0), rows._careful(setting, config, images, channels_last)
    ours.network.load_state_dict(tutorials.network.state_dict())
    ours.recipe = replace(ours.recipe, augment=False)
    tutorials.network.train(), ours.network.train()
    for _ in range(3):
        batch = next(ours._batches())
        expected, _ = tutorials.step(*batch)
        assert float(ours.step(*batch)) == pytest.approx(expected, rel=1e-4)
    test_images, test_labels = next(iter(tutorials.test_loader))
    torch.testing.assert_close(ours.test_NCHW[: len(test_images)], test_images, rtol=0, atol=1e-5)
    assert torch.equal(ours.test_labels_N[: len(test_labels)], test_labels)
    assert ours.evaluate() == pytest.approx(tutorials.evaluate()[1], abs=2.5 / len(ours.test_NCHW))


def test_the_careful_loop_computes_in_bf16_where_asked(setting: Setting) -> None:
    config = rows._config(setting, RESNET, "precision=bf16")
    loop = rows._careful(setting, config, rows._images(setting, config), True)
    dtypes: list[torch.dtype] = []
    loop.network[0].register_forward_hook(lambda *given: dtypes.append(given[2].dtype))
    loop.updates(1)
    assert dtypes == [torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in loop.network.parameters())


def test_each_image_is_cropped_and_flipped_by_itself() -> None:
    torch.manual_seed(0)
    images_NCHW = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(400, 1, 1, 1)
    windows = {}
    for image in (images_NCHW[0], images_NCHW[0].flip(-1)):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        for row in range(5):
            for column in range(5):
                windows[tuple(padded[:, row : row + 8, column : column + 8].flatten().tolist())] = 0
    for image in careful.crop_and_flip(images_NCHW, pad=2):
        windows[tuple(image.flatten().tolist())] += 1  # KeyError: no crop of the image
    assert len(windows) == 50 and sum(count > 0 for count in windows.values()) > 45


@pytest.mark.parametrize("network", [LENET, RESNET], ids=["lenet", "resnet"])
def test_the_baseline_evaluates_on_the_pixels_our_feed_gives(network: tuple[str, ...], setting: Setting) -> None:
    config = rows._config(replace(setting, test_images=256), network)
    (job,) = jobs([config])
    loader = construct.make_loader(job, torch.device("cpu"))
    loop = rows._loop(setting, config, rows._images(replace(setting, test_images=256), config), 0)
    seen = [torch.cat(parts) for parts in zip(*loop.test_loader, strict=True)]
    ours = [torch.cat(parts) for parts in zip(*loader.test_batches(100), strict=True)]
    torch.testing.assert_close(seen[0], ours[0], rtol=0, atol=1e-5)
    assert torch.equal(seen[1], ours[1])


@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST"])
def test_images_come_as_from_torchvisions_own_data_sets(name: str) -> None:
    import torchvision

    colours = (3,) if name == "CIFAR10" else ()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, *colours), dtype=np.uint8)
    labels = np.arange(5)
    as_tensor = torchvision.transforms.ToTensor()
    theirs = getattr(torchvision.datasets, name).__new__(getattr(torchvision.datasets, name))
    theirs.data = pixels if colours else torch.from_numpy(pixels)
    theirs.targets, theirs.transform, theirs.target_transform = labels.tolist(), as_tensor, None
    ours = tutorial.PilImages((pixels if colours else pixels[..., None], labels), as_tensor)
    assert len(ours) == len(theirs.data)
    for index in range(5):
        (image, label), (their_image, their_label) = ours[index], theirs[index]
        assert torch.equal(image, their_image)
        assert label == their_label


def test_crops_and_flips_only_where_asked_and_only_in_training(setting: Setting) -> None:
    train = tutorial.read(setting.data_root / "cifar10")[0]
    recipe = tutorial.Recipe("resnet", True, 32, 0.1, augment=True)
    for augment, training, expected in ((True, True, 3), (True, False, 1), (False, True, 1)):
        made = tutorial.transform(replace(recipe, augment=augment), train, training=training)
        assert len(made.transforms) == expected  # type: ignore[attr-defined]


def test_the_loop_goes_on_where_it_was_and_counts_its_images(setting: Setting) -> None:
    loop = tutorial.Loop(tutorial.Recipe("lenet", True, 200, 0.1), *tutorial.read(setting.data_root / "fashion_mnist"),
                         num_workers=0)  # fmt: skip
    seen: list[int] = []
    step = loop.step

    def counted(images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
        seen.append(len(labels))
        return step(images, labels)

    loop.step = counted  # type: ignore[method-assign]
    loop.updates(2)
    loop.updates(2)
    loop.epoch()
    loop.epoch(1)
    assert seen == [200, 200, 112, 200, 200, 200, 112, 200]


def test_the_fastest_number_of_workers_is_chosen_by_the_second_trial() -> None:
    made: list[int] = []
    now = 0.0
    cost = {0: [1.0, 9.0], 2: [50.0, 3.0], 4: [2.0, 5.0]}

    def make(number: int) -> int:
        made.append(number)
        return number

    def trial(loop: int) -> None:
        nonlocal now
        now += cost[loop].pop(0)

    assert tutorial.fastest(make, (0, 2, 4), trial, lambda: now) == 2
    assert made == [0, 2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - IN_PROCESSES))
def test_all_sides_of_a_row_run(name: str, setting: Setting) -> None:
    row = BY_NAME[name]
    if name.endswith("bf16"):  # which processors without units for it compute a hundred times more slowly
        setting = replace(setting, batch_size=4)
    for side in row.sides.values():
        prepared = side(setting)
        values = [prepared.measure(), prepared.measure()]
        assert all(np.isfinite(values)) and min(values) > 0
        json.dumps(prepared.facts)


@pytest.mark.slow
def test_the_grid_is_run_by_the_launcher_and_by_the_baselines(setting: Setting) -> None:
    ours = rows.grid(replace(setting, rates=(0.1,)))
    assert ours.facts == {"num_runs": 2}
    assert ours.measure() > 0
    manifests = list((setting.scratch / "grid-0" / "runs").glob("*/manifest.json"))
    assert len(manifests) == 2
    assert {json.loads(path.read_text())["num_steps"] for path in manifests} == {4}  # 512 images, by 256, twice
    assert rows.grid_tutorial(setting).measure() > 0
    assert rows.grid_careful(setting).measure() > 0


def test_help_is_measured(setting: Setting) -> None:
    assert rows.show_help(setting).measure() > 0


@pytest.mark.slow
def test_the_first_step_is_seen_on_both_sides(setting: Setting) -> None:
    assert rows.first_step(setting).measure() > 0
    assert rows.first_step_tutorial(setting).measure() > 0


def test_a_command_that_ends_too_early_is_an_error(setting: Setting) -> None:
    with pytest.raises(RuntimeError, match=r"data set 'fashion_mnist' is not available"):
        rows.first_step(replace(setting, data_root=setting.scratch)).measure()


@pytest.mark.slow
def test_memory_is_that_of_the_whole_process(setting: Setting) -> None:
    network = RESNET + rows.WITH_BN
    ours, *others = (side(network, setting) for side in (rows.memory, rows.memory_tutorial, rows.memory_careful))
    assert ours.facts["data_set_mib"] == pytest.approx(768 * 3080 / 2**20, rel=1e-2)
    torch_alone = 100  # MiB, at the least
    assert min(side.measure() for side in (ours, *others)) > torch_alone


def test_the_configuration_of_a_row_is_the_projects_own(setting: Setting) -> None:
    full = Setting(setting.data_root, setting.scratch, threads=2)
    made = rows._config(full, (*RESNET, "precision=bf16"))
    assert (made.model["depth"], made.data.batch_size, made.precision, made.probes) == (110, 128, "bf16", {})
    sweep = yaml.safe_load((project.SWEEPS / "lenet_lr_grid.yaml").read_text(encoding="utf-8"))
    assert full.rates == tuple(map(float, sweep["hydra"]["sweeper"]["params"]["optim.lr"].split(",")))


def test_rows_are_chosen_by_name_in_the_tables_order() -> None:
    assert [row.name for row in rows.choose(["probes", "lenet"], False)] == ["lenet", "probes"]
    assert rows.choose(None, True) == list(ROWS)
    assert rows.choose(None, False) == [row for row in ROWS if not row.on_gpu_only] != list(ROWS)
    assert rows.choose([], True) == []
    with pytest.raises(ValueError, match="no row 'nosuch'; there are: lenet_bn, "):
        rows.choose(["nosuch"], False)
    assert len(BY_NAME) == len(ROWS)


class InProcess:
    """Takes the place of a side's process."""

    def __init__(self, prepare: measure.Prepare, *, without: tuple[str, ...] = ()) -> None:
        try:
            self._prepared = prepare()
        except OSError as error:
            raise measure.MeasurementError(str(error)) from None
        self.facts = self._prepared.facts

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def measure(self) -> float:
        return self._prepared.measure()


def _constant(value: float, setting: Setting) -> measure.Prepared:
    return measure.Prepared(lambda: value, {"num_workers": 2})


def _broken(setting: Setting) -> measure.Prepared:
    raise OSError("no such thing")


def test_main_measures_merges_and_reports_failures(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Row("good", "Good thing", "images/s", partial(_constant, 30.0), partial(_constant, 10.0))
    alone = Row("alone", "Lone thing", "s", partial(_constant, 0.5), None, more_is_better=False, repeats=1)
    bad = Row("bad", "Bad thing", "s", _broken, None)
    monkeypatch.setattr(rows, "ROWS", (good, alone, bad))
    monkeypatch.setattr(measure, "Side", InProcess)

    assert bench.main(data_root, tmp_path, ["good"], name="here") == 0
    path = tmp_path / "bench" / "here.json"
    assert "3.00 (3.00 to 3.00)" in capsys.readouterr().out
    assert bench.main(data_root, tmp_path, None, name="here") == 1
    printed = capsys.readouterr()
    assert "no such thing" in printed.err
    assert str(path) in printed.out
    content = json.loads(path.read_text())
    assert list(content["rows"]) == ["good", "alone"]
    sides = content["rows"]["good"]["sides"]
    assert {name: side["values"] for name, side in sides.items()} == {"ours": [30.0] * 3, "tutorial": [10.0] * 3}
    assert list(content["rows"]["alone"]["sides"]) == ["ours"]
    before = path.read_bytes()
    assert bench.main(data_root, tmp_path, [], name="here") == 0
    assert path.read_bytes() == before
    assert "Lone thing" in capsys.readouterr().out
