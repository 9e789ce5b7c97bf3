"""CUDA graphs on a GPU; needs torch, NumPy and OpenCV alone."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from m3flow.extraction.gpu_errors import is_usable
from m3flow.flow import estimator, graphs

FEW: dict[str, dict[str, Any]] = {
    "farneback": {},
    "dis": {},
    "brox": {"outer": 3, "inner": 2, "solver": 2},
}
DEVICE = "cuda:0"
COUNT = itertools.count()


def frames_of(count: int, number: int) -> torch.Tensor:
    """uint8 [count, 96, 128] of a moving texture, another one for each number."""
    noise = np.random.default_rng(number).uniform(0, 255, (96 + count, 128 + count))
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    frames = [picture[t : t + 96, count - t : count - t + 128] for t in range(count)]
    return torch.from_numpy(np.stack(frames).astype(np.uint8)).to(DEVICE)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FEW)
def test_batches_give_the_same_flow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(graphs.VARIABLE, "1")
    replayed = estimator(name, backend="torch", device=DEVICE, **FEW[name])
    assert replayed.kept_bytes_per_pixel == graphs.KEPT * replayed.bytes_per_pixel
    monkeypatch.setenv(graphs.VARIABLE, "0")
    plain = estimator(name, backend="torch", device=DEVICE, **FEW[name])
    assert plain.kept_bytes_per_pixel == 0
    # Each call is faster than the one before, so that the graph is kept.
    monkeypatch.setattr(graphs, "timed", lambda call, _device: (call(), -next(COUNT)))
    results = []
    for number, count in enumerate((9, 9, 9, 6, 9)):
        frames = frames_of(count, number)
        results.append((replayed.sequence(frames), plain.sequence(frames)))
    assert len(replayed._graphs._graphs) == 1  # type: ignore[attr-defined]
    for number, (one, other) in enumerate(results):
        # Sums over a batch of another size may be rounded otherwise.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 if number == 3 else 0, equal_nan=True)


@pytest.mark.gpu
def test_an_error_while_recording_leaves_the_gpu_usable() -> None:
    run = graphs.Graphs()

    def waits(frames: torch.Tensor) -> torch.Tensor:
        return frames * float(frames.sum())

    for _ in range(3):
        assert (run(waits, torch.ones(2, 2, device=DEVICE)) == 4).all()
    assert is_usable(DEVICE)
    # And torch's allocator frees memory.
    large = torch.empty(1 << 28, device=DEVICE)
    reserved = torch.cuda.memory_reserved()
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - (1 << 30)
