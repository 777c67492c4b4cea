"""The one place that turns `norm: batch / none / ...` into layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from bnstudy.config import plugins


class Factory:
    """Makes a network's norm layers: `norm(num_features, ndim, site)`.

    ndim is the number of spatial dimensions (2 for images, 0 for features), `site` the layer's path in the network.
    Where no pattern of `where` (comma-separated, shell style: `stage1.*,head.norm`) matches the site there is no norm;
    `none` has no pattern. Raises ValueError for an unknown name of a norm.
    """

    def __init__(self, name: str, options: Mapping[str, Any], where: str = "*") -> None:
        self._name = name
        self._build = plugins.load("norms", name).build
        self._options = dict(options)
        self._where = where
        self._patterns = [] if where == "none" else [pattern.strip() for pattern in where.split(",")]
        self._sites: list[str] = []
        self._used: set[str] = set()
        self.layers: list[nn.Module] = []  # the norms that it has made

    def __call__(self, num_features: int, ndim: int, site: str) -> nn.Module:
        return self._at(site, num_features, ndim, {p for p in self._patterns if fnmatchcase(site, p)})

    def extra(self, num_features: int, ndim: int, site: str) -> nn.Module:
        """The norm of a place where the published network has none: only `where` naming it in full puts one there."""
        return self._at(site, num_features, ndim, {p for p in self._patterns if p == site})

    def check(self) -> None:
        """To be called once the network is built: raises ValueError for a pattern that matched no place in it."""
        sites, used = self._sites, self._used
        self._sites, self._used = [], set()
        if not sites and self._name == "none":
            return
        if self._patterns and not sites:
            raise ValueError(
                f"norm.name = {self._name!r}: the network has no place for a norm: call norm(num_features, ndim, site) "
                "where its file builds layers, or give norm=none"
            )
        for pattern in self._patterns:
            if pattern not in used:
                raise ValueError(f"norm.where = {self._where!r}: {pattern!r} matches none of {', '.join(sites)}")

    def _at(self, site: str, num_features: int, ndim: int, patterns: set[str]) -> nn.Module:
        """The norm at a place that one of the patterns names, else the identity."""
        self._sites.append(site)
        self._used |= patterns
        if not patterns:
            return nn.Identity()
        module: nn.Module = self._build(num_features, ndim, **copy.deepcopy(self._options))
        if not isinstance(module, nn.Module):
            raise ValueError(f"norms/{self._name}.py: build returned {module!r}; return a torch.nn.Module")
        self.layers.append(module)
        return module
