"""Cuts of a video, counted while its frames pass by."""

from __future__ import annotations

import numpy as np

STRIDE = 4
LEAST_CHANGE = 15.0  # grey levels
LEAST_RATIO = 3.0
WINDOW = 2  # frame pairs before and after


class CutCounter:
    """Counts the frame pairs of a video between which the picture changes as a whole.

    The rule of PySceneDetect's `AdaptiveDetector`, on grey values: the mean absolute difference of the two frames is at
    least 15 levels, and at least 3 times its mean over the two pairs before and the two after. A fast camera changes
    the picture as much, but in every pair. Every fourth row and column is compared.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: list[float] = []

    def add(self, frames: np.ndarray) -> None:
        """The next frames: uint8 [n, H, W], in order."""
        for frame in frames[:, ::STRIDE, ::STRIDE].astype(np.int16):
            if self._last is not None:
                self._changes.append(float(np.abs(frame - self._last).mean()))
            self._last = frame

    def count(self) -> int:
        """Cuts in the frames so far."""
        changes = np.array(self._changes)
        cuts = 0
        for pair in np.flatnonzero(changes >= LEAST_CHANGE):
            around = np.concatenate(
                (changes[max(pair - WINDOW, 0) : pair], changes[pair + 1 : pair + 1 + WINDOW])
            )
            cuts += bool(around.size and changes[pair] >= LEAST_RATIO * around.mean())
        return cuts
