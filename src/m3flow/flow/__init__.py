"""Optical flow estimators by name: `estimator("farneback")`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from m3flow.errors import UsageError
from m3flow.flow.base import Estimator
from m3flow.flow.device import choose
from m3flow.flow.parameters import (
    BroxParameters,
    DISParameters,
    FarnebackParameters,
    Parameters,
    TVL1Parameters,
)

__all__ = [
    "ESTIMATORS",
    "BroxParameters",
    "DISParameters",
    "Estimator",
    "FarnebackParameters",
    "TVL1Parameters",
    "estimator",
]


@dataclass(frozen=True)
class Entry:
    """The parameters of an estimator and its class on each backend, as "module:Class"."""

    parameters: type[Parameters]
    backends: dict[str, str]


ESTIMATORS: dict[str, Entry] = {
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
}


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
    module, _, class_name = entry.backends[backend].partition(":")
    implementation = getattr(import_module(module), class_name)
    return implementation(values) if backend == "opencv" else implementation(values, device=device)
