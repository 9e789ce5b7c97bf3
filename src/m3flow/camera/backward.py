"""The flow back, from each pair's later frame to its earlier one, in the view that the flow forth was computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from m3flow.flow.base import Estimator, is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array


def backward_flow(estimator: Estimator, frames: Array, step: int, homographies: Array | None) -> Array:
    """The flow from frame t + step to frame t for all t: uint8 [F, H, W] -> float32 [F - step, 2, H, W].

    Parameters
    ----------
    homographies: float32 [F - step, 3, 3], the camera's motion that was taken out of the flow forth: the later
        frame is then resampled into the earlier one's view, as it was for that. None: the frames as they are.
    """
    previous, current = frames[:-step], frames[step:]
    if homographies is not None:
        current = _resampled(current, homographies, previous)
    return estimator(current, previous)


def _resampled(current: Array, homographies: Array, previous: Array) -> Array:
    """The later frames of moving cameras in the earlier ones' view; the others as they are."""
    if is_tensor(current):
        import torch

        from m3flow.camera import compensation_torch

        matrices = torch.as_tensor(homographies, device=current.device)
        moving = (matrices != torch.eye(3, device=current.device)).flatten(1).any(1)
        resampled = compensation_torch.resample(torch.as_tensor(current), matrices, torch.as_tensor(previous))
        return torch.where(moving[:, None, None], resampled, torch.as_tensor(current))
    from m3flow.camera.compensation_opencv import resample

    return np.stack(
        [
            np.asarray(later) if (matrix == np.eye(3)).all() else resample(later, matrix, earlier)
            for later, matrix, earlier in zip(current, homographies, previous, strict=True)
        ]
    )
