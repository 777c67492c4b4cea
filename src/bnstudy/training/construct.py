"""Build what a run consists of from its configuration: the network with its initial weights, and its mini-batches."""

from __future__ import annotations

import torch

from bnstudy import models, norms
from bnstudy.config.schema import Config, model_options, norm_options
from bnstudy.data import sources
from bnstudy.data.loader import Loader
from bnstudy.store.jobs import Job


def make_loader(job: Job, device: torch.device) -> Loader:
    """The job's batches on its device."""
    data = job.config.data
    return Loader(
        sources.load(job.source),
        batch_size=data.batch_size,
        seed=job.config.seed,
        augment=data.augment,
        normalise=data.normalise,
        num_train=data.num_train,
        num_test=data.num_test,
        balanced=data.balanced,
        input_size=models.input_size(job.config.model["name"]),
        device=device,
    )


def norm_factory(config: Config) -> norms.Factory:
    """The factory of the configured norm."""
    return norms.Factory(config.norm["name"], norm_options(config), config.norm.get("where", "*"))


def image_shape(config: Config, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image as the network gets it, of one of this shape."""
    channels, *sides = shape
    height, width = (max(side, models.input_size(config.model["name"]) or 0) for side in sides)
    return channels, height, width


def build_network(config: Config, shape: tuple[int, int, int], num_classes: int) -> torch.nn.Module:
    """The configured network with its initial weights, on the CPU; `shape` as `image_shape` gives it."""
    return models.build(
        config.model["name"],
        model_options(config),
        norm_factory(config),
        config.init,
        shape,
        num_classes,
        config.seed,
        init_scale=config.init_scale,
    )
