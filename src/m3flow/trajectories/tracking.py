"""Dense motion trajectories: points on an 8-pixel grid tracked through optical flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cv2

from m3flow.errors import UsageError
from m3flow.flow.base import is_tensor
from m3flow.trajectories.confidence import ConfidenceJudge, Evidence
from m3flow.trajectories.grid import GRID, OFFSET, beside, carried, namespace

if TYPE_CHECKING:
    from m3flow.flow.base import Array

LARGEST = 20
FINE = 16  # units per pixel of the fine displacements
TRACKINGS = ("subpixel", "integer")
FLOW_JOBS = ("trajs_dense", "trajs")


@dataclass(frozen=True)
class Windows:
    """The trajectories of consecutive windows: the arrays of a trajectory file.

    Attributes
    ----------
    traj_feat: int8 [2L, N, H//8, W//8], the L displacements in x, then the L in y, in pixels, clamped to ±20.
    traj_type: uint8 [N, H//8, W//8], 1 where the points P_0 … P_{L−1} all lie inside the frame.
    traj_conf: uint8 [L, N, H//8, W//8], the confidence of P_1 … P_L; None without evidence.
    traj_fine: int16 [2L, N, H//8, W//8], the displacements in 1/16 px, not clamped; None if not requested.
    """

    traj_feat: Array
    traj_type: Array
    traj_conf: Array | None = None
    traj_fine: Array | None = None

    def __len__(self) -> int:
        return len(self.traj_type)

    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """The four arrays, in the order of the attributes."""
        return self.traj_feat, self.traj_type, self.traj_conf, self.traj_fine

    def map(self, function: Callable[[Array], Array]) -> Windows:
        """Apply `function` to every array that is not None."""
        mapped: Any = [None if array is None else function(array) for array in self.arrays()]
        return Windows(*mapped)


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
    """Track every grid point for `length` steps, from every start frame; all windows at once.

    Parameters
    ----------
    flow: float32 [T, 2, H, W] in pixels, channel 0 = x; frame t has the flow from frame t to t + step.
        A NumPy array or a torch tensor; the results are of the same kind, on the same device.
    length: L, the steps of a trajectory.
    job: "trajs_dense" starts a window at every frame (N = T − (L−1)·step), "trajs" puts windows end to end
        (N = T // L for step 1).
    tracking: "subpixel" integrates real-valued positions with bilinear reads of the flow; "integer"
        truncates each displacement toward zero to whole pixels.
    step: the step of the flow in frames.
    table: float32 [256], the displacement of each level, if `flow` is uint8 levels: then only the values
        read are restored. NumPy or, for levels on a device, a tensor there.
    homographies: float32 [T, 3, 3], the camera motion removed from `flow` (frame t to t + step):
        the points then follow the pixels of the video. None: they follow `flow` itself.

    Returns
    -------
    traj_feat: int8 [2L, N, H//8, W//8], the L displacements in x, then the L in y, in pixels, clamped to ±20.
    traj_type: uint8 [N, H//8, W//8], 1 where the points P_0 … P_{L−1} all lie inside the frame.

    Convention
    ----------
    The trajectory at [:, n, i, j] starts in frame n at the pixel with x = 4 + 8j, y = 4 + 8i. Inside means
    0 ≤ x ≤ W−1 and 0 ≤ y ≤ H−1. A point is tested first and then clamped to the nearest position inside, where
    its next displacement is read. With "subpixel" the displacement stored for a step is
    round(P_{j+1}) − round(P_j), so the stored ones add up to the rounded true displacement: there is no drift.

    With `homographies` H the flow d is the motion without the camera's. A point moves with its pixel,
    P_{j+1} = H_j (P_j + d_j(P_j)); only d is stored, round(C_{j+1}) − round(C_j) with C_0 = P_0 and
    C_{j+1} = C_j + d_j(P_j) (as in improved dense trajectories, Wang and Schmid, ICCV 2013). The stored
    displacements then do not add up to a position in the video. Without them compensated flow is followed as
    if the camera were static, and a point falls behind its object by the camera motion.

    Raises
    ------
    UsageError: an unknown job or tracking.
    ValueError: a flow that is not [T, 2, H, W].
    """
    windows = follow(
        flow,
        length=length,
        job=job,
        tracking=tracking,
        step=step,
        table=table,
        homographies=homographies,
    )
    return windows.traj_feat, windows.traj_type


def follow(
    flow: Array,
    *,
    length: int,
    job: str = "trajs_dense",
    tracking: str = "subpixel",
    step: int = 1,
    table: Array | None = None,
    homographies: Array | None = None,
    evidence: Evidence | None = None,
    without_picture: Array | None = None,
    fine: bool = False,
) -> Windows:
    """`track`, with what a trajectory file can hold beside.

    Parameters
    ----------
    evidence: of the same flow frames: the windows then have `traj_conf`
        (`m3flow.trajectories.confidence.ConfidenceJudge` says what it means).
    without_picture: int32 [T, 4], rows and columns at the top, bottom, left and right of each flow frame
        without motion: bars, or all rows if the pair crosses a cut. Points there are outside (`traj_type` 0).
    fine: the windows then have `traj_fine`: round(16 P_{j+1}) − round(16 P_j) in the place of whole pixels.

    The others are those of `track`, and so are the errors.
    """
    _check(flow, job, tracking, homographies)
    xp = namespace(flow)
    table, homographies = beside(flow, table), beside(flow, homographies)
    without_picture = beside(flow, without_picture)
    frames, _, height, width = flow.shape
    starts = window_starts(frames, length, job, step)
    shape = (len(starts), height // GRID, width // GRID)
    windows = _no_motion(xp, shape, length, flow.device, confidence=evidence is not None, fine=fine)
    if 0 in shape:
        return windows
    judge, confidence = None, cast(Any, windows.traj_conf)
    if evidence is not None:
        judge = ConfidenceJudge(evidence, starts, follows_pixels=homographies is not None)
    x, y = _grid_points(xp, shape, flow.device)
    field = _Field(xp, flow, table, starts.step)
    displacement = field.nearest if tracking == "integer" else field.bilinear
    # The path whose rounded steps are stored; with homographies it differs from the point's path.
    stored_x, stored_y = x, y
    inside: Any = True
    for j in range(length):
        x_inside, y_inside = xp.clip(x, 0, width - 1), xp.clip(y, 0, height - 1)
        inside = inside & (x == x_inside) & (y == y_inside)
        frames_read = _frames_read(starts, j * step)
        if without_picture is not None:
            inside = inside & _in_picture(without_picture[frames_read], x, y, height, width)
        dx, dy = displacement(j * step, x_inside, y_inside)
        if homographies is None:
            stored_x, stored_y = x_inside, y_inside
        next_x, next_y = stored_x + dx, stored_y + dy
        _store_step(xp, windows, j, stored_x, next_x)
        _store_step(xp, windows, length + j, stored_y, next_y)
        stored_x, stored_y = next_x, next_y
        if homographies is None:
            x, y = next_x, next_y
        else:
            x, y = carried(homographies[frames_read], x_inside + dx, y_inside + dy)
        if judge is not None:
            confidence[j] = judge(j, x_inside, y_inside, x, y)
    windows.traj_type[:] = xp.asarray(inside, dtype=xp.uint8)
    return windows


def _store_step(xp: Any, windows: Windows, row: int, start: Array, end: Array) -> None:
    """Store one component of a step between two positions as a row of the arrays."""
    windows.traj_feat[row] = xp.asarray(xp.clip(_units(xp, start, end), -LARGEST, LARGEST), dtype=xp.int8)
    if windows.traj_fine is not None:
        windows.traj_fine[row] = xp.asarray(_units(xp, start * FINE, end * FINE), dtype=xp.int16)


def _no_motion(
    xp: Any, shape: tuple[int, int, int], length: int, device: Any, *, confidence: bool, fine: bool
) -> Windows:
    """Windows [N, rows, columns] of points without motion."""
    return Windows(
        xp.zeros((2 * length, *shape), dtype=xp.int8, device=device),
        xp.ones(shape, dtype=xp.uint8, device=device),
        xp.zeros((length, *shape), dtype=xp.uint8, device=device) if confidence else None,
        xp.zeros((2 * length, *shape), dtype=xp.int16, device=device) if fine else None,
    )


def _check(flow: Array, job: str, tracking: str, homographies: Array | None) -> None:
    problems = []
    if job not in FLOW_JOBS:
        problems.append(f"job {job!r} does not follow flow; choose from {', '.join(FLOW_JOBS)}")
    if tracking not in TRACKINGS:
        problems.append(f"unknown tracking {tracking!r}; choose from {', '.join(TRACKINGS)}")
    if tracking == "integer" and homographies is not None:
        problems.append(
            "tracking integer has no positions between pixels and cannot follow them; use subpixel"
        )
    if problems:
        raise UsageError("\n".join(problems))
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must be [T, 2, H, W]; got {tuple(flow.shape)}")


def _grid_points(xp: Any, shape: tuple[int, int, int], device: Any) -> tuple[Array, Array]:
    """x and y of the grid points of every window: float32 [N, rows, columns] each."""

    def along(axis: int) -> Array:
        values = xp.arange(shape[axis], dtype=xp.float32, device=device) * GRID + OFFSET
        return xp.broadcast_to(values.reshape([-1 if a == axis else 1 for a in range(3)]), shape)

    return along(2), along(1)


def _in_picture(without_picture: Array, x: Array, y: Array, height: int, width: int) -> Array:
    """Whether points [N, rows, columns] lie in the picture of their window's frame, [N, 4]."""
    top, bottom, left, right = (without_picture[:, side, None, None] for side in range(4))
    return (y >= top) & (y <= height - 1 - bottom) & (x >= left) & (x <= width - 1 - right)


def _frames_read(starts: range, shift: int) -> slice:
    """The frames `shift` frames after the start of each window."""
    return slice(starts.start + shift, starts[-1] + shift + 1, starts.step)


def window_starts(frames: int, length: int, job: str, step: int = 1) -> range:
    """The frames at which windows start, for `frames` flow frames."""
    last = frames - (length - 1) * step
    return range(0, max(last, 0), 1 if job == "trajs_dense" else length * step)


def _units(xp: Any, start: Array, end: Array) -> Array:
    """The step between two positions, each rounded to a whole number."""
    return xp.floor(end + 0.5) - xp.floor(start + 0.5)


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
        if self._table is None:  # flow in pixels may hold what is not a number
            pixels = xp.clip(pixels, 0, self._plane - 1)
        return pixels + (frames * (2 * self._plane)).reshape(-1, 1, 1)

    def _take(self, index: Array, shift: int) -> Array:
        values = self._xp.take(self._flat[shift:], index)
        if self._table is None:
            return self._xp.asarray(values, dtype=self._xp.float32)
        if is_tensor(values):
            return self._xp.take(self._table, self._xp.asarray(values, dtype=self._xp.int64))
        # OpenCV's table lookup is three times as fast as NumPy's.
        return cv2.LUT(values.reshape(1, -1), self._table).reshape(values.shape)


def _blend(start: Array, end: Array, share: Array) -> Array:
    # In this form a constant field is reproduced exactly.
    return start + (end - start) * share


class Tracker:
    """`follow` for flow that arrives in pieces: the same windows, in the same order, in bounded memory."""

    def __init__(
        self,
        *,
        length: int,
        job: str,
        tracking: str,
        step: int = 1,
        table: Array | None = None,
        fine: bool = False,
    ) -> None:
        self._how: dict[str, Any] = {
            "length": length,
            "job": job,
            "tracking": tracking,
            "step": step,
            "table": table,
            "fine": fine,
        }
        self._spacing = 1 if job == "trajs_dense" else length * step
        self._held: _Piece | None = None
        self._skip = 0  # upcoming frames between two windows, if these are further apart than they are long

    def push(
        self,
        flow: Array,
        homographies: Array | None = None,
        evidence: Evidence | None = None,
        without_picture: Array | None = None,
    ) -> Windows:
        """The windows completed by the piece float32 [n, 2, H, W].

        homographies [n, 3, 3], evidence and without_picture [n, 4]: with every piece or with none.
        """
        # Copied to a device once, not with each piece.
        self._how["table"] = beside(flow, self._how["table"])
        piece = _Piece(
            flow,
            beside(flow, homographies),
            evidence and evidence.beside(flow),
            beside(flow, without_picture),
        )
        if self._held is not None:
            piece = self._held.followed_by(piece)
        skipped = min(self._skip, len(piece.flow))
        piece = piece.without_first(skipped)
        windows = follow(
            piece.flow,
            **self._how,
            homographies=piece.homographies,
            evidence=piece.evidence,
            without_picture=piece.without_picture,
        )
        done = len(windows) * self._spacing
        # Here and not before: a call that fails, for memory, can be repeated with less.
        self._skip += max(0, done - len(piece.flow)) - skipped
        self._held = piece.without_first(done)
        return windows


@dataclass(frozen=True)
class _Piece:
    """Flow frames with their homographies and evidence."""

    flow: Array
    homographies: Array | None
    evidence: Evidence | None
    without_picture: Array | None

    def followed_by(self, other: _Piece) -> _Piece:
        join = namespace(self.flow).concatenate

        def joined(first: Array | None, second: Array | None) -> Array | None:
            return None if first is None or second is None else join((first, second))

        return _Piece(
            join((self.flow, other.flow)),
            joined(self.homographies, other.homographies),
            None
            if self.evidence is None or other.evidence is None
            else self.evidence.followed_by(other.evidence),
            joined(self.without_picture, other.without_picture),
        )

    def without_first(self, count: int) -> _Piece:
        return _Piece(
            self.flow[count:],
            None if self.homographies is None else self.homographies[count:],
            None if self.evidence is None else self.evidence[count:],
            None if self.without_picture is None else self.without_picture[count:],
        )
