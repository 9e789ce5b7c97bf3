"""The memory of a batch, from which the batch size is derived, against the live tensors."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.extraction.evidence import evidence_of
from m3flow.extraction.extractor import CAMERA_BYTES_PER_PIXEL, SEARCH_BYTES_PER_PIXEL
from m3flow.flow import estimator

FEW_ITERATIONS = {
    "farneback": {"iterations": 1},
    "tvl1": {"scales": 2, "warps": 2, "inner": 3, "outer": 2},
    "dis": {},
    "brox": {"outer": 1, "inner": 2, "solver": 1},
}


class LiveBytes(TorchDispatchMode):
    """Bytes of all live storages returned by operations, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


PAIRS, HEIGHT, WIDTH = 8, 120, 160


def peak_bytes(call):
    """Of a call on frames [PAIRS + 1, HEIGHT, WIDTH], per pixel of each pair."""
    frames = torch.randint(0, 255, (PAIRS + 1, HEIGHT, WIDTH), dtype=torch.uint8)
    with LiveBytes() as live:
        call(frames)
    return live.peak / (PAIRS * HEIGHT * WIDTH)


@pytest.mark.parametrize("name", FEW_ITERATIONS)
def test_bytes_per_pixel_is_the_peak_of_a_batch(name):
    chosen = estimator(name, backend="torch", device="cpu", **FEW_ITERATIONS[name])
    assert 0.7 * chosen.bytes_per_pixel < peak_bytes(chosen.sequence) < 1.05 * chosen.bytes_per_pixel


@pytest.mark.parametrize("scheme", ["one-pass", "two-pass"])
@pytest.mark.parametrize("name", ["farneback", "dis"])
@pytest.mark.slow
def test_bytes_of_the_camera_are_added(name, scheme):
    motion = MotionEstimator(
        estimator(name, backend="torch", device="cpu", **FEW_ITERATIONS[name]), scheme=scheme
    )
    moving, every = np.tile(np.eye(3), (PAIRS, 1, 1)), np.ones(PAIRS, bool)
    moving[:, 0, 2] = 2.5
    bars = np.zeros((PAIRS, 4), np.int32)
    selection = Selection(moving, every, every.astype(np.float32), ~every, bars)
    expected = motion.estimator.bytes_per_pixel + CAMERA_BYTES_PER_PIXEL

    def both_ways(frames):
        """With the backward flow that a confidence needs, while the forward flow is held."""
        return evidence_of("forward-backward", motion, frames, 1, motion(frames, 1, selection))

    assert 0.7 * expected < peak_bytes(lambda frames: motion(frames, 1, selection)) < 1.05 * expected
    assert 0.7 * expected < peak_bytes(both_ways) < 1.05 * expected


@pytest.mark.slow
def test_bytes_of_the_camera_search():
    """Of the default estimator it holds more than the flow."""
    motion = MotionEstimator(estimator("dis", backend="torch", device="cpu"))
    assert 0.7 * SEARCH_BYTES_PER_PIXEL < peak_bytes(motion.candidates) < 1.05 * SEARCH_BYTES_PER_PIXEL
