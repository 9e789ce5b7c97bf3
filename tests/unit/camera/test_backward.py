"""Backward flow, against the exact motion of a scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.camera.backward import backward_flow
from m3flow.flow import estimator
from m3flow.scoring.scenes import make_scene


def flow_backward(backend: str, frames: np.ndarray, step: int, homographies: np.ndarray | None) -> np.ndarray:
    given = frames if backend == "opencv" else torch.from_numpy(frames.copy())
    return np.asarray(backward_flow(estimator("dis", backend=backend), given, step, homographies))


@pytest.mark.parametrize("backend", ["opencv", "torch"])
@pytest.mark.parametrize("size", [(96, 128), (95, 131), (60, 80)])
def test_it_undoes_the_motion_at_any_size(backend: str, size: tuple[int, int]) -> None:
    scene = make_scene("translation", frames=4, height=size[0], width=size[1])
    for step in (1, 2):
        back = flow_backward(backend, scene.frames, step, None)
        assert back.shape == (4 - step, 2, *size) and back.dtype == np.float32
        middle = back[..., 16:-16, 16:-16]
        np.testing.assert_allclose(np.median(middle, axis=(0, 2, 3)), (-3.3 * step, 1.7 * step), rtol=0.1)


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_camera_motion_is_removed_as_from_the_forward_flow(backend: str) -> None:
    scene = make_scene("translation", frames=3, height=96, width=128)
    back = flow_backward(backend, scene.frames, 1, scene.homographies.astype(np.float32))
    assert np.abs(back[..., 16:-16, 16:-16]).mean() < 0.2
