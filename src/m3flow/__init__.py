"""Optical flow without the camera's motion, and dense motion trajectories, for whole video data sets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from m3flow.version import __version__

if TYPE_CHECKING:
    from m3flow.results.flowfile import load_flow
    from m3flow.results.trajectoryfile import Trajectories, load_trajectories

__all__ = ["Trajectories", "__version__", "load_flow", "load_trajectories"]

_LAZY = {
    "load_flow": "m3flow.results.flowfile",
    "load_trajectories": "m3flow.results.trajectoryfile",
    "Trajectories": "m3flow.results.trajectoryfile",
}
_SUBMODULES = ("flow", "trajectories", "data")


def __getattr__(name: str) -> Any:
    # Lazily, so that `import m3flow` costs nothing that the caller does not use.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return import_module(f"m3flow.{name}")
    raise AttributeError(f"module 'm3flow' has no attribute {name!r}")
