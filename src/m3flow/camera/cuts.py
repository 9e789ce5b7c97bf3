"""Hard cuts: pairs of frames that show different shots.

The change of a pair is 1 minus the correlation of its two thumbnails, so that brightness and contrast do not
matter. A cut is a change that is large, also relative to the pairs before and after it: a fast pan or a
flash changes several consecutive pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMALLEST_CHANGE = 0.2
RATIO = 3.0  # to the larger change of the pairs before and after
FLAT = 1.0  # grey levels squared, added to the variances: frames without content are alike


def change(thumbnails: np.ndarray, step: int) -> np.ndarray:
    """Frames float32 [F, h, w] -> float32 [F - step], the change from frame t to t + step, 0 to 2."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    variance = (flat * flat).mean(axis=1)
    covariance = (flat[:-step] * flat[step:]).mean(axis=1)
    scale = np.sqrt((variance[:-step] + FLAT) * (variance[step:] + FLAT))
    return (1 - (covariance + FLAT) / scale).astype(np.float32)


def is_cut(changes: Sequence[float], pair: int, step: int) -> bool:
    """Whether a pair crosses a cut, from the changes of the pairs around it.

    The neighbours are `step` pairs away: a cut affects `step` consecutive pairs. Pairs without neighbours cross none.
    """
    around = [changes[t] for t in (pair - step, pair + step) if 0 <= t < len(changes)]
    return bool(around) and changes[pair] > max(SMALLEST_CHANGE, RATIO * max(around))


def are_cuts(changes: np.ndarray, step: int) -> np.ndarray:
    """`is_cut` for every pair of several videos: float32 [B, T] -> bool [B, T]."""
    around = np.full((2, *changes.shape), -np.inf, changes.dtype)
    around[0, :, step:] = changes[:, :-step]
    around[1, :, :-step] = changes[:, step:]
    largest = around.max(axis=0)
    return (changes > np.maximum(SMALLEST_CHANGE, RATIO * largest)) & np.isfinite(largest)
