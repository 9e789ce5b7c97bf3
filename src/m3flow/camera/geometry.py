"""Flow and the camera homography: removing the camera motion from the flow and restoring it.

Convention
----------
A homography H acts on column vectors (x, y, 1) in pixels, x to the right, y down, the centre of the first
pixel at (0, 0). It maps a point of the *previous* frame to its position in the *current* frame under the
camera motion alone. Flows are [..., 2, H, W], channel 0 is x; they belong to the pixels of the previous frame.

- flow f: the point p of the previous frame is at p + f(p) in the current frame.
- residual r: the motion not explained by the camera, r(p) = H^-1 (p + f(p)) - p. It is the flow from the
  previous frame to the current frame *resampled into the previous frame's view*; 0 where only the camera moved.
"""

from __future__ import annotations

import numpy as np


def transform(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., N, 2] as (x, y) mapped by matrices [..., 3, 3]: float64 [..., N, 2]."""
    matrices = np.asarray(matrices, np.float64)
    moved = points @ matrices[..., :2].swapaxes(-1, -2) + matrices[..., None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def frame_corners(height: int, width: int) -> np.ndarray:
    """The centres of the four outermost pixels, float64 [4, 2] as (x, y)."""
    right, bottom = width - 1, height - 1
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float64)


def camera_motion(homographies: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest motion of the frame's corners by the camera: [..., 3, 3] -> float64 [...] in pixels.

    No point inside the frame moves further, unless the homography turns the frame inside out.
    """
    corners = frame_corners(height, width)
    distance = np.linalg.norm(transform(homographies, corners) - corners, axis=-1)
    return distance.max(axis=-1)


def is_plausible(homography: np.ndarray, height: int, width: int) -> bool:
    """Whether the frame stays in front of the camera and is not mirrored, as for every real camera motion."""
    if not np.isfinite(homography).all() or abs(np.linalg.det(homography)) < 1e-6:
        return False
    corners = frame_corners(height, width)
    if (corners @ homography[2, :2] + homography[2, 2] <= 0).any():
        return False
    moved = transform(homography, corners)
    along, down = np.roll(moved, -1, axis=0) - moved, np.roll(moved, 1, axis=0) - moved
    return bool((along[:, 0] * down[:, 1] - along[:, 1] * down[:, 0] > 0).all())


def camera_flow(homographies: np.ndarray, height: int, width: int) -> np.ndarray:
    """The flow of the camera motion alone: [..., 3, 3] -> float32 [..., 2, H, W]."""
    return put_camera_back(
        np.zeros((*np.shape(homographies)[:-2], 2, height, width), np.float32), homographies
    )


def remove_camera(flow: np.ndarray, homographies: np.ndarray) -> np.ndarray:
    """The residual H^-1 (p + flow) - p: float32 [..., 2, H, W] and [..., 3, 3] -> float32 [..., 2, H, W]."""
    return _displace(flow, np.linalg.inv(np.asarray(homographies, np.float64)))


def put_camera_back(residual: np.ndarray, homographies: np.ndarray) -> np.ndarray:
    """The total flow H (p + residual) - p, the inverse of `remove_camera`.

    Parameters
    ----------
    residual: float32 [..., 2, H, W] in pixels, the motion without the camera's, as in the flow files.
    homographies: [..., 3, 3], previous frame -> current frame, as in the flow files.

    Returns
    -------
    float32 [..., 2, H, W] in pixels: from the previous frame to the original current frame.
    """
    return _displace(residual, np.asarray(homographies, np.float64))


def _displace(displacement: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """M (p + displacement(p)) - p for every pixel p; exactly `displacement` where M is the identity."""
    height, width = displacement.shape[-2:]
    column, row = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]
    x, y = column + displacement[..., 0, :, :], row + displacement[..., 1, :, :]
    m = matrices[..., None, None]
    scale = m[..., 2, 0, :, :] * x + m[..., 2, 1, :, :] * y + m[..., 2, 2, :, :]
    moved_x = (m[..., 0, 0, :, :] * x + m[..., 0, 1, :, :] * y + m[..., 0, 2, :, :]) / scale - column
    moved_y = (m[..., 1, 0, :, :] * x + m[..., 1, 1, :, :] * y + m[..., 1, 2, :, :]) / scale - row
    moved = np.stack([moved_x, moved_y], axis=-3).astype(np.float32)
    identity = (matrices == np.eye(3)).all(axis=(-1, -2))
    return np.where(identity[..., None, None, None], displacement, moved)


DARK = 40  # grey levels: a bar is no brighter
UNIFORM = 16  # grey levels: a row of a bar has no larger range


def dark_bars(frame: np.ndarray) -> np.ndarray:
    """Uniform dark rows and columns at the frame's edges: uint8 [H, W] -> int32 [4], top, bottom, left, right."""
    outermost = (frame[0], frame[-1], frame[:, 0], frame[:, -1])
    if min(int(line.max()) for line in outermost) > DARK:
        return np.zeros(4, np.int32)
    counts = []
    for axis in (1, 0):
        brightest, darkest = frame.max(axis=axis), frame.min(axis=axis)
        bar = (brightest <= DARK) & (brightest - darkest <= UNIFORM)
        counts += [_leading(bar), _leading(bar[::-1])]
    return np.array(counts, np.int32)


def within_half(bars: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bars [..., 4] without those that take more than half of the height or width: a dark scene, no bars."""
    too_large = np.stack([bars[..., :2].sum(-1) * 2 > height, bars[..., 2:].sum(-1) * 2 > width], -1)
    return np.where(np.repeat(too_large, 2, axis=-1), 0, bars).astype(np.int32)


def _leading(flags: np.ndarray) -> int:
    """The number of leading flags that are set."""
    return len(flags) if flags.all() else int(flags.argmin())
