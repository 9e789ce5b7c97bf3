"""Flow without the camera's motion on the CPU, one pair at a time with OpenCV."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from m3flow.camera import thresholds
from m3flow.flow.base import Estimator


def compensated(
    estimator: Estimator,
    scheme: str,
    previous: np.ndarray,
    current: np.ndarray,
    homography: np.ndarray,
    *,
    bars: np.ndarray,
    cut: bool,
) -> np.ndarray:
    """One pair's flow without the camera's motion: uint8 [H, W] twice, float64 [3, 3] -> float32 [2, H, W].

    The whole flow where the homography is the identity; 0 across a cut.
    """
    if cut or np.array_equal(previous, current):
        # Exactly zero motion: Farneback gives up to 0.8 px at the right and lower edge.
        return np.zeros((2, *previous.shape[:2]), np.float32)
    if (homography == np.eye(3)).all():
        return _flow(estimator, previous, current)
    if scheme == "two-pass":
        _flow(estimator, previous, current)
    return _flow(estimator, previous, resample(current, homography, previous, bars))


def resample(
    current: np.ndarray, homography: np.ndarray, previous: np.ndarray, bars: np.ndarray | None = None
) -> np.ndarray:
    """The current frame seen from where the previous frame was filmed: uint8 [H, W] or [H, W, 3].

    Filled from the previous frame where the current one does not show the place, or only its outermost
    5 px: no motion is seen there. Its bars int32 [4] are no part of what it shows.
    """
    height, width = previous.shape[:2]
    inverse_map = cv2.WARP_INVERSE_MAP  # the homography maps to the source
    resampled = cv2.warpPerspective(
        current,
        homography,
        (width, height),
        flags=cv2.INTER_LINEAR | inverse_map,
        borderMode=cv2.BORDER_REPLICATE,
    )
    sides = (0, 0, 0, 0) if bars is None else tuple(bars.tolist())
    shown = cv2.warpPerspective(
        _trusted(height, width, sides), homography, (width, height), flags=cv2.INTER_NEAREST | inverse_map
    )
    there = shown > 0
    return np.where(there if previous.ndim == 2 else there[..., None], resampled, previous)


@lru_cache(maxsize=8)
def _trusted(height: int, width: int, bars: tuple[int, int, int, int]) -> np.ndarray:
    """1 inside, 0 within the picture's margin and in the bars: uint8 [H, W]."""
    margin = round(thresholds.MARGIN)
    mask = np.zeros((height, width), np.uint8)
    top, bottom, left, right = (bar + margin for bar in bars)
    mask[top : height - bottom, left : width - right] = 1
    mask.flags.writeable = False
    return mask


def _flow(estimator: Estimator, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    return np.asarray(estimator(previous[None], current[None]))[0]
