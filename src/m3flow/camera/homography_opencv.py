"""The camera's motion between two frames with OpenCV: corners, tracked both ways, and RANSAC.

Corners are the best pixel of each cell by the smaller eigenvalue of the structure tensor (Shi and Tomasi
1994), followed by pyramidal Lucas-Kanade (Bouguet 2001) and kept if following them back arrives where they
started. That needs no flow, so the camera can be known before the flow is computed. Measured against the
truth it beats matches taken from the flow, alone or together with ORB or SIFT (benchmarks/camera.py).
"""

from __future__ import annotations

import cv2
import numpy as np

from m3flow.camera import thresholds
from m3flow.camera.geometry import camera_motion, is_plausible, transform

WINDOW = (9, 9)
LEVELS = 3  # beyond the frame itself: reaches motion of about 30 px
STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
CONFIDENCE = 0.9999  # OpenCV's 0.995 stops early enough to cost 1 % of what the warp explains


def find_homography(previous: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, bool]:
    """The homography that takes the previous frame's background to the current frame's.

    Parameters
    ----------
    previous, current: uint8 [H, W].

    Returns
    -------
    (float64 [3, 3], whether it was accepted). Identity where it was refused (more than 50 matches and 25
    inliers are needed, and a frame that is not turned inside out), and exactly the identity where the
    camera stands still (`m3flow.camera.thresholds`). The same frames give the same result: OpenCV's RANSAC
    starts from a fixed seed.
    """
    refused = np.eye(3), False
    start, end = track(previous, current, corners(previous))
    if len(start) <= thresholds.MATCHES_NEEDED:
        return refused
    homography, inliers = cv2.findHomography(
        start, end, cv2.RANSAC, thresholds.INLIER_DISTANCE, confidence=CONFIDENCE
    )
    if homography is None or np.count_nonzero(inliers) <= thresholds.INLIERS_NEEDED:
        return refused
    if not is_plausible(homography, *previous.shape):
        return refused
    barely = camera_motion(homography, *previous.shape) < thresholds.STILL
    if barely or cost(start, end) <= thresholds.STILL_COST * cost(transform(homography, start), end):
        return np.eye(3), True
    return homography, True


def cost(predicted: np.ndarray, end: np.ndarray) -> float:
    """The sum of the matches' squared errors, each counted up to the inliers' distance: px²."""
    return float(np.minimum(((predicted - end) ** 2).sum(1), thresholds.INLIER_DISTANCE**2).sum())


def corners(frame: np.ndarray) -> np.ndarray:
    """The frame's best corners, at most one a cell: uint8 [H, W] -> float32 [N, 2] as (x, y), best first."""
    strength = cv2.cornerMinEigenVal(frame, blockSize=3)
    height, width = strength.shape
    border, size = thresholds.CORNER_BORDER, thresholds.cell_size(height, width)
    if min(height, width) <= 2 * border:
        return np.empty((0, 2), np.float32)
    strength = strength[border : height - border, border : width - border]
    rows, columns = -(-strength.shape[0] // size), -(-strength.shape[1] // size)
    padded = np.zeros((rows * size, columns * size), np.float32)
    padded[: strength.shape[0], : strength.shape[1]] = strength
    cells = padded.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows * columns, -1)
    place = cells.argmax(axis=1)
    value = cells[np.arange(len(cells)), place]
    best = np.argsort(-value, kind="stable")[: thresholds.CORNERS]
    best = best[value[best] > thresholds.CORNER_QUALITY * value.max()]
    y = best // columns * size + place[best] // size + border
    x = best % columns * size + place[best] % size + border
    return np.stack([x, y], axis=1).astype(np.float32)


def track(previous: np.ndarray, current: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points of the previous frame are in the current one, those that can be trusted.

    float32 [N, 2] as (x, y) -> float32 [M, 2] in the previous and [M, 2] in the current frame, M <= N: the
    points that come back to within 0.5 px when followed backwards, and that moved 25 px at most.
    """
    if not len(points):
        return points, points
    end, found = _follow(previous, current, points)
    back, found_back = _follow(current, previous, end)
    good = found & found_back
    good &= np.linalg.norm(back - points, axis=1) < thresholds.RETURN_DISTANCE
    good &= np.linalg.norm(end - points, axis=1) <= thresholds.MATCH_RADIUS
    return points[good], end[good]


def _follow(one: np.ndarray, two: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.empty_like(points)  # OpenCV's stubs want an array; it is only written to
    end, found, _ = cv2.calcOpticalFlowPyrLK(
        one, two, points, start, winSize=WINDOW, maxLevel=LEVELS, criteria=STOP
    )
    return np.asarray(end), np.asarray(found)[:, 0] > 0
