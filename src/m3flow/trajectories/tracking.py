"""Dense motion trajectories: points on an 8-pixel grid followed through optical flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
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
    table: Array | None = None,
    homographies: Array | None = None,
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
    table: float32 [256], the displacement that each level stands for, where `flow` is uint8 levels: then
        only what is read is restored. NumPy, or, for levels on a device, a tensor there.
    homographies: float32 [T, 3, 3], the camera's motion that was taken out of `flow` (frame t to t + step):
        the points then follow the pixels of the video. None: they follow `flow` itself.

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

    With `homographies` H the flow d is the motion without the camera's. A point goes with its pixel,
    P_{j+1} = H_j (P_j + d_j(P_j)); stored is d alone, round(C_{j+1}) − round(C_j) with C_0 = P_0 and
    C_{j+1} = C_j + d_j(P_j) (as improved dense trajectories do, Wang and Schmid, ICCV 2013). The stored
    displacements then do not add up to a position in the video. Without them compensated flow is followed as
    if the camera stood still, and a point falls behind its object as far as the camera carries it.

    Raises
    ------
    UsageError: an unknown job or tracking.
    ValueError: a flow that is not [T, 2, H, W].
    """
    _check(flow, job, tracking, homographies)
    xp = _namespace(flow)
    table, homographies = _beside(flow, table), _beside(flow, homographies)
    frames, _, height, width = flow.shape
    starts = window_starts(frames, length, job, step)
    shape = (len(starts), height // GRID, width // GRID)
    features = xp.zeros((2 * length, *shape), dtype=xp.int8, device=flow.device)
    inside = xp.ones(shape, dtype=xp.bool, device=flow.device)
    if 0 in shape:
        return features, xp.asarray(inside, dtype=xp.uint8)
    x, y = _grid_points(xp, shape, flow.device)
    field = _Field(xp, flow, table, starts.step)
    displacement = field.nearest if tracking == "integer" else field.bilinear
    # The path whose rounded steps are stored; with homographies another one than the point's own.
    stored_x, stored_y = x, y
    for j in range(length):
        x_inside, y_inside = xp.clip(x, 0, width - 1), xp.clip(y, 0, height - 1)
        inside &= (x == x_inside) & (y == y_inside)
        dx, dy = displacement(j * step, x_inside, y_inside)
        if homographies is None:
            stored_x, stored_y = x_inside, y_inside
        next_x, next_y = stored_x + dx, stored_y + dy
        features[j] = _whole_step(xp, stored_x, next_x)
        features[length + j] = _whole_step(xp, stored_y, next_y)
        stored_x, stored_y = next_x, next_y
        if homographies is None:
            x, y = next_x, next_y
        else:
            x, y = _carried(homographies[_frames_read(starts, j * step)], x_inside + dx, y_inside + dy)
    return features, xp.asarray(inside, dtype=xp.uint8)


def _check(flow: Array, job: str, tracking: str, homographies: Array | None) -> None:
    if job not in FLOW_JOBS:
        raise UsageError(f"job {job!r} does not follow flow; choose from {', '.join(FLOW_JOBS)}")
    if tracking not in TRACKINGS:
        raise UsageError(f"unknown tracking {tracking!r}; choose from {', '.join(TRACKINGS)}")
    if tracking == "integer" and homographies is not None:
        raise UsageError(
            "tracking integer has no positions between pixels and cannot follow them; use subpixel"
        )
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must be [T, 2, H, W]; got {tuple(flow.shape)}")


def _grid_points(xp: Any, shape: tuple[int, int, int], device: Any) -> tuple[Array, Array]:
    """x and y of the grid points of every window: float32 [N, rows, columns] each."""

    def along(axis: int) -> Array:
        values = xp.arange(shape[axis], dtype=xp.float32, device=device) * GRID + OFFSET
        return xp.broadcast_to(values.reshape([-1 if a == axis else 1 for a in range(3)]), shape)

    return along(2), along(1)


def _frames_read(starts: range, shift: int) -> slice:
    """The frames `shift` after the start of each window."""
    return slice(starts.start + shift, starts[-1] + shift + 1, starts.step)


def window_starts(frames: int, length: int, job: str, step: int = 1) -> range:
    """The frames at which windows start, for `frames` flow frames."""
    last = frames - (length - 1) * step
    return range(0, max(last, 0), 1 if job == "trajs_dense" else length * step)


def _carried(homographies: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """The points [N, h, w] where the camera [N, 3, 3] of their frame takes them."""
    m = homographies[:, :, :, None, None]
    scale = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    carried_x = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / scale
    carried_y = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) / scale
    return carried_x, carried_y


def _whole_step(xp: Any, start: Array, end: Array) -> Array:
    whole = xp.floor(end + 0.5) - xp.floor(start + 0.5)
    return xp.asarray(xp.clip(whole, -LARGEST, LARGEST), dtype=xp.int8)


class _Field:
    """The flow of every window's current frame, read at one position for each of its points."""

    def __init__(self, xp: Any, flow: Array, table: Array | None, spacing: int) -> None:
        self._height, self._width = int(flow.shape[2]), int(flow.shape[3])
        self._plane = self._height * self._width
        self._xp, self._flat, self._table, self._spacing = xp, flow.reshape(-1), table, spacing

    def nearest(self, first: int, x: Array, y: Array) -> tuple[Array, Array]:
        """The flow truncated to whole pixels, at positions [N, h, w] that are whole and inside.

        Window n reads frame `first` + n · spacing.
        """
        index = self._index(first, x, y)
        return self._xp.trunc(self._take(index, 0)), self._xp.trunc(self._take(index, self._plane))

    def bilinear(self, first: int, x: Array, y: Array) -> tuple[Array, Array]:
        """The flow between the four pixels around each position [N, h, w], which lies inside."""
        xp = self._xp
        left = xp.clip(xp.floor(x), 0, max(self._width - 2, 0))
        top = xp.clip(xp.floor(y), 0, max(self._height - 2, 0))
        right, below = x - left, y - top
        index = self._index(first, left, top)
        over, down = min(1, self._width - 1), self._width * min(1, self._height - 1)

        def between(channel: int) -> Array:
            upper, lower = (
                _blend(self._take(index, channel + row), self._take(index, channel + row + over), right)
                for row in (0, down)
            )
            return _blend(upper, lower, below)

        return between(0), between(self._plane)

    def _index(self, first: int, x: Array, y: Array) -> Array:
        xp = self._xp
        frames = xp.arange(len(x), dtype=xp.int64, device=x.device) * self._spacing + first
        pixels = xp.asarray(y, dtype=xp.int64) * self._width + xp.asarray(x, dtype=xp.int64)
        return pixels + (frames * (2 * self._plane)).reshape(-1, 1, 1)

    def _take(self, index: Array, shift: int) -> Array:
        values = self._xp.take(self._flat[shift:], index)
        if self._table is None:
            return values
        if is_tensor(values):
            return self._xp.take(self._table, self._xp.asarray(values, dtype=self._xp.int64))
        # OpenCV looks values up three times as fast as NumPy.
        return cv2.LUT(values.reshape(1, -1), self._table).reshape(values.shape)


def _blend(start: Array, end: Array, share: Array) -> Array:
    # In this form a constant field is read back exactly.
    return start + (end - start) * share


def _namespace(array: Array) -> Any:
    """NumPy or torch: NumPy 2 and torch spell everything used here alike, so one tracker serves both."""
    if is_tensor(array):
        import torch

        return torch
    return np


def _beside(flow: Array, array: Array | None) -> Array | None:
    """`array` where `flow` is: as NumPy, or as a tensor on its device."""
    if array is None or not is_tensor(flow):
        return array
    import torch

    return torch.as_tensor(array, device=flow.device)


class Tracker:
    """`track` for a flow that arrives in pieces: the same windows, in the same order, in bounded memory."""

    def __init__(
        self, *, length: int, job: str, tracking: str, step: int = 1, table: Array | None = None
    ) -> None:
        self._how: dict[str, Any] = {
            "length": length,
            "job": job,
            "tracking": tracking,
            "step": step,
            "table": table,
        }
        self._spacing = 1 if job == "trajs_dense" else length * step
        self._held: tuple[Array, Array | None] | None = None
        # Frames still to come that lie between two windows (where windows are further apart than they are long).
        self._skip = 0

    def push(self, flow: Array, homographies: Array | None = None) -> tuple[Array, Array]:
        """The windows that the piece float32 [n, 2, H, W] completes: traj_feat and traj_type as of `track`.

        homographies: [n, 3, 3], with every piece or with none.
        """
        # Copied to a device once, not with each piece.
        self._how["table"] = _beside(flow, self._how["table"])
        homographies = _beside(flow, homographies)
        if self._held is not None:
            held_flow, held_homographies = self._held
            flow = _namespace(flow).concatenate((held_flow, flow))
            if homographies is not None:
                homographies = _namespace(flow).concatenate((held_homographies, homographies))
        skipped = min(self._skip, len(flow))
        self._skip -= skipped
        flow, homographies = _without_first(skipped, flow, homographies)
        features, inside = track(flow, **self._how, homographies=homographies)
        done = len(inside) * self._spacing
        self._skip += max(0, done - len(flow))
        self._held = _without_first(done, flow, homographies)
        return features, inside


def _without_first(count: int, flow: Array, homographies: Array | None) -> tuple[Array, Array | None]:
    return flow[count:], None if homographies is None else homographies[count:]
