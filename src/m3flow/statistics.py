"""A few numbers that tell whether a video's motion makes sense, gathered while it passes by."""

from __future__ import annotations

import numpy as np

from m3flow.levels import table

# Every fourth pixel both ways is enough for shares and percentiles, at a sixteenth of the work.
STRIDE = 4
BINS = 400


class MotionStatistics:
    """Mean and 95th percentile of the speed, the share of pixels at the bound and of still ones."""

    def __init__(self, bound: float) -> None:
        self._table = table(bound)
        self._edge = bound * np.sqrt(2) * (1 + 1e-6)
        self._histogram = np.zeros(BINS, np.int64)
        self._total = 0.0
        self._saturated = self._still = self._pixels = 0

    def add(self, levels: np.ndarray) -> None:
        """Count frames in: uint8 [T, 2, H, W] levels."""
        sample = levels[:, :, ::STRIDE, ::STRIDE]
        values = self._table[sample]
        speed = np.hypot(values[:, 0], values[:, 1])
        self._histogram += np.histogram(speed, BINS, (0, self._edge))[0]
        self._total += float(speed.sum())
        self._still += int((speed == 0).sum())
        self._saturated += int(((sample == 0) | (sample == 255)).any(1).sum())
        self._pixels += speed.size

    def summary(self) -> dict[str, float]:
        """The record's fields `speed`, `speed_p95`, `saturated` and `still`."""
        if self._pixels == 0:
            return {}
        rank = np.searchsorted(np.cumsum(self._histogram), 0.95 * self._pixels)
        return {
            "speed": self._total / self._pixels,
            "speed_p95": float((rank + 0.5) * self._edge / BINS) if rank else 0.0,
            "saturated": self._saturated / self._pixels,
            "still": self._still / self._pixels,
        }
