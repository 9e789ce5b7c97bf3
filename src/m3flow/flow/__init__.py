"""Optical flow estimators by name: `estimator("farneback")`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from m3flow.errors import UsageError
from m3flow.flow.base import Estimator
from m3flow.flow.device import choose
from m3flow.flow.parameters import (
    BroxParameters,
    DISParameters,
    FarnebackParameters,
    RAFTParameters,
    TVL1Parameters,
)
from m3flow.flow.registry import Entry, Registry

__all__ = [
    "ESTIMATORS",
    "BroxParameters",
    "DISParameters",
    "Entry",
    "Estimator",
    "FarnebackParameters",
    "RAFTParameters",
    "TVL1Parameters",
    "estimator",
]


ESTIMATORS = Registry(
    {
        "farneback": Entry(
            FarnebackParameters,
            {"opencv": "m3flow.flow.opencv:Farneback", "torch": "m3flow.flow.farneback:Farneback"},
        ),
        "tvl1": Entry(
            TVL1Parameters,
            {"opencv": "m3flow.flow.opencv:TVL1", "torch": "m3flow.flow.tvl1:TVL1"},
        ),
        "dis": Entry(DISParameters, {"opencv": "m3flow.flow.opencv:DIS", "torch": "m3flow.flow.dis:DIS"}),
        "brox": Entry(BroxParameters, {"torch": "m3flow.flow.brox:Brox"}),
        "raft_large": Entry(
            RAFTParameters, {"torch": "m3flow.flow.raft:RAFTLarge"}, colour=True, largest_batch=32
        ),
        "raft_small": Entry(
            RAFTParameters, {"torch": "m3flow.flow.raft:RAFTSmall"}, colour=True, largest_batch=64
        ),
    }
)


def estimator(name: str, *, backend: str = "auto", device: str = "auto", **parameters: Any) -> Estimator:
    """The estimator `name`, to be called on batches of frame pairs.

    Parameters
    ----------
    name: one of `ESTIMATORS`.
    backend: "torch", "opencv", or "auto": torch if there is a GPU, else OpenCV on the CPU; the only
        backend of an estimator that has one.
    device: "auto", "cpu", "cuda", "cuda:N", or any other torch device.
    parameters: values that replace the estimator's defaults (see `m3flow.flow.parameters`).

    Raises
    ------
    UsageError: unknown name, backend, device or parameter, or a GPU that torch does not see.
    """
    if name not in ESTIMATORS:
        raise UsageError(f"unknown estimator {name!r}; choose from {', '.join(ESTIMATORS)}")
    entry = ESTIMATORS[name]
    values = entry.parameters.of(name, parameters)
    backend, device = choose(name, tuple(entry.backends), backend, device)
    implementation = implementation_of(name, backend)
    built: Estimator = (
        implementation(values) if backend == "opencv" else implementation(values, device=device)
    )
    built.colour, built.largest_batch = entry.colour, entry.largest_batch
    return built


def implementation_of(name: str, backend: str) -> Any:
    """The class of an estimator on a backend that it has."""
    module, _, class_name = ESTIMATORS[name].backends[backend].partition(":")
    return getattr(import_module(module), class_name)
