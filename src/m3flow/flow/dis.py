"""Dense inverse search on the torch backend, batched over pairs and over patches.

Kroeger, Timofte, Dai and Van Gool, "Fast optical flow using dense inverse search", ECCV 2016. On each level
of a pyramid every patch of the first frame is searched for in the second, starting from the coarser level's
displacement; a pixel's flow is the mean of its patches', weighted by how well they match; a variational refinement
smooths the result.

| | paper | OpenCV | here |
|---|---|---|---|
| start of a patch | coarser level | that or a neighbour, whichever matches better | as OpenCV |
| which neighbours | none | two, just searched: row by row, then backwards | four, in the last round |
| rounds over all patches | one | two, patch after patch | four, all patches at once |
| descent steps | at most a preset number | half of the preset's per round | a quarter per round |
| size of a step | Gauss-Newton | an eighth (Sobel's filter is not divided by 8) | as OpenCV |
| end of a descent | small step or residual | when the residual no longer falls | as OpenCV |
| levels | grey values | rounded to 8 bits | as OpenCV |
| refinement | variational | `VariationalRefinement` | the same, equal to rounding |

In OpenCV a good match spreads along a whole row in one sweep; here it spreads by one patch per round, and the
pyramid does the rest. The error against ground truth is the same within a few per cent, and every operation
works on all patches of all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from m3flow.errors import BadInput
from m3flow.flow.dis_refinement import refine
from m3flow.flow.image_ops import correlate, pad, pixel_grid, resize, resize_area, sample
from m3flow.flow.parameters import DISParameters
from m3flow.flow.torch_base import TorchEstimator

PATCH = 8
ROUNDS = 4


@dataclass(frozen=True)
class Preset:
    """OpenCV's presets.

    Attributes
    ----------
    finest: the finest level that is computed; level n is 1 / 2ⁿ of the full size.
    stride: the distance of neighbouring patches, in pixels of the level.
    steps: descent steps of a patch on each level, all rounds together.
    refinements: fixed-point iterations of the variational refinement on each level.
    """

    finest: int
    stride: int
    steps: int
    refinements: int


PRESETS = {
    "ultrafast": Preset(finest=2, stride=4, steps=12, refinements=0),
    "fast": Preset(finest=2, stride=4, steps=16, refinements=5),
    "medium": Preset(finest=1, stride=3, steps=25, refinements=5),
}


class DIS(TorchEstimator):
    """As accurate as `cv2.DISOpticalFlow` with the same preset; see the module for the differences."""

    name = "dis"
    bytes_per_pixel = 60
    parameters: DISParameters

    def __init__(self, parameters: DISParameters, *, device: str) -> None:
        super().__init__(parameters, device=device)
        self._preset = PRESETS[parameters.preset]

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        preset = self._preset
        height, width = previous.shape[-2:]
        finest, coarsest = _scales(height, width, preset.finest)
        frames = torch.stack((previous, current)).float()
        levels = [_shrink(frames, height >> finest, width >> finest)]
        for _ in range(finest, coarsest):
            levels.append(_shrink(levels[-1], levels[-1].shape[-2] // 2, levels[-1].shape[-1] // 2))
        flow = torch.zeros_like(levels[-1][0])[:, None].repeat(1, 2, 1, 1)
        for level, (one, two) in reversed(list(enumerate(levels))):
            sparse = _search(_Patches(one, two, preset.stride), flow, preset.steps // ROUNDS)
            flow = _densify(one, two, sparse, preset.stride)
            if preset.refinements:
                flow = refine(one, two, flow, preset.refinements)
            if level > 0:
                flow = resize(flow, *levels[level - 1].shape[-2:]) * 2
        return resize(flow, height, width) * 2**finest


def _scales(height: int, width: int, finest: int) -> tuple[int, int]:
    """The finest and the coarsest level for frames of this size; OpenCV's rule where OpenCV has one."""
    if min(height, width) < PATCH:
        raise BadInput(f"frames of {width}x{height} are too small for dis: at least {PATCH}x{PATCH}")
    # Down to where a quarter of the longer side is one patch, but a patch must fit into the shorter side.
    deepest = int(math.log2(min(height, width) // PATCH))
    coarsest = min(int(math.log2(max(height, width) / (4 * PATCH)) + 0.5), deepest)
    if coarsest < finest:
        # Small frames. (OpenCV considers only the width, and crashes on wide, low frames.)
        coarsest = min(max(int(math.log2(width / (2.5 * PATCH))), 0), deepest)
        finest = max(coarsest - 2, 0)
    return finest, coarsest


def _shrink(frames: Tensor, height: int, width: int) -> Tensor:
    """Area averages rounded to whole grey values, which OpenCV keeps in 8 bits: halves up when each is of
    2 x 2 pixels, halves to even otherwise."""
    exact = frames.shape[-2:] == (2 * height, 2 * width)
    shrunk = resize_area(frames, height, width)
    return (shrunk + 0.5).floor_() if exact else shrunk.round_()


class _Patches:
    """The patches of the first frames on a regular grid, and the second frames that they are searched in.

    Shapes: R x C patches of N = 64 pixels for each of B pairs.

    Attributes
    ----------
    x, y: the patches' left columns [C] and top rows [R, 1].
    grey: [B, R, C, N].
    gradient: [B, 2, R, C, N] by Sobel's filter (8 times the derivative), less its mean over the patch.
    inverse: [3, B, R, C], the elements 11, 12 and 22 of the inverse structure tensor.
    windows: [B, ..., ..., 9, 9], a view: the 9 x 9 pixels of the second frame from any pixel.
    """

    def __init__(self, one: Tensor, two: Tensor, stride: int) -> None:
        self.height, self.width = one.shape[-2:]
        smooth, difference = [1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]
        gradient = torch.stack(
            (
                correlate(correlate(one, smooth, -2, "reflect"), difference, -1, "reflect"),
                correlate(correlate(one, smooth, -1, "reflect"), difference, -2, "reflect"),
            ),
            dim=1,
        )
        self.grey = _cut(one, stride)
        gradient = _cut(gradient, stride)
        # As in OpenCV, the structure tensor is that of the gradient before its mean is taken off.
        xx, yy = gradient.square().sum(-1).unbind(1)
        xy = (gradient[:, 0] * gradient[:, 1]).sum(-1)
        determinant = xx * yy - xy * xy
        determinant = torch.where(determinant.abs() < 1e-3, 1e-3, determinant)
        self.inverse = torch.stack((yy, -xy, xx)) / determinant
        self.gradient = gradient - gradient.mean(-1, keepdim=True)
        rows, columns = self.grey.shape[1:3]
        self.x = torch.arange(columns, device=one.device) * stride
        self.y = torch.arange(rows, device=one.device)[:, None] * stride
        self.windows = pad(pad(two, PATCH, -2), PATCH, -1).unfold(1, PATCH + 1, 1).unfold(2, PATCH + 1, 1)
        self._batch = torch.arange(len(one), device=one.device)[:, None, None]

    def difference(self, flow: Tensor) -> Tensor:
        """The difference between the second frame at the patches moved by `flow` [B, 2, R, C] and the first:
        [B, R, C, N]."""
        x = (flow[:, 0] + self.x).clamp(1 - PATCH, self.width - 1) + PATCH
        y = (flow[:, 1] + self.y).clamp(1 - PATCH, self.height - 1) + PATCH
        left, top = x.floor(), y.floor()
        window = self.windows[self._batch, top.long(), left.long()]
        window = torch.lerp(window[..., :-1], window[..., 1:], (x - left)[..., None, None])
        window = torch.lerp(window[..., :-1, :], window[..., 1:, :], (y - top)[..., None, None])
        return window.flatten(3).sub_(self.grey)


def _cut(images: Tensor, stride: int) -> Tensor:
    """[..., H, W] -> [..., R, C, N]: the pixels of every patch."""
    return images.unfold(-2, PATCH, stride).unfold(-2, PATCH, stride).flatten(-2)


def _residual(difference: Tensor) -> Tensor:
    """The squared difference of the patches after subtracting each one's mean: [..., N] -> [...]."""
    return difference.square().sum(-1) - difference.sum(-1).square() / difference.shape[-1]


def _search(patches: _Patches, flow: Tensor, steps: int) -> Tensor:
    """The patches' displacements [B, 2, R, C], from the dense flow [B, 2, H, W] of the coarser level."""
    found = flow[:, :, patches.y[:, 0] + PATCH // 2][..., patches.x + PATCH // 2]
    for _ in range(ROUNDS):
        found = _descend(patches, _best_of_neighbours(patches, found), steps)
    return found


def _best_of_neighbours(patches: _Patches, found: Tensor) -> Tensor:
    """For each patch, which of its own and its four neighbours' displacements matches best."""
    framed = torch.nn.functional.pad(found, (1, 1, 1, 1), mode="replicate")
    best, least = found, _residual(patches.difference(found))
    for candidate in (
        framed[..., 1:-1, :-2],
        framed[..., :-2, 1:-1],
        framed[..., 1:-1, 2:],
        framed[..., 2:, 1:-1],
    ):
        residual = _residual(patches.difference(candidate))
        better = residual < least
        best = torch.where(better[:, None], candidate, best)
        least = torch.where(better, residual, least)
    return best


def _descend(patches: _Patches, start: Tensor, steps: int) -> Tensor:
    """The displacements after some steps of inverse compositional gradient descent."""
    found = start
    last = torch.full_like(start[:, 0], torch.inf)
    going = torch.ones_like(last)
    for _ in range(steps):
        difference = patches.difference(found)
        slope_x, slope_y = (patches.gradient * difference[:, None]).sum(-1).unbind(1)
        i11, i12, i22 = patches.inverse * going
        found = found - torch.stack((i11 * slope_x + i12 * slope_y, i12 * slope_x + i22 * slope_y), dim=1)
        residual = _residual(difference)
        going = going * (residual < last)
        last = residual
    # A patch that moved further than its own size has diverged.
    near = (found - start).square().sum(1, keepdim=True) <= PATCH**2
    return torch.where(near, found, start)


def _densify(one: Tensor, two: Tensor, sparse: Tensor, stride: int) -> Tensor:
    """The dense flow [B, 2, H, W]: at each pixel the mean over the patches that cover it, weighted by
    1 / max(1, grey value difference along the patch's displacement)."""
    height, width = one.shape[-2:]
    x, y = pixel_grid(height, width, one.device)
    rows = _covering(height, sparse.shape[-2], stride, one.device)
    columns = _covering(width, sparse.shape[-1], stride, one.device)
    flow = torch.zeros_like(one)[:, None].repeat(1, 2, 1, 1)
    total = torch.zeros_like(one)
    for row, covers_row in rows:
        for column, covers_column in columns:
            candidate = sparse[:, :, row][..., column]
            moved = sample(two[:, None], candidate[:, 0] + x, candidate[:, 1] + y)[:, 0]
            weight = (covers_row[:, None] & covers_column) / (moved - one).abs().clamp_(min=1)
            flow.addcmul_(weight[:, None], candidate)
            total += weight
    return flow / total[:, None]


def _covering(length: int, count: int, stride: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Along one side: the first, second … last patch that covers each pixel, and whether there is one.

    Pixels beyond the last patch belong to that patch.
    """
    place = torch.arange(length, device=device)
    last = (place // stride).clamp(max=count - 1)
    first = ((place - PATCH + stride) // stride).clamp(0, count - 1)
    return [((last - back).clamp(min=0), last - back >= first) for back in range(-(-PATCH // stride))]
