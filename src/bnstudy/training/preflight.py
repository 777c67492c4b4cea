"""Checks before any run starts: whether components, data and machine take the configuration.

Types and ranges of values are checked in `config`. A component's file checks its own options: it is built for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from bnstudy import models, probes
from bnstudy.config.schema import Config, model_options, norm_options
from bnstudy.data import loader
from bnstudy.data.sources import Source
from bnstudy.store import reduction
from bnstudy.store.jobs import Job
from bnstudy.training import contract, engine
from bnstudy.training.construct import image_shape, norm_factory
from bnstudy.training.train import EPOCHS, STEPS, THROUGHPUT

TABLES = {"steps": STEPS, "epochs": EPOCHS, "throughput": THROUGHPUT}


def check(jobs: Iterable[Job], *, device: bool = True) -> None:
    """Raises ValueError naming key, value and remedy. No image is read and no file written.

    Without `device` the machine is not checked: the runs may train on another one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that was forked hangs where it computes with several
    try:
        _check_each(jobs, device=device)
    finally:
        torch.set_num_threads(threads)


def _check_each(jobs: Iterable[Job], *, device: bool) -> None:
    checked = set()
    for job in jobs:
        alike = replace(job.config, seed=0, optim=replace(job.config.optim, lr=0.0))  # of which there may be hundreds
        if (key := repr((alike, job.source))) not in checked:
            checked.add(key)
            with torch.random.fork_rng(devices=[]):
                if device:
                    _check_device(job.config)
                _check_data(job.config, job.source)
                _check_components(job.config, job.source)
                _check_looks(job)
                _check_rows(job.config)


def _check_device(config: Config) -> None:
    device = config.runtime.device
    number, num_gpus = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if 0 < num_gpus <= number:
        raise ValueError(
            f"runtime.device = {device!r}: torch sees {num_gpus} GPU(s) here; give cuda:0 to cuda:{num_gpus - 1}"
        )
    # Refuses what it can, with a network of one weight.
    engine.build_engine([config], [nn.Linear(1, 1)], engine.device(config))


def _check_data(config: Config, source: Source) -> None:
    data, plans = config.data, config.probes.items()
    sizes = {"data.batch_size": data.batch_size}
    sizes |= {f"probes.{name}.batch_size": plan.batch_size for name, plan in plans if plan.batch_size}
    num_train = loader.check_sizes(source, num_train=data.num_train, num_test=data.num_test, sizes=sizes)
    if data.balanced and num_train % source.num_classes:
        raise ValueError(f"data.num_train = {num_train} with data.balanced: give a multiple of {source.num_classes}")


def _check_components(config: Config, source: Source) -> None:
    try:
        norm, shape = norm_factory(config), image_shape(config, source.shape)
        network = models.outline(config.model["name"], model_options(config), norm, shape, source.num_classes)
        file = f"models/{config.model['name']}.py"
        contract.check_copies(network, file)
        contract.check_trained(config, network)
        layers = contract.check_layers(network, file)
        for name, plan in config.probes.items():
            examples = config.data.batch_size if plan.on == "train_batch" else plan.batch_size or config.data.batch_size
            num_train = config.data.num_train or source.num_train
            probes.check_options(name, plan.options, layers, examples=examples, num_train=num_train)
            probes.check_layers(name, layers, network.get_submodule)
        contract.check_batches(config, source, network, norm.layers)
        contract.check_pass(config, network, layers, shape, source.num_classes)
        contract.check_draws(config, network, shape)
        contract.check_stackable(config.norm["name"], norm_options(config))
    except ValueError:
        raise
    except Exception:  # a component's fault and no value's: the run itself fails, and says where
        return


def _check_looks(job: Job) -> None:
    """Refuse a probe that would never look: one without a time to look, or only with times after the last update."""
    for name, plan in job.config.probes.items():
        if plan.every_steps or plan.every_epochs or plan.at_end or plan.at_divergence:
            continue
        if not plan.at:
            raise ValueError(f"probes.{name}: it is not told when to look; give probes.{name}.at_end=true, or at=[0]")
        if min(plan.at) > job.num_steps:
            raise ValueError(
                f"probes.{name}.at = {plan.at}: training ends after {job.num_steps} updates, so that it would never "
                f"look; give probes.{name}.at_end=true"
            )


def _check_rows(config: Config) -> None:
    """Refuse a query by which the reduction keeps rows of a table, but which does not fit the table's columns."""
    for table, query in config.sweep.rows.items():
        if table in TABLES or table in config.probes:
            columns = TABLES.get(table) or {"step": "int64", **probes.columns(table)}
            reduction.check_query(table, columns, query)
