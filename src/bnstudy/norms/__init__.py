"""The one place that turns `norm: batch / none / ...` into layers."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from bnstudy import plugins


class Factory:
    """Makes a network's norm layers: `norm(num_features, ndim, site)`.

    ndim is the number of spatial dimensions (2 for images, 0 for features), `site` the layer's path in the network.
    Where no pattern of `where` (comma-separated, shell style: `stage1.*,head.norm`) matches the site there is no norm.
    """

    def __init__(self, name: str, options: Mapping[str, Any], where: str = "*") -> None:
        self._build = plugins.load("norms", name).build
        self._options = dict(options)
        self._where = where
        self._patterns = [pattern.strip() for pattern in where.split(",")]
        self._sites: list[str] = []

    def __call__(self, num_features: int, ndim: int, site: str) -> nn.Module:
        self._sites.append(site)
        if any(fnmatchcase(site, pattern) for pattern in self._patterns):
            module: nn.Module = self._build(num_features, ndim, **self._options)
            return module
        return nn.Identity()

    def check(self) -> None:
        """Once the network is built: raises ValueError for a pattern that named no place in it."""
        sites, self._sites = self._sites, []
        for pattern in self._patterns:
            if not any(fnmatchcase(site, pattern) for site in sites):
                raise ValueError(f"norm.where = {self._where!r}: {pattern!r} matches none of {', '.join(sites)}")


def factory(name: str, options: Mapping[str, Any], where: str = "*") -> Factory:
    """The factory of the configured norm. Raises ValueError for an unknown name."""
    return Factory(name, options, where)
