"""Candidates for the camera motion of many frame pairs at once, in torch.

The torch counterpart of `m3flow.camera.candidates_opencv`: the same corners, tracked forward and backward, the
same successive fits and the same evidence. Nothing depends on the other pairs of a batch. The evidence stays on
the device until a single copy at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3flow.camera import (
    brightness_torch,
    corners_torch,
    cuts,
    evidence_torch,
    homography_torch,
    lucas_kanade,
    thresholds,
)
from m3flow.camera.candidates import SMALL, THUMBNAIL, Candidates
from m3flow.camera.homography_torch import centre_and_scale, centred
from m3flow.flow.fused import kernels
from m3flow.flow.transfer import Readback, constant, to_device


@torch.no_grad()
def find_candidates(frames: Tensor, step: int, *, camera: bool = True, seed: int = 0) -> Candidates:
    """The candidates and their evidence for each pair of frames t, t + step: uint8 [F, H, W] -> F - step pairs.

    camera: whether to search for the camera; otherwise only for cuts.
    seed: of the hypotheses; the same for every pair, so that a pair's candidates depend on its frames alone.
    """
    images = frames.float()
    shrunk = _evidence_operations(frames.device).shrunk
    small = shrunk(images, SMALL)
    thumbnails = shrunk(small, THUMBNAIL)
    if not camera:
        (tiny,) = Readback([thumbnails]).arrays()
        change = cuts.change(tiny, step)
        return Candidates.empty(len(change)).with_change(change)
    search = kernels("corners_triton", str(frames.device), "m3flow.camera") or corners_torch
    size = frames.shape[1], frames.shape[2]
    bars = search.dark_bars(frames)
    of_both = torch.minimum(bars[:-step], bars[step:])
    bars = _within_half(of_both, *size)
    previous, current = images[:-step], images[step:]
    light = kernels("brightness_triton", str(frames.device), "m3flow.camera") or brightness_torch
    brightness, differs = light.brightness_change(frames, step)
    # Read while the device tracks; few pairs differ.
    differing = Readback([differs])
    points, valid = search.corners(frames[:-step], bars)
    matches, returned = track(previous, current, points)
    small_current, matches, returned = _at_one_brightness(
        previous,
        current,
        small[step:],
        brightness,
        np.flatnonzero(*differing.arrays()),
        points,
        valid,
        matches,
        valid & returned,
    )
    evidence = _evidence(small[:-step], small_current, points, matches, returned, bars, seed, size)
    identical = (frames[:-step] == frames[step:]).flatten(1).all(1)
    on_host = Readback([*evidence, of_both, thumbnails, identical]).arrays()
    homographies, exists, count, support, still, photometric, of_bars, tiny, same = on_host
    homographies = homographies.astype(np.float64)
    return Candidates(
        np.where(exists[..., None, None], homographies, np.eye(3)),
        exists,
        count,
        support,
        still,
        photometric,
        of_bars.astype(np.int32),
        cuts.change(tiny, step),
        same,
    )


def _evidence(
    previous: Tensor,
    current: Tensor,
    points: Tensor,
    matches: Tensor,
    valid: Tensor,
    bars: Tensor,
    seed: int,
    size: tuple[int, int],
) -> tuple[Tensor, ...]:
    """The first six fields of `Candidates`, on the device.

    previous, current: the frames `shrunk` to `SMALL`; size: height and width of the frames.
    """
    operations = _evidence_operations(points.device)
    fit = kernels("homography_triton", str(points.device), "m3flow.camera") or homography_torch
    start, end = centred(points, *size), centred(matches, *size)
    _, scale = centre_and_scale(*size)
    fitted, inliers = fit.fit_successively(
        start,
        end,
        valid,
        count=thresholds.HYPOTHESES,
        inlier=thresholds.INLIER_DISTANCE / scale,
        outlier=thresholds.OUTLIER_DISTANCE / scale,
        seed=seed,
    )
    homographies, fitted, exists = operations.with_identity(fitted, inliers, *size)
    count, support, still = operations.sums_over_grid(points, start, end, valid, fitted, bars, *size)
    photometric = operations.photometric_support(previous, current, homographies, exists, bars, *size)
    return homographies, exists, count, support, still, photometric


def _evidence_operations(device: torch.device) -> Any:
    """The module of the fused kernels, or of torch operations."""
    return kernels("evidence_triton", str(device), "m3flow.camera") or evidence_torch


def _at_one_brightness(
    previous: Tensor,
    current: Tensor,
    small_current: Tensor,
    brightness: Tensor,
    differing: np.ndarray,
    points: Tensor,
    valid: Tensor,
    matches: Tensor,
    tracked: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The current frames (small), the matches and which are tracked; in the `differing` pairs with matched brightness
    where that tracks most corners, or more than without: new content may look like a change of exposure.

    brightness: the gain and offset of each pair, from `brightness_torch.brightness_change`.
    """
    if not len(differing):
        return small_current, matches, tracked
    pairs = to_device(differing, current.device)
    gain, offset = brightness[:, pairs, None, None]
    matched = (gain * current[pairs] + offset).round().clamp(0, 255)
    others, returned = track(previous[pairs], matched, points[pairs])
    returned &= valid[pairs]
    most = returned.sum(1) >= thresholds.MOST_TRACKED * valid[pairs].sum(1)
    better = (most | (returned.sum(1) > tracked[pairs].sum(1)))[:, None]

    def replaced(values: Tensor, new: Tensor) -> Tensor:
        chosen = better if values.ndim == 2 else better[..., None]
        return values.index_copy(0, pairs, torch.where(chosen, new, values[pairs]))

    small_matched = _evidence_operations(current.device).shrunk(matched, SMALL)
    return replaced(small_current, small_matched), replaced(matches, others), replaced(tracked, returned)


def _within_half(bars: Tensor, height: int, width: int) -> Tensor:
    """As `m3flow.camera.geometry.within_half`."""
    pairs = bars.view(-1, 2, 2)
    lengths = constant(((height,), (width,)), bars.device, bars.dtype)
    return torch.where(pairs.sum(2, keepdim=True) * 2 > lengths, 0, pairs).view(-1, 4)


def track(previous: Tensor, current: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of points [B, N, 2] in the current frames, and which are `lucas_kanade.reliable`: bool [B, N]."""
    tracking = kernels("lucas_kanade_triton", str(points.device), "m3flow.camera") or lucas_kanade
    end, back = tracking.there_and_back(previous.float(), current.float(), points)
    return end, tracking.reliable(points, end, back, previous.shape[1], previous.shape[2])
