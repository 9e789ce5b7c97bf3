"""Dense inverse search on the torch backend, batched over pairs, with OpenCV's results.

Kroeger, Timofte, Dai and Van Gool, "Fast optical flow using dense inverse search", ECCV 2016. On each level
of a pyramid every patch of the first frame is searched for in the second, starting from the coarser level's
displacement; a pixel's flow is the mean of its patches', weighted by how well they match; a variational refinement
smooths the result. Where OpenCV differs from the paper, this follows `cv2.DISOpticalFlow`; the results differ by
rounding.

| | paper | OpenCV, and here |
|---|---|---|
| start of a patch | coarser level | that or the result of a neighbour, whichever matches better |
| which neighbours | none | two, just searched: row by row, then backwards; none in another stripe of rows |
| sweeps over all patches | one | two |
| descent steps | at most a preset number | half of the preset's per sweep |
| size of a step | Gauss-Newton | an eighth (Sobel's filter is not divided by 8) |
| end of a descent | small step or residual | when the residual no longer falls |
| levels | grey values | rounded to 8 bits |
| refinement | variational | `VariationalRefinement` |

A good match spreads along a whole row in one sweep. That finds large motion: on the coarsest level a patch alone
descends by a few pixels at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m3flow.errors import BadInput
from m3flow.flow import dis_refinement
from m3flow.flow.constants import constants
from m3flow.flow.fused import kernels
from m3flow.flow.image_ops import correlate, pad, pixel_grid, resize, resize_area, sample
from m3flow.flow.parameters import DISParameters
from m3flow.flow.torch_base import TorchEstimator

PATCH = 8
SWEEPS = 2
STRIPES = 8
EPSILON = 0.01  # of the refinement


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
    replayable = True
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
        search, densify, refine = self._operations()
        for level, (one, two) in reversed(list(enumerate(levels))):
            sparse = search(one, two, flow, preset.stride, preset.steps // SWEEPS)
            flow = densify(one, two, sparse, preset.stride)
            if preset.refinements:
                flow = refine(one, two, flow, preset.refinements, EPSILON)
            if level > 0:
                flow = resize(flow, *levels[level - 1].shape[-2:]) * 2
        return resize(flow, height, width) * 2**finest

    def _operations(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]:
        """The search, the dense flow from it, and its refinement: fused where that works."""
        fused = kernels("dis_triton", self.device)
        search, densify = (fused.search, fused.densify) if fused else (eager_search, eager_densify)
        refinement = kernels("dis_refinement_triton", self.device) or dis_refinement
        return search, densify, refinement.refine


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


@dataclass(frozen=True)
class Order:
    """The order in which the patches of a grid are searched, and their neighbours.

    A patch tries the results of its left and upper neighbours, so that a good match spreads along a whole row; then,
    in a second sweep backwards, those of its right and lower ones. Patches on a diagonal do not need each other
    and are searched together. As in OpenCV, matches do not spread between eight stripes of rows.

    Attributes
    ----------
    stride: the distance of neighbouring patches, in pixels.
    grid: the number of rows and columns of patches; N of them.
    patches: int64 [N], the number, row by row, of the first, second … patch in the order of the search.
    places: int64 [N], the place in that order of each patch; the inverse of `patches`.
    diagonals: the places of those searched together, of one step after the other.
    middles: int64 [N], the pixel in the middle of each patch, in order.
    corners, limits: see `_Patches`.
    left, above, right, below: int64 [N], the places of the neighbours; a patch's own where it has none.
    """

    stride: int
    grid: tuple[int, int]
    patches: Tensor
    places: Tensor
    diagonals: list[slice]
    middles: Tensor
    corners: Tensor
    limits: Tensor
    left: Tensor
    above: Tensor
    right: Tensor
    below: Tensor


@constants(maxsize=64)
def make_order(height: int, width: int, stride: int, device: torch.device) -> Order:
    """The order of the patches on a level of this size."""
    rows, columns = 1 + (height - PATCH) // stride, 1 + (width - PATCH) // stride
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    in_stripe = -(-rows // STRIPES)
    diagonal = row % in_stripe + column
    patches = np.argsort(diagonal, kind="stable")
    places = np.argsort(patches)
    ends = np.cumsum(np.bincount(diagonal)).tolist()
    row, column = row[patches], column[patches]

    def neighbour(down: int, right: int) -> np.ndarray:
        to_row, to_column = row + down, column + right
        exists = (to_row // in_stripe == row // in_stripe) & (to_row >= 0) & (to_row < rows)
        exists &= (to_column >= 0) & (to_column < columns)
        return places[np.where(exists, to_row * columns + to_column, patches)]

    arrays = {
        "patches": patches,
        "places": places,
        "middles": (row * stride + PATCH // 2) * width + column * stride + PATCH // 2,
        "corners": np.stack([column, row]).astype(np.float32) * stride + PATCH,
        "limits": np.array([[[1], [1]], [[width - 1 + PATCH], [height - 1 + PATCH]]], np.float32),
        "left": neighbour(0, -1),
        "above": neighbour(-1, 0),
        "right": neighbour(0, 1),
        "below": neighbour(1, 0),
    }
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    diagonals = [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
    return Order(stride=stride, grid=(rows, columns), diagonals=diagonals, **tensors)


def _sobel(frames: Tensor) -> Tensor:
    """8 times the derivatives in x and in y: [B, H, W] -> [B, 2, H, W]."""
    smooth, difference = [1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]
    along_x = correlate(correlate(frames, smooth, -2, "reflect"), difference, -1, "reflect")
    along_y = correlate(correlate(frames, smooth, -1, "reflect"), difference, -2, "reflect")
    return torch.stack((along_x, along_y), dim=1)


class _Patches:
    """The patches of the first frames on a regular grid, and the second frames that they are searched in.

    The N = R x C patches are in the order of `Order`. Shapes: N patches of 64 pixels for each of B pairs.

    Attributes
    ----------
    grey: [B, N, 64].
    gradient: [B, 2, N, 64] by Sobel's filter (8 times the derivative), less its mean over the patch.
    inverse: [B, 2, 2, N], the inverse structure tensors.
    windows: [B, ..., ..., 9, 9], a view: the 9 x 9 pixels of the second frame, extended by PATCH pixels on each
        side, from any pixel.
    corners: float32 [2, N], the x and y of the patches' first pixels in the extended frame.
    limits: float32 [2, 2, 1], the smallest and the largest x and y in it at which a patch still touches the frame.
    """

    def __init__(self, one: Tensor, two: Tensor, order: Order) -> None:
        self.grey = _cut(one, order)
        gradient = _cut(_sobel(one), order)
        # As in OpenCV, the structure tensor is that of the gradient before its mean is taken off.
        xx, yy = gradient.square().sum(-1).unbind(1)
        xy = (gradient[:, 0] * gradient[:, 1]).sum(-1)
        determinant = xx * yy - xy * xy
        determinant = torch.where(determinant.abs() < 1e-3, 1e-3, determinant)
        self.inverse = (torch.stack((yy, -xy, -xy, xx), 1) / determinant[:, None]).unflatten(1, (2, 2))
        self.gradient = gradient - gradient.mean(-1, keepdim=True)
        self.corners, self.limits = order.corners, order.limits
        self.windows = pad(pad(two, PATCH, -2), PATCH, -1).unfold(1, PATCH + 1, 1).unfold(2, PATCH + 1, 1)
        self._batch = torch.arange(len(one), device=one.device)[:, None]

    def difference(self, flow: Tensor, some: slice) -> Tensor:
        """The difference between the second frame at some of the patches, moved by `flow` [B, 2, n], and the
        first: [B, n, 64]."""
        low, high = self.limits
        # Not `clamp`, which keeps what is not a number: it would be an index below.
        place = torch.fmin(torch.fmax(flow + self.corners[:, some], low), high)
        first = place.floor()
        right, down = (place - first)[..., None, None].unbind(1)
        left, top = first.long().unbind(1)
        window = self.windows[self._batch, top, left]
        window = torch.lerp(window[..., :-1], window[..., 1:], right)
        window = torch.lerp(window[..., :-1, :], window[..., 1:, :], down)
        return window.flatten(2).sub_(self.grey[:, some])


def _cut(images: Tensor, order: Order) -> Tensor:
    """[..., H, W] -> [..., N, 64]: the pixels of every patch."""
    patches = images.unfold(-2, PATCH, order.stride).unfold(-2, PATCH, order.stride).flatten(-2)
    return patches.flatten(-3, -2).index_select(-2, order.patches)


def _residual(difference: Tensor) -> Tensor:
    """The squared difference of the patches after subtracting each one's mean: [..., 64] -> [...]."""
    total = difference.sum(-1)
    return torch.addcmul(difference.square().sum(-1), total, total, value=-1 / difference.shape[-1])


def eager_search(one: Tensor, two: Tensor, flow: Tensor, stride: int, steps: int) -> Tensor:
    """The patches' displacements [B, 2, R, C], from the dense flow [B, 2, H, W] of the coarser level.

    one, two: float32 [B, H, W], whole grey values.
    stride: the distance of neighbouring patches; steps: descent steps of a patch in each sweep.
    """
    order = make_order(*one.shape[-2:], stride, one.device)
    patches = _Patches(one, two, order)
    found = flow.flatten(2).index_select(2, order.middles)
    for neighbours, diagonals in (
        ((order.left, order.above), order.diagonals),
        ((order.right, order.below), order.diagonals[::-1]),
    ):
        for some in diagonals:
            found[:, :, some] = _descend(patches, _best(patches, found, neighbours, some), some, steps)
    return found.index_select(2, order.places).unflatten(-1, order.grid)


def _best(patches: _Patches, found: Tensor, neighbours: tuple[Tensor, ...], some: slice) -> Tensor:
    """For some patches, which of their own and their neighbours' displacements matches best: [B, 2, n]."""
    best = found[:, :, some]
    least = _residual(patches.difference(best, some))
    for neighbour in neighbours:
        candidate = found.index_select(2, neighbour[some])
        residual = _residual(patches.difference(candidate, some))
        better = residual < least
        best = torch.where(better[:, None], candidate, best)
        least = torch.where(better, residual, least)
    return best


def _descend(patches: _Patches, start: Tensor, some: slice, steps: int) -> Tensor:
    """The displacements [B, 2, n] after some steps of inverse compositional gradient descent."""
    found = start
    last = torch.full_like(start[:, 0], torch.inf)
    going = torch.ones_like(last)
    gradient, inverse = patches.gradient[:, :, some], patches.inverse[..., some]
    for _ in range(steps):
        difference = patches.difference(found, some)
        slope = (gradient * difference[:, None]).sum(-1)
        found = torch.addcmul(found, (inverse * slope[:, None]).sum(2), going[:, None], value=-1)
        residual = _residual(difference)
        going = going * (residual < last)
        last = residual
    # A patch that moved further than its own size has diverged.
    near = (found - start).square().sum(1, keepdim=True) <= PATCH**2
    return torch.where(near, found, start)


def eager_densify(one: Tensor, two: Tensor, sparse: Tensor, stride: int) -> Tensor:
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
