"""What every optical flow estimator offers, whichever library computes it."""

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
    A flow `v` belongs to the pixels of the *previous* frame: the point at column x, row y of `previous`
    is at (x + v[0, y, x], y + v[1, y, x]) in `current`. Channel 0 is x (to the right), channel 1 is y
    (downwards), in pixels.

    Attributes
    ----------
    name: the estimator's name in the registry.
    backend: "opencv" or "torch".
    device: where it computes, as torch writes it ("cpu", "cuda:0").
    parameters: every parameter, defaults included.
    """

    name: str
    backend: str
    device: str
    parameters: Parameters

    def __call__(self, previous: Array, current: Array) -> Array:
        """The flow of each pair: uint8 [B, H, W] twice -> float32 [B, 2, H, W] in pixels.

        NumPy arrays and torch tensors are both taken; the result is of the kind of `previous`
        (a tensor comes back on the estimator's device).
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
        """`__call__` after its checks."""

    def sequence(self, frames: Array, step: int = 1) -> Array:
        """The flow from frame t to frame t + step for all t: uint8 [F, H, W] -> float32 [F - step, 2, H, W].

        The same as calling the estimator on the pairs; an estimator that computes something for each
        frame overrides it to do so once a frame.
        """
        return self(frames[:-step], frames[step:])

    def describe(self) -> dict[str, Any]:
        """What identifies the result: the name and the parameters, as plain JSON values."""
        return {"estimator": self.name, **self.parameters.as_dict()}

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.parameters.as_dict().items())
        return f"{type(self).__name__}({settings}, backend={self.backend!r}, device={self.device!r})"


def is_tensor(array: Any) -> bool:
    """Whether `array` is a torch tensor, found out without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def check_frames(frames: Array) -> None:
    """Raises ValueError unless `frames` are uint8 [F, H, W]."""
    if frames.ndim != 3 or str(frames.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"frames must be uint8 [F, H, W], not {frames.dtype} {list(frames.shape)}")
