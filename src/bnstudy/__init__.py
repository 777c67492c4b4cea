"""bnstudy: what batch normalization does, measured (Bjorck et al., "Understanding Batch Normalization", 2018).

`__all__` lists the interface for use from Python (docs/python.md). Each name is imported when it is first used, so that
`import bnstudy` itself loads nothing: no torch, no pandas, no Hydra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnstudy.api.looking import layers, probe
    from bnstudy.api.running import Run, configure, fit, run
    from bnstudy.api.tables import claims, runs, sweeps, table
    from bnstudy.config.project import use_components
    from bnstudy.config.schema import Config
    from bnstudy.models.layers import Layer

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Layer",
    "Run",
    "__version__",
    "claims",
    "configure",
    "fit",
    "layers",
    "probe",
    "run",
    "runs",
    "sweeps",
    "table",
    "use_components",
]
_HOMES = {
    "api.looking": ("layers", "probe"),
    "api.running": ("Run", "configure", "fit", "run"),
    "api.tables": ("claims", "runs", "sweeps", "table"),
    "config.project": ("use_components",),
    "config.schema": ("Config",),
    "models.layers": ("Layer",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'bnstudy' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f"bnstudy.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
