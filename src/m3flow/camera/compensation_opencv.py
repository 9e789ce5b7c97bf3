"""Flow without the camera's motion on the CPU, one pair at a time with OpenCV.

The schemes, dearest last (benchmarks/camera.py measures them):

- one-pass: the camera is found from tracked corners, the current frame is resampled into the previous
  frame's view, and the estimator runs once, on the previous and the resampled frame.
- prior: the estimator runs on the frames as they are; then one more iteration at the finest level between
  the previous and the resampled frame starts from that flow, or from the camera's where that explains the
  frames better. Farneback alone can do that.
- two-pass: the estimator runs on the frames as they are, and again on the previous and the resampled frame
  (Wang and Schmid 2013). The second flow is the one kept. Without a camera it is the first.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from m3flow.camera import thresholds
from m3flow.camera.geometry import remove_camera
from m3flow.camera.homography_opencv import find_homography
from m3flow.flow.base import Estimator, in_grey
from m3flow.flow.opencv import Farneback

# As many pixels around each as Farneback's default window sees.
COMPARED = (13, 13)


def compensated(
    estimator: Estimator, scheme: str, previous: np.ndarray, current: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """One pair's flow without the camera's motion, by a scheme that the estimator can run.

    uint8 [H, W] twice -> (float32 [2, H, W], homography float64 [3, 3], accepted, the scheme that ran:
    "still" where the camera does not move, "" where the homography was refused and the flow is whole).
    """
    if np.array_equal(previous, current):
        # No motion, and exactly none: Farneback sees up to 0.8 px at the right and lower edge.
        return np.zeros((2, *previous.shape[:2]), np.float32), np.eye(3), True, "still"
    homography, accepted = find_homography(*np.asarray(in_grey(np.stack([previous, current]))))
    if not accepted or (homography == np.eye(3)).all():
        return _flow(estimator, previous, current), homography, accepted, "still" if accepted else ""
    resampled = resample(current, homography, previous)
    if scheme == "one-pass":
        return _flow(estimator, previous, resampled), homography, accepted, scheme
    flow = _flow(estimator, previous, current)
    if scheme == "prior" and isinstance(estimator, Farneback):
        start = _better_start(previous, resampled, remove_camera(flow, homography))
        residual = estimator.finest_iteration(previous, resampled, start)
    else:
        residual = _flow(estimator, previous, resampled)
    return residual, homography, accepted, scheme


def resample(current: np.ndarray, homography: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """The current frame seen from where the previous frame was filmed: uint8 [H, W] or [H, W, 3].

    Filled from the previous frame where the current one does not show the place, or only its outermost
    5 px: no motion is seen there.
    """
    height, width = previous.shape[:2]
    inverse_map = cv2.WARP_INVERSE_MAP  # the homography says where to read
    resampled = cv2.warpPerspective(
        current,
        homography,
        (width, height),
        flags=cv2.INTER_LINEAR | inverse_map,
        borderMode=cv2.BORDER_REPLICATE,
    )
    shown = cv2.warpPerspective(
        _trusted(height, width), homography, (width, height), flags=cv2.INTER_NEAREST | inverse_map
    )
    there = shown > 0
    return np.where(there if previous.ndim == 2 else there[..., None], resampled, previous)


@lru_cache(maxsize=8)
def _trusted(height: int, width: int) -> np.ndarray:
    """1 inside the frame's margin, 0 on it: uint8 [H, W]."""
    margin = round(thresholds.MARGIN)
    mask = np.zeros((height, width), np.uint8)
    mask[margin : height - margin, margin : width - margin] = 1
    mask.flags.writeable = False
    return mask


def _better_start(previous: np.ndarray, resampled: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The residual [2, H, W] where it explains the frames better than no residual does; 0 elsewhere.

    Where the frames have little texture the flow is 0 whatever the camera did, and its residual is wrong
    by the camera's whole motion: too far for one iteration to come back.
    """
    height, width = previous.shape
    x = (np.arange(width, dtype=np.float32) + residual[0]).astype(np.float32)
    y = (np.arange(height, dtype=np.float32)[:, None] + residual[1]).astype(np.float32)
    moved = cv2.remap(resampled, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = cv2.blur(cv2.absdiff(previous, moved).astype(np.float32), COMPARED)
    error_still = cv2.blur(cv2.absdiff(previous, resampled).astype(np.float32), COMPARED)
    return np.where(error < error_still, residual, np.float32(0))


def _flow(estimator: Estimator, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    return np.asarray(estimator(previous[None], current[None]))[0]
