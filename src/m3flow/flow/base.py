"""The interface of every optical flow estimator, on any backend."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.flow.parameters import Parameters

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor


class Estimator(ABC):
    """Dense optical flow between grey frames.

    Convention
    ----------
    A flow `v` is given at the pixels of the *previous* frame: the point at column x, row y of `previous`
    is at (x + v[0, y, x], y + v[1, y, x]) in `current`. Channel 0 is x (to the right), channel 1 is y
    (downwards), in pixels.

    Attributes
    ----------
    name: the estimator's name in the registry.
    backend: "opencv" or "torch".
    device: the device it computes on, in torch's notation ("cpu", "cuda:0").
    parameters: every parameter, defaults included.
    bytes_per_pixel: peak memory of a batch, frames and flow included, per pixel of each pair.
    """

    name: str
    backend: str
    device: str
    parameters: Parameters
    bytes_per_pixel: int

    def __call__(self, previous: Array, current: Array) -> Array:
        """The flow of each pair: uint8 [B, H, W] twice -> float32 [B, 2, H, W] in pixels.

        Takes NumPy arrays or torch tensors and returns the kind of `previous`; a returned tensor is on
        the estimator's device. Raises ValueError for other shapes or dtypes.
        """
        if previous.shape != current.shape or previous.ndim != 3:
            raise ValueError(
                "previous and current must both be [B, H, W]; "
                f"got {tuple(previous.shape)} and {tuple(current.shape)}"
            )
        check_frames(previous)
        check_frames(current)
        return self._pairs(previous, current)

    @abstractmethod
    def _pairs(self, previous: Array, current: Array) -> Array:
        """`__call__` without its checks."""

    def sequence(self, frames: Array, step: int = 1) -> Array:
        """The flow from frame t to frame t + step for all t: uint8 [F, H, W] -> float32 [F - step, 2, H, W].

        Equal to calling the estimator on the pairs. Estimators that compute something for each frame
        override it to do so once per frame instead of once per pair.
        """
        return self(frames[:-step], frames[step:])

    def describe(self) -> dict[str, Any]:
        """Name and parameters of the estimator as JSON values; they identify its results."""
        return {"estimator": self.name, **self.parameters.as_dict()}

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.parameters.as_dict().items())
        return f"{type(self).__name__}({settings}, backend={self.backend!r}, device={self.device!r})"


def is_tensor(array: Any) -> bool:
    """Whether `array` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def check_frames(frames: Array) -> None:
    """Raises ValueError unless `frames` are uint8 [F, H, W]."""
    if frames.ndim != 3 or str(frames.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"frames must be uint8 [F, H, W], not {frames.dtype} {list(frames.shape)}")
