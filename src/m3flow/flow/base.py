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
    """Dense optical flow between frames, grey or in colour.

    Convention
    ----------
    A flow `v` is given at the pixels of the *previous* frame: the point at column x, row y of `previous`
    is at (x + v[0, y, x], y + v[1, y, x]) in `current`. Channel 0 is x (to the right), channel 1 is y
    (downwards), in pixels.

    Attributes
    ----------
    name: the estimator's name in the registry.
    backend: "opencv" or "torch".
    device: the computing device, in torch's notation ("cpu", "cuda:0").
    parameters: every parameter, including defaults.
    bytes_per_pixel: peak memory of a batch, frames and flow included, per pixel of each pair.
    colour: whether frames are RGB, [B, H, W, 3] where [B, H, W] is written here; the registry's entry says so.
    largest_batch: maximum number of pairs per batch; 0 for no limit other than memory.
    """

    name: str
    backend: str
    device: str
    parameters: Parameters
    bytes_per_pixel: int
    colour: bool = False
    largest_batch: int = 0

    def __call__(self, previous: Array, current: Array) -> Array:
        """The flow of each pair: uint8 [B, H, W] twice -> float32 [B, 2, H, W] in pixels.

        Takes NumPy arrays or torch tensors and returns the kind of `previous`; a returned tensor is on
        the estimator's device. An estimator of colour frames takes grey ones too. Raises ValueError for other
        shapes or dtypes.
        """
        if previous.shape != current.shape:
            raise ValueError(
                "previous and current must both be [B, H, W]; "
                f"got {tuple(previous.shape)} and {tuple(current.shape)}"
            )
        if self.colour:
            previous, current = in_colour(previous), in_colour(current)
        check_frames(previous, colour=self.colour)
        check_frames(current, colour=self.colour)
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

    @property
    def kept_bytes_per_pixel(self) -> int:
        """Memory that stays occupied between batches, as `bytes_per_pixel`."""
        return 0

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


def check_frames(frames: Array, *, colour: bool = False) -> None:
    """Raises ValueError unless `frames` are uint8 [F, H, W], or [F, H, W, 3] for colour."""
    meant = "[F, H, W, 3]" if colour else "[F, H, W]"
    is_shape = frames.ndim == 4 and frames.shape[3] == 3 if colour else frames.ndim == 3
    if not is_shape or str(frames.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"frames must be uint8 {meant}, not {frames.dtype} {list(frames.shape)}")


def in_colour(frames: Array) -> Array:
    """Grey frames [F, H, W] as RGB [F, H, W, 3]; colour frames as they are."""
    if frames.ndim != 3:
        return frames
    if is_tensor(frames):
        return frames[..., None].expand(*frames.shape, 3)  # type: ignore[union-attr]
    return np.repeat(np.asarray(frames)[..., None], 3, axis=-1)


def in_grey(frames: Any) -> Any:
    """RGB frames [F, H, W, 3] as grey [F, H, W], bit-identical to OpenCV's conversion; grey frames as they are.

    NumPy or a tensor, as given.
    """
    if frames.ndim != 4:
        return frames
    if is_tensor(frames):
        import torch

        red, green, blue = frames.to(torch.int32).unbind(-1)
        return ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).to(torch.uint8)
    red, green, blue = np.moveaxis(frames.astype(np.int32), -1, 0)
    return ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).astype(np.uint8)
