"""Summary statistics of a video's motion, to spot implausible results; gathered during extraction."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from m3flow.results.quantisation import Quantisation

LEVELS = 256


class MotionStatistics:
    """Mean and 95th percentile of the speed, and the shares of saturated and of still pixels."""

    def __init__(self, quantisation: Quantisation) -> None:
        # Of floats, the linear levels are counted.
        self._quantisation = Quantisation(quantisation.bound) if quantisation.table is None else quantisation
        # Histogram of the pairs (level of x, level of y), from which all statistics follow.
        self._counts = np.zeros(LEVELS * LEVELS, np.int64)

    def add(self, sample: np.ndarray) -> None:
        """Count frames in: stored values [T, 2, h, w], all or as `m3flow.results.quantisation.sampled` takes them."""
        if sample.dtype != np.uint8:
            sample = np.asarray(self._quantisation.stored(sample.astype(np.float32)))
        sample = sample.astype(np.intp)
        pairs = sample[:, 0] * LEVELS + sample[:, 1]
        self._counts += np.bincount(pairs.ravel(), minlength=len(self._counts))

    def summary(self) -> dict[str, float]:
        """The record's fields `speed`, `speed_p95`, `saturated` and `still`."""
        pixels = int(self._counts.sum())
        if pixels == 0:
            return {}
        speed, order = _speeds(self._quantisation)
        rank = np.searchsorted(np.cumsum(self._counts[order]), 0.95 * pixels)
        counts = self._counts.reshape(LEVELS, LEVELS)
        return {
            "speed": float(self._counts @ speed) / pixels,
            "speed_p95": float(speed[order[rank]]),
            "saturated": 1 - int(counts[1:-1, 1:-1].sum()) / pixels,
            "still": int(self._counts[speed == 0].sum()) / pixels,
        }


@lru_cache(maxsize=1)
def _speeds(quantisation: Quantisation) -> tuple[np.ndarray, np.ndarray]:
    """The speed of each pair of levels in pixels per frame, float64 [65536], and the order from still to fast."""
    table = quantisation.table
    assert table is not None
    values = table.astype(np.float64)
    speed = np.hypot(values[:, None], values).ravel()
    return speed, np.argsort(speed)
