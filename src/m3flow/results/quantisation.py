"""Quantisation of displacements to stored values, and back; defined only here.

Convention
----------
linear: level = round(255 (v + bound) / (2 bound)), saturated to 0..255, for a displacement v in pixels.
Zero lies halfway between levels 127 and 128, so neither represents it exactly. Both are read back as
exactly 0: a still pixel stays still, and motion to the left is treated like motion to the right. Every
other level is read back as level · 2 bound / 255 − bound, within bound / 255 of the original value.

fine: level = 128 + round(127 asinh(v / k) / asinh(bound / k)) with k = bound / 10, saturated to 1..255; level
128 is exactly 0. Levels are closer together for slow motion and further apart for fast motion: 0.047 px
at zero, 0.48 px at a bound of 20 px.

dither: without it, a constant motion has the same rounding error in every frame, which accumulates along a trajectory.
With it, linear levels are rounded after adding −3/8, 1/8, −1/8 and 3/8 of a level in turn, the same everywhere
in a frame: over four frames the errors nearly cancel. Levels are read back as before, and a still pixel is 127 or 128
as before. (Nonsubtractive dither: Lipshitz, Wannamaker and Vanderkooy, Quantization and Dither: A Theoretical
Survey, J. Audio Eng. Soc. 40, 1992.)

float16, float32: the displacement itself, in pixels; nothing saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m3flow.flow.base import is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array
    from m3flow.trajectories.confidence import Evidence
    from m3flow.trajectories.tracking import Windows


# Every fourth pixel in both directions is enough for a video's statistics, at a sixteenth of the work.
STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The quantised motion of some consecutive frame pairs of a video, and arrays derived from it.

    Arrays are NumPy, or tensors on the computing device; arrays that the outputs do not need are None.

    Attributes
    ----------
    flow: float32 [n, 2, H, W] in pixels, before it is quantised; then None.
    levels: uint8 [n, 2, H, W].
    sample: uint8 [n, 2, h, w], the levels at every `STRIDE`-th row and column, if `levels` is None.
    homographies: float32 [n, 3, 3], the camera motion removed from the levels; None without compensation.
    accepted: bool [n], whether the homography was accepted.
    confidence: float32 [n], of the homography; bars: int32 [n, 4], rows and columns without a picture.
    cut: bool [n], whether the pair crosses a cut; None without cut detection.
    schemes: n names of the compensation schemes used, see `m3flow.camera.compensation.Motion`.
    evidence: evidence for the confidence of trajectories through these pairs; None without confidence.
    windows: the trajectories that end in these pairs, if already tracked.
    """

    flow: Array | None = None
    levels: Array | None = None
    sample: Array | None = None
    homographies: Array | None = None
    accepted: Array | None = None
    confidence: Array | None = None
    bars: Array | None = None
    cut: Array | None = None
    schemes: list[str] = field(default_factory=list)
    evidence: Evidence | None = None
    windows: Windows | None = None

    def __len__(self) -> int:
        array = next(array for array in (self.levels, self.sample, self.flow) if array is not None)
        return len(array)

    def without_picture(self) -> Array | None:
        """The bars, int32 [n, 4], and all rows of pairs that cross a cut; None if neither was searched for."""
        if self.levels is None or (self.bars is None and self.cut is None):
            return None
        hidden = np.zeros((len(self), 4), np.int32) if self.bars is None else np.array(self.bars)
        if self.cut is not None:
            hidden[np.asarray(self.cut)] = (self.levels.shape[2], 0, 0, 0)
        return hidden

    def __getitem__(self, pairs: slice) -> Piece:
        """Some of the pairs; only before other arrays are derived."""
        return replace(
            self.map(lambda array: array[pairs]),
            schemes=self.schemes[pairs],
            evidence=None if self.evidence is None else self.evidence[pairs],
        )

    def map(self, function: Callable[[Array], Array]) -> Piece:
        """Apply `function` to every array but the evidence, which stays on its device."""

        def of(array: Array | None) -> Array | None:
            return None if array is None else function(array)

        return Piece(
            flow=of(self.flow),
            levels=of(self.levels),
            sample=of(self.sample),
            homographies=of(self.homographies),
            accepted=of(self.accepted),
            confidence=of(self.confidence),
            bars=of(self.bars),
            cut=of(self.cut),
            schemes=self.schemes,
            evidence=self.evidence,
            windows=None if self.windows is None else self.windows.map(function),
        )


def sampled(levels: Array) -> Array:
    """The levels at every `STRIDE`-th row and column: [n, 2, H, W] -> [n, 2, h, w]."""
    return levels[:, :, ::STRIDE, ::STRIDE]


Scale = Literal["linear", "fine", "float16", "float32"]

DEFAULT_BOUND = 20.0
# The displacement, relative to the bound, at which the fine levels turn from even to growing spacing.
KNEE = 0.1


@dataclass(frozen=True)
class Quantisation:
    """Mapping from displacements in pixels to stored values.

    Attributes
    ----------
    bound: the largest displacement represented by a level, in pixels; without effect for floats.
    scale: "linear" or "fine" levels (uint8), or "float16" or "float32" pixels; see the module's convention.
    dither: whether linear levels are dithered.
    step: of the flow; the frames t, t + step, t + 2 step, … of a trajectory differ in their dither.
    """

    bound: float = DEFAULT_BOUND
    scale: Scale = "linear"
    dither: bool = False
    step: int = 1

    @property
    def table(self) -> np.ndarray | None:
        """float32 [256]: the displacement in pixels of each level; None for floats."""
        return None if self.scale.startswith("float") else table(self.bound, self.scale)

    def stored(self, flow: Array, start: int = 0) -> Array:
        """float32 [T, ...] in pixels -> the values to store, as the kind (NumPy, torch) and on the device of `flow`.

        `start` is the number of its first frame in the video.
        """
        if self.scale == "linear":
            dither = self._dither(flow, start) if self.dither else None
            return quantise(flow, self.bound, dither)
        if self.scale == "fine":
            return _quantise_finely(flow, self.bound)
        if is_tensor(flow):
            import torch

            return torch.as_tensor(flow, dtype=getattr(torch, self.scale))
        return np.asarray(flow).astype(self.scale)

    def _dither(self, flow: Array, start: int) -> Array:
        """float32 [T]: what is added to the levels of each frame before rounding."""
        numbers: Any
        if is_tensor(flow):
            import torch

            device: Any = flow.device
            numbers = torch.arange(start, start + len(flow), device=device)
        else:
            numbers = np.arange(start, start + len(flow))
        turn = (numbers // self.step) % 4
        # 0, 1, 2, 3 -> 0, 2, 1, 3 quarters: neighbours are far apart.
        quarters = (turn % 2) * 2 + turn // 2
        dither = quarters * 0.25 - 0.375
        return dither if is_tensor(flow) else dither.astype(np.float32)

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Stored values [...] -> float32 [...] in pixels."""
        levels = self.table
        return values.astype(np.float32) if levels is None else levels[values]


def quantise(flow: Array, bound: float, dither: Array | None = None) -> Array:
    """float32 [T, ...] in pixels -> uint8 [T, ...] linear levels; of the same kind as `flow`, on its device.

    dither: float32 [T], added to the levels of each frame before rounding.
    """
    scale = 255 / (2 * bound)
    if is_tensor(flow):
        import torch

        offset: Any = 127.5 if dither is None else (dither + 127.5).reshape(-1, *[1] * (flow.ndim - 1))
        scaled: Any = flow * scale + offset
        return scaled.round_().clamp_(0, 255).to(torch.uint8)
    levels = np.empty(flow.shape, np.uint8)
    # Frame by frame in one buffer, so that intermediate values stay in the cache.
    values = np.empty(flow.shape[1:], np.float32)
    offsets = np.float32(127.5) + (np.zeros(len(flow), np.float32) if dither is None else np.asarray(dither))
    for frame, offset, target in zip(np.asarray(flow), offsets, levels, strict=True):
        np.multiply(frame, np.float32(scale), out=values)
        values += offset
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
        target[...] = values
    return levels


def _quantise_finely(flow: Array, bound: float) -> Array:
    knee = KNEE * bound
    scale = 127 / float(np.arcsinh(bound / knee))
    if is_tensor(flow):
        import torch

        scaled: Any = torch.asinh(torch.as_tensor(flow) / knee) * scale + 128
        return scaled.round_().clamp_(1, 255).to(torch.uint8)
    values = np.arcsinh(np.asarray(flow) / np.float32(knee)) * np.float32(scale)
    return np.clip(np.rint(values) + 128, 1, 255).astype(np.uint8)


def table(bound: float, scale: Scale = "linear") -> np.ndarray:
    """float32 [256]: the displacement in pixels of each level."""
    levels = np.arange(256)
    if scale == "fine":
        knee = KNEE * bound
        values = knee * np.sinh((levels - 128) / 127 * np.arcsinh(bound / knee))
        values = values.clip(-bound, bound).astype(np.float32)
    else:
        values = (levels * (2 * bound / 255) - bound).astype(np.float32)
        values[127:129] = 0
    return values


def restore(levels: np.ndarray, bound: float) -> np.ndarray:
    """uint8 [...] linear levels -> float32 [...] in pixels."""
    return table(bound)[levels]
