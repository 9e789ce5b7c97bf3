"""Our trackers against the trajectories of a published dense tracker, on its own test sequence.

The reference (Wang et al., Dense Trajectories, IJCV 2013) follows points through median-filtered Farneback
flow for 15 frames. It is another program's result, not ground truth: small distances
mean that ours follows the same points. Its points lie between those of our grid, so both are tracked here from
the reference's start, by the rules of `m3flow.trajectories.track` written out as a plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from m3flow.flow import estimator
from m3flow.scoring.tracks import tracks_of_text
from m3flow.videos.frames import Frames

LENGTH = 15
MEDIAN = 5
# The parameters of the reference's flow, as far as published.
ITS_FARNEBACK = {
    "scale": 2**-0.5,
    "levels": 8,
    "window": 11,
    "iterations": 2,
    "poly_n": 7,
    "poly_sigma": 1.5,
    "gaussian": True,
}


def reference_rows(
    folder: Path, flows: dict[str, Callable[[np.ndarray], np.ndarray]]
) -> Iterator[dict[str, Any]]:
    """Mean and median distance from the reference after 6 and 15 steps, in pixels."""
    reference = tracks_of_text(next(folder.glob("*.traj.tsv.gz")))
    tracks, starts = reference.positions, reference.start
    frames = np.stack(list(Frames(next(folder.glob("*.avi")))))[: starts.max() + LENGTH + 1]
    moved = np.linalg.norm(tracks - tracks[:, :1], axis=-1)
    yield {"flow": "none", "tracking": "", "median": False, **distances(moved)}
    its_own = estimator("farneback", backend="opencv", **ITS_FARNEBACK).sequence
    for name, flow in {**flows, "farneback with the reference's parameters": its_own}.items():
        field = flow(frames)
        smoothed = np.stack([[cv2.medianBlur(c, MEDIAN) for c in f] for f in field])
        for median, used in ((False, field), (True, smoothed)):
            for tracking in ("integer", "subpixel"):
                followed = follow(used, tracks[:, 0], starts, tracking)
                apart = np.linalg.norm(followed - tracks, axis=-1)
                yield {"flow": name, "tracking": tracking, "median": median, **distances(apart)}


def follow(flow: np.ndarray, points: np.ndarray, starts: np.ndarray, tracking: str) -> np.ndarray:
    """Points [N, 2] from their start frames on, as read from the stored steps: [N, 16, 2]."""
    height, width = flow.shape[2:]
    limits = np.array([width - 1, height - 1])
    result = np.empty((len(points), LENGTH + 1, 2))
    position = np.rint(points) if tracking == "integer" else points.copy()
    result[:, 0] = points
    for step in range(LENGTH):
        position = position.clip(0, limits)
        for axis in (0, 1):
            component = flow[:, axis]
            place = [starts + step, position[:, 1], position[:, 0]]
            order = 0 if tracking == "integer" else 1
            read = map_coordinates(component, place, order=order, output=float, mode="nearest")
            result[:, step + 1, axis] = np.trunc(read) if tracking == "integer" else read
        position = position + result[:, step + 1]
        result[:, step + 1] = position if tracking == "subpixel" else result[:, step] + result[:, step + 1]
    return result


def distances(apart: np.ndarray) -> dict[str, Any]:
    """[N, 16] distances in pixels -> their mean and median after 6 and after 15 steps."""
    return {
        f"{name}_{steps}": round(float(value(apart[:, steps])), 3)
        for steps in (6, LENGTH)
        for name, value in (("mean", np.mean), ("median", np.median))
    } | {"tracks": len(apart)}
