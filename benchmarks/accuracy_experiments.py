"""Experiments to improve trajectories: part of `accuracy.py`.

- a median filter of the flow before tracking, as dense trajectories have it (Wang et al., IJCV 2013);
- forward-backward agreement: does it tell wrong trajectories from right ones, does averaging help;
- Farneback's parameters;
- the bound of the quantisation, for slow motion;
- following the real pixel while storing the motion without the camera's, as improved dense trajectories
  do (Wang and Schmid, ICCV 2013), against following the compensated flow itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from m3flow.camera import put_camera_back
from m3flow.camera.compensation import MotionEstimator
from m3flow.flow import estimator
from m3flow.results.quantisation import quantise, restore
from m3flow.scoring.judge import LENGTH, Judge, rounded, summary
from m3flow.scoring.scenes import Scene, make_scene, pixel_grid
from m3flow.trajectories.tracking import track

Flow = Callable[[np.ndarray], np.ndarray]
STUDIED = ("farneback", "dis")
MEDIANS = (3, 5)
AGREES = 1.0  # px
NOISE = 4.0  # grey levels
FARNEBACK: dict[str, dict[str, Any]] = {
    "defaults": {},
    "gaussian window": {"gaussian": True},
    "poly_n 7": {"poly_n": 7, "poly_sigma": 1.5},
    "gaussian window, poly_n 7": {"gaussian": True, "poly_n": 7, "poly_sigma": 1.5},
    "gaussian window 21": {"gaussian": True, "window": 21},
    "scale 0.8, gaussian window 21": {"gaussian": True, "window": 21, "scale": 0.8, "levels": 10},
}


def run(scenes: dict[str, Scene], flows: dict[str, Flow]) -> dict[str, list[dict[str, Any]]]:
    studied = {name: flow for name, flow in flows.items() if name in STUDIED}
    pairs = [(scene, name, flow) for scene in scenes.values() for name, flow in studied.items()]
    return {
        "median_filter": [row for pair in pairs for row in median_rows(*pair)],
        "forward_backward": [row for pair in pairs for row in forward_backward_rows(*pair)],
        "farneback": [row for scene in scenes.values() for row in farneback_rows(scene)],
        "bound": [row for scene in scenes.values() for row in bound_rows(scene)],
        "follow": [row for scene in scenes.values() if scene.camera_moves for row in follow_rows(scene)],
    }


def median_rows(scene: Scene, name: str, flow: Flow) -> Iterator[dict[str, Any]]:
    judge = Judge(scene)
    for noise in (0.0, NOISE):
        field = flow(make_scene(scene.name, noise=noise).frames)
        for size in (0, *MEDIANS):
            smooth = np.stack([[cv2.medianBlur(c, size) for c in f] for f in field]) if size else field
            yield {"on": scene.name, "flow": name, "noise": noise, "median": size, **judge(tracked(smooth))}


def farneback_rows(scene: Scene) -> Iterator[dict[str, Any]]:
    judge = Judge(scene)
    for name, parameters in FARNEBACK.items():
        flow = estimator("farneback", backend="opencv", **parameters).sequence(scene.frames)
        yield {"on": scene.name, "parameters": name, **judge(tracked(flow))}


def forward_backward_rows(scene: Scene, name: str, flow: Flow) -> Iterator[dict[str, Any]]:
    """Trajectories with forward-backward consistent flow, against the others; and the mean of both flows."""
    judge = Judge(scene)
    forward = flow(scene.frames)
    # Backward from t + 1 to t, read at the new position of the pixel of t.
    reverse = flow(scene.frames[::-1])[::-1]
    back = np.stack([pulled(reverse[t], forward[t]) for t in range(len(forward))])
    apart = np.linalg.norm(forward + back, axis=1)
    errors = judge.errors(tracked(forward))
    worst = worst_on_the_way(judge, forward, apart)
    agrees, seen = worst < AGREES, judge.seen
    averaged = judge.errors(tracked((forward - back) / 2))
    yield {
        "on": scene.name,
        "flow": name,
        "disagree": rounded((~agrees)[seen].mean()),
        "mean_where_agree": rounded(errors[seen & agrees].mean()),
        "mean_where_not": rounded(errors[seen & ~agrees].mean()) if (seen & ~agrees).any() else None,
        "mean": rounded(errors[seen].mean()),
        "mean_of_both_flows": rounded(averaged[seen].mean()),
    }


def worst_on_the_way(judge: Judge, flow: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """The largest inconsistency [T, H, W] on the path of each point: float64 [N, P]."""
    height, width = apart.shape[1:]
    features = tracked(flow)
    steps = features.reshape(2, LENGTH, len(judge.windows), -1).transpose(1, 2, 3, 0).astype(float)
    positions = judge.grid + np.concatenate([np.zeros_like(steps[:1]), steps.cumsum(axis=0)])
    worst = np.zeros(positions.shape[1:3])
    for step in range(LENGTH):
        x, y = np.moveaxis(positions[step].clip(0, [width - 1, height - 1]), -1, 0).astype(int)
        frame = np.array(judge.windows)[:, None] + step
        worst = np.maximum(worst, apart[frame, y, x])
    return worst


def bound_rows(scene: Scene) -> Iterator[dict[str, Any]]:
    """Exact flow through 8 bits with smaller bounds."""
    judge = Judge(scene)
    for bound in (20.0, 10.0, 5.0):
        if np.abs(scene.flow).max() < bound:
            read = restore(quantise(scene.flow.copy(), bound), bound)
            yield {"on": scene.name, "bound": bound, **judge(tracked(read))}


def follow_rows(scene: Scene) -> Iterator[dict[str, Any]]:
    """Stored motion without the camera's: the distance of its sum over L steps from the true sum."""
    exact = scene.residual
    yield from follow_both(scene, "exact", exact, scene.homographies)
    quantised = restore(quantise(exact.copy(), 20.0), 20.0)
    yield from follow_both(scene, "exact, 8 bits", quantised, scene.homographies)
    for name in STUDIED:
        motion = MotionEstimator(estimator(name, backend="opencv"), camera="warp")(scene.frames)
        assert motion.homographies is not None
        residual = restore(quantise(np.asarray(motion.flow), 20.0), 20.0)
        yield from follow_both(scene, f"{name}, 8 bits", residual, motion.homographies)


def follow_both(
    scene: Scene, name: str, residual: np.ndarray, homographies: np.ndarray
) -> Iterator[dict[str, Any]]:
    judge = Judge(scene)
    true = np.stack([true_motion(scene, tracks, n) for n, tracks in enumerate(judge.tracks)])
    pixels = follow_pixels(residual, put_camera_back(residual, homographies), judge)
    flow_itself = judge.ends(tracked(residual)) - judge.grid
    for track_name, found in (("compensated flow", flow_itself), ("pixels", pixels)):
        errors = np.linalg.norm(found - true, axis=-1)
        for part, points in (
            ("object", judge.seen & judge.on_object),
            ("background", judge.seen & ~judge.on_object),
        ):
            if points.any():
                row = {"on": scene.name, "flow": name, "follows": track_name, "part": part}
                yield row | summary(errors[points])


def true_motion(scene: Scene, tracks: np.ndarray, start: int) -> np.ndarray:
    """The sum over the steps of each point's motion without the camera's: tracks [L+1, P, 2] -> [P, 2]."""
    total = np.zeros_like(tracks[0])
    for step in range(len(tracks) - 1):
        back = np.linalg.inv(scene.homographies[start + step])
        homogeneous = np.concatenate([tracks[step + 1], np.ones((len(total), 1))], axis=1) @ back.T
        total += homogeneous[:, :2] / homogeneous[:, 2:] - tracks[step]
    return total


def follow_pixels(residual: np.ndarray, whole: np.ndarray, judge: Judge) -> np.ndarray:
    """The stored sum for points that follow the total flow: float64 [N, P, 2], rounded as stored."""
    height, width = residual.shape[2:]
    result = []
    for start in judge.windows:
        position = judge.grid.copy()
        walked = np.zeros_like(position)
        for step in range(LENGTH):
            position = position.clip(0, [width - 1, height - 1])
            walked += bilinear(residual[start + step], position)
            position = position + bilinear(whole[start + step], position)
        result.append(np.floor(walked + 0.5))
    return np.stack(result)


def bilinear(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float32 [2, H, W] at points [P, 2] -> [P, 2]."""
    place = points.T[::-1]
    return np.stack([map_coordinates(c, place, order=1, output=float) for c in field], axis=-1)


def pulled(field: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`field` [2, H, W] read at p + flow(p)."""
    x, y = (pixel_grid(*flow.shape[1:]).transpose(2, 0, 1) + flow).astype(np.float32)
    return np.stack([cv2.remap(c, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for c in field])


def tracked(flow: np.ndarray) -> np.ndarray:
    return np.asarray(track(flow, length=LENGTH)[0])
