"""Errors of stored trajectories of a scene against the exact positions of its points."""

from __future__ import annotations

from typing import Any

import numpy as np

from m3flow.scoring.scenes import Scene, inside
from m3flow.trajectories.tracking import GRID, OFFSET

LENGTH = 6


class Judge:
    """The true positions of a scene's grid points, and the errors of stored trajectories."""

    def __init__(self, scene: Scene, length: int = LENGTH) -> None:
        height, width = scene.frames.shape[1:]
        columns = OFFSET + GRID * np.arange(width // GRID)
        rows = OFFSET + GRID * np.arange(height // GRID)
        self.grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(float)
        self.length = length
        self.windows = range(len(scene.frames) - length)
        tracks = [scene.tracks(self.grid, start, length) for start in self.windows]
        self.tracks = np.stack(tracks)  # [N, L+1, P, 2]
        self.seen = np.stack([scene.tracks_visible(t, n).all(axis=0) for n, t in enumerate(tracks)])
        self.smooth = self.seen & np.stack([away_from_outline(scene, t, n) for n, t in enumerate(tracks)])
        self.on_object = np.stack([scene.on_object(self.grid, n) for n in self.windows])

    def ends(self, features: np.ndarray) -> np.ndarray:
        """End points of stored displacements int8 [2L, N, rows, columns]: float64 [N, P, 2]."""
        sums = features.reshape(2, self.length, len(self.windows), -1).sum(axis=1, dtype=float)
        return self.grid + sums.transpose(1, 2, 0)

    def errors(self, features: np.ndarray) -> np.ndarray:
        """float64 [N, P], in pixels."""
        return np.linalg.norm(self.ends(features) - self.tracks[:, -1], axis=-1)

    def __call__(self, features: np.ndarray) -> dict[str, Any]:
        errors = self.errors(features)
        per_component = np.abs(self.ends(features) - self.tracks[:, -1]).max(axis=-1)
        return {
            **summary(errors[self.seen]),
            "worst_component_where_smooth": rounded(per_component[self.smooth].max()),
        }

    def still(self) -> dict[str, Any]:
        """The length of the points' motion, which is the error of zero displacements."""
        return summary(np.linalg.norm(self.tracks[:, -1] - self.grid, axis=-1)[self.seen])


def away_from_outline(scene: Scene, tracks: np.ndarray, start: int) -> np.ndarray:
    """Whether each of the tracks [L+1, P, 2] stays 1.5 px away from the object's outline and the border: bool [P]."""
    height, width = scene.frames.shape[1:]
    result = np.ones(tracks.shape[1], bool)
    for step, points in enumerate(tracks):
        here = scene.on_object(points, start + step)
        for shift in ((-1.5, 0), (1.5, 0), (0, -1.5), (0, 1.5)):
            near = points + np.array(shift)
            result &= (scene.on_object(near, start + step) == here) & inside(near, height, width)
    return result


def summary(errors: np.ndarray) -> dict[str, Any]:
    """Mean and 95th percentile in pixels, and the number of points."""
    return {
        "mean": rounded(errors.mean()),
        "p95": rounded(np.percentile(errors, 95)),
        "points": int(errors.size),
    }


def rounded(value: float) -> float:
    return round(float(value), 3)
