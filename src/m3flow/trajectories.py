"""Dense motion trajectories: points on an 8-pixel grid followed through optical flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import UsageError
from m3flow.flow.base import is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array

GRID = 8
OFFSET = 4
LARGEST = 20
TRACKINGS = ("subpixel", "integer")
FLOW_JOBS = ("trajs_dense", "trajs")


def track(
    flow: Array,
    *,
    length: int = 6,
    job: str = "trajs_dense",
    tracking: str = "subpixel",
    step: int = 1,
) -> tuple[Array, Array]:
    """Follow every grid point for `length` steps, from every start frame; all windows at once.

    Parameters
    ----------
    flow: float32 [T, 2, H, W] in pixels, channel 0 = x; frame t holds the flow from frame t to t + step.
        A NumPy array or a torch tensor; the results are of the same kind, on the same device.
    length: L, the steps of one trajectory.
    job: "trajs_dense" starts a window at every frame (N = T − (L−1)·step), "trajs" puts windows end to end
        (N = T // L for step 1).
    tracking: "subpixel" integrates real-valued positions with bilinear reads of the flow; "integer"
        truncates each displacement toward zero to whole pixels.
    step: the step of the flow in frames.

    Returns
    -------
    traj_feat: int8 [2L, N, H//8, W//8], the L displacements in x, then the L in y, in pixels, clamped to ±20.
    traj_type: uint8 [N, H//8, W//8], 1 where the points P_0 … P_{L−1} all lie inside the frame.

    Convention
    ----------
    The trajectory at [:, n, i, j] starts in frame n at the pixel with x = 4 + 8j, y = 4 + 8i. Inside means
    0 ≤ x ≤ W−1 and 0 ≤ y ≤ H−1. A point is judged first and then moved to the nearest place inside, where
    its next displacement is read. With "subpixel" the displacement stored for a step is
    round(P_{j+1}) − round(P_j), so the stored ones add up to the rounded true displacement: nothing drifts.

    Raises
    ------
    UsageError: an unknown job or tracking.
    ValueError: a flow that is not [T, 2, H, W].
    """
    if job not in FLOW_JOBS:
        raise UsageError(f"job {job!r} does not follow flow; choose from {', '.join(FLOW_JOBS)}")
    if tracking not in TRACKINGS:
        raise UsageError(f"unknown tracking {tracking!r}; choose from {', '.join(TRACKINGS)}")
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must be [T, 2, H, W]; got {tuple(flow.shape)}")
    # NumPy 2 and torch spell everything used here alike, so one tracker serves both.
    xp = _namespace(flow)
    frames, _, height, width = flow.shape
    starts = window_starts(frames, length, job, step)
    rows, columns = height // GRID, width // GRID
    shape = (len(starts), rows, columns)
    features = xp.zeros((2 * length, *shape), dtype=xp.int8, device=flow.device)
    inside = xp.ones(shape, dtype=xp.bool, device=flow.device)
    if len(starts) == 0:
        return features, xp.asarray(inside, dtype=xp.uint8)

    def along(axis: int, count: int, first: int, spacing: int) -> Array:
        values = xp.arange(count, dtype=xp.float32, device=flow.device) * spacing + first
        return xp.broadcast_to(values.reshape([-1 if a == axis else 1 for a in range(3)]), shape)

    x, y = along(2, columns, OFFSET, GRID), along(1, rows, OFFSET, GRID)
    spacing = starts.step
    read = _read_nearest if tracking == "integer" else _read_bilinear
    for j in range(length):
        inside &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        x, y = xp.clip(x, 0, width - 1), xp.clip(y, 0, height - 1)
        dx, dy = read(xp, flow, j * step, spacing, x, y)
        next_x, next_y = x + dx, y + dy
        features[j] = _whole_step(xp, x, next_x)
        features[length + j] = _whole_step(xp, y, next_y)
        x, y = next_x, next_y
    return features, xp.asarray(inside, dtype=xp.uint8)


def window_starts(frames: int, length: int, job: str, step: int = 1) -> range:
    """The frames at which windows start, for `frames` flow frames."""
    last = frames - (length - 1) * step
    return range(0, max(last, 0), 1 if job == "trajs_dense" else length * step)


def _whole_step(xp: Any, start: Array, end: Array) -> Array:
    whole = xp.floor(end + 0.5) - xp.floor(start + 0.5)
    return xp.asarray(xp.clip(whole, -LARGEST, LARGEST), dtype=xp.int8)


def _read_nearest(xp: Any, flow: Array, first: int, spacing: int, x: Array, y: Array) -> tuple[Array, Array]:
    """The flow truncated to whole pixels, at positions that are whole."""
    base, plane, width = _base(xp, flow, first, spacing, len(x))
    index = base + xp.asarray(y, dtype=xp.int64) * width + xp.asarray(x, dtype=xp.int64)
    flat = flow.reshape(-1)
    return xp.trunc(xp.take(flat, index)), xp.trunc(xp.take(flat, index + plane))


def _read_bilinear(xp: Any, flow: Array, first: int, spacing: int, x: Array, y: Array) -> tuple[Array, Array]:
    """The flow between the four pixels around each position, which lies inside the frame."""
    base, plane, width = _base(xp, flow, first, spacing, len(x))
    height = plane // width
    left = xp.clip(xp.floor(x), 0, max(width - 2, 0))
    top = xp.clip(xp.floor(y), 0, max(height - 2, 0))
    right, below = x - left, y - top
    index = base + xp.asarray(top, dtype=xp.int64) * width + xp.asarray(left, dtype=xp.int64)
    over, down = min(1, width - 1), width * min(1, height - 1)
    weights = ((1 - below) * (1 - right), (1 - below) * right, below * (1 - right), below * right)
    flat = flow.reshape(-1)
    dx, dy = (
        sum(
            xp.take(flat, index + (channel + shift)) * weight
            for shift, weight in zip((0, over, down, down + over), weights, strict=True)
        )
        for channel in (0, plane)
    )
    return dx, dy


def _base(xp: Any, flow: Array, first: int, spacing: int, windows: int) -> tuple[Array, int, int]:
    """Where each window's current frame begins in the flattened flow, [N, 1, 1]; size of a plane, of a row."""
    _, _, height, width = flow.shape
    plane = height * width
    frames = xp.arange(windows, dtype=xp.int64, device=flow.device) * spacing + first
    return (frames * (2 * plane)).reshape(-1, 1, 1), plane, width


def _namespace(array: Array) -> Any:
    if is_tensor(array):
        import torch

        return torch
    return np


class Tracker:
    """`track` for a flow that arrives in pieces: the same windows, in the same order, in bounded memory."""

    def __init__(self, *, length: int, job: str, tracking: str, step: int = 1) -> None:
        self._how = {"length": length, "job": job, "tracking": tracking, "step": step}
        self._spacing = 1 if job == "trajs_dense" else length * step
        self._held: Array | None = None

    def push(self, flow: Array) -> tuple[Array, Array]:
        """The windows that the piece float32 [n, 2, H, W] completes: traj_feat and traj_type as of `track`."""
        if self._held is not None and len(self._held):
            flow = _namespace(flow).concatenate((self._held, flow))
        features, inside = track(flow, **self._how)
        self._held = flow[len(inside) * self._spacing :]
        return features, inside
