"""Base class of the torch estimators: moves arrays to the estimator's device and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m3flow.flow import graphs
from m3flow.flow.base import Estimator, is_tensor
from m3flow.flow.parameters import Parameters

if TYPE_CHECKING:
    from m3flow.flow.base import Array


class TorchEstimator(Estimator):
    """Computes batches of pairs in float32 on any torch device.

    Subclasses use elementwise operations, gathers and the filters of `m3flow.flow.image_ops` only. On a GPU,
    convolutions and matrix products run in TF32 where torch's global settings allow it, which costs three
    digits; without them those settings need not be changed.

    Attributes
    ----------
    replayable: whether `flow` can be a CUDA graph (`m3flow.flow.graphs`): it waits for nothing, and its launches
        depend on the sizes of the frames alone.
    """

    backend = "torch"
    replayable = False

    def __init__(self, parameters: Parameters, *, device: str) -> None:
        self.parameters = parameters
        self.device = device

    @torch.no_grad()
    def _pairs(self, previous: Array, current: Array) -> Array:
        return self.give_back(self.run(self.flow, self.bring(previous), self.bring(current)), like=previous)

    @abstractmethod
    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        """uint8 [B, H, W] twice, on the estimator's device -> float32 [B, 2, H, W] there."""

    def run(self, function: Callable[..., Tensor], *inputs: Tensor, **settings: Hashable) -> Tensor:
        """function(*inputs, **settings), a method that computes a batch: as a CUDA graph where that is faster."""
        return (
            function(*inputs, **settings)
            if self._graphs is None
            else self._graphs(function, *inputs, **settings)
        )

    @cached_property
    def _graphs(self) -> graphs.Graphs | None:
        return graphs.Graphs() if self.replayable and graphs.wanted(self.device) else None

    @property
    def kept_bytes_per_pixel(self) -> int:
        return 0 if self._graphs is None else graphs.KEPT * self.bytes_per_pixel

    def bring(self, array: Array) -> Tensor:
        """`array` (NumPy or a tensor) as a tensor on the estimator's device, dtype kept."""
        tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
        return tensor.to(self.device)

    def give_back(self, result: Tensor, *, like: Array) -> Array:
        """`result` as a NumPy array if `like` is one, else unchanged on the estimator's device."""
        return result if is_tensor(like) else result.cpu().numpy()
