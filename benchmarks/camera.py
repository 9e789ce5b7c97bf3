"""Accuracy and cost of estimating the camera motion and removing it from the flow.

    python benchmarks/camera.py                  # 3 to 10 minutes on one core
    python benchmarks/camera.py --device cuda    # the torch rows on a GPU

- schemes: error on the still background and on the moving object, for cameras that move the frame's corners
  by up to 3, 8 and 20 px, and the cost in units of one pass without a camera in the same run;
- homography: error and cost of the camera search, by method of matching the frames;
- borders: comparison of fillings where the resampled frame has no content;
- clips: on real video, how often a homography is accepted and how much of the frames' difference it explains
  (only with --clips FOLDER, or where real clips are beside the checkout).

Writes benchmarks/results/camera.json. Synthetic scenes come from `m3flow.scoring.camera_pairs`. On a CPU, time is
processor time on one thread, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import machine
from m3flow.camera import (
    camera_flow,
    camera_motion,
    candidates_opencv,
    remove_camera,
    thresholds,
)
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.compensation_opencv import resample
from m3flow.flow import estimator
from m3flow.scoring.camera_pairs import camera_pair
from m3flow.scoring.scenes import Scene

REACHES = (3.0, 8.0, 20.0)
SCHEMES = [
    ("farneback", "opencv", ("one-pass", "two-pass")),
    ("farneback", "torch", ("one-pass", "two-pass")),
    ("dis", "opencv", ("one-pass", "two-pass")),
]
REPOSITORY = Path(__file__).resolve().parent.parent
CLIPS = REPOSITORY.parent / "shared" / "data" / "videos"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="torch device of the torch rows (cpu)")
    parser.add_argument("--pairs", type=int, default=24, help="scenes for each camera motion (24)")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="folder of real clips")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "camera.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    scenes = {reach: [camera_pair(seed, reach) for seed in range(options.pairs)] for reach in REACHES}
    result = {
        "machine": machine.describe(),
        "device": options.device,
        "pairs_for_each_reach": options.pairs,
        "size": "320x240",
        "schemes": measure_schemes(scenes, options.device),
        "homography": measure_homographies(scenes, options.device),
        "borders": measure_borders(scenes),
        "clips": measure_clips(options.clips) if options.clips.is_dir() else [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {options.output}")


def measure_schemes(scenes: dict[float, list[Scene]], device: str) -> list[dict[str, Any]]:
    rows = []
    for name, backend, schemes in SCHEMES:
        flow = estimator(name, backend=backend, device=device if backend == "torch" else "cpu")
        clock = Clock(flow.device)
        plain = MotionEstimator(flow, camera="none")
        runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {"subtract": partial(subtract, plain)}
        for scheme in schemes:
            runs[scheme] = partial(residual, MotionEstimator(flow, scheme=scheme))
        for reach, pairs in scenes.items():
            # Run everything to compare on a scene before the next one, as the machine's speed varies.
            done: dict[str, list[Any]] = {scheme: [] for scheme in ("plain", *runs)}
            for scene in pairs:
                done["plain"].append(clock.time(plain, scene.frames))
                for scheme, run in runs.items():
                    done[scheme].append(clock.time(run, scene.frames))
            for scheme in runs:
                flows, seconds = zip(*done[scheme], strict=True)
                errors = np.array([both_errors(f[0], s) for f, s in zip(flows, pairs, strict=True)])
                ratios = np.array(seconds) / [second for _, second in done["plain"]]
                row = {
                    "estimator": name,
                    "backend": backend,
                    "scheme": scheme,
                    "camera_px": reach,
                    "background_px": rounded(errors[:, 0].mean()),
                    "object_px": rounded(errors[:, 1].mean()),
                    "cost_in_passes": rounded(np.median(ratios)),
                    "ms": rounded(1e3 * np.median(seconds)),
                }
                show(rows, row)
    return rows


def residual(chosen: MotionEstimator, frames: np.ndarray) -> np.ndarray:
    return np.asarray(chosen(frames).flow)


def subtract(plain: MotionEstimator, frames: np.ndarray) -> np.ndarray:
    """The total flow, with the camera motion subtracted afterwards."""
    found = MotionEstimator(plain.estimator).select(frames)
    return remove_camera(np.asarray(plain(frames).flow), found.homographies)


def both_errors(residual: np.ndarray, scene: Scene) -> tuple[float, float]:
    """Mean error in px on the background, 12 px and more from the object, and on the object."""
    error = np.linalg.norm(residual - scene.residual[0], axis=0)
    near = cv2.dilate(scene.mask[0].astype(np.uint8), np.ones((25, 25))).astype(bool)
    return float(error[~near].mean()), float(error[scene.mask[0]].mean())


def measure_homographies(scenes: dict[float, list[Scene]], device: str) -> list[dict[str, Any]]:
    farneback = estimator("farneback", backend="opencv")
    rows = []
    for reach, pairs in scenes.items():
        flows = [np.asarray(farneback.sequence(scene.frames))[0] for scene in pairs]
        for name, find in finders(device).items():
            clock = Clock(device if name.startswith("torch") else "cpu")
            done = [clock.time(find, s.frames, flow) for s, flow in zip(pairs, flows, strict=True)]
            errors = [homography_error(h, s) for (h, _), s in zip(done, pairs, strict=True)]
            row = {
                "matches": name,
                "camera_px": reach,
                "mean_px": rounded(np.mean(errors)),
                "median_px": rounded(np.median(errors)),
                "below_quarter_px": rounded(np.mean(np.array(errors) < 0.25)),
                "ms": rounded(1e3 * np.median([seconds for _, seconds in done])),
            }
            show(rows, row)
    return rows


def homography_error(found: np.ndarray, scene: Scene) -> float:
    """Mean distance in px between the mapped and the true positions of the frame's pixels."""
    height, width = scene.frames.shape[1:]
    difference = camera_flow(found, height, width) - scene.background_flow[0]
    return float(np.linalg.norm(difference, axis=0).mean())


def finders(device: str) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Ways to find the camera from two frames and their flow; the first and the last are the package's."""
    sift, orb = cv2.SIFT_create(500), cv2.ORB_create(500, fastThreshold=10)

    on_opencv = MotionEstimator(estimator("farneback", backend="opencv"))
    in_torch = MotionEstimator(estimator("farneback", backend="torch", device=device))

    def selected(motion: MotionEstimator, frames: np.ndarray, _flow: np.ndarray) -> np.ndarray:
        return motion.select(frames).homographies[0]

    return {
        "corners, tracked (OpenCV)": partial(selected, on_opencv),
        "corners on the flow": lambda frames, flow: ransac(*on_flow(frames, flow)),
        "SIFT": lambda frames, _: ransac(*described(sift, cv2.NORM_L2, frames)),
        "ORB": lambda frames, _: ransac(*described(orb, cv2.NORM_HAMMING, frames)),
        "corners on the flow, and SIFT": lambda frames, flow: ransac(
            *map(
                np.concatenate, zip(on_flow(frames, flow), described(sift, cv2.NORM_L2, frames), strict=True)
            )
        ),
        "torch: corners, tracked": partial(selected, in_torch),
    }


def on_flow(frames: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = candidates_opencv.corners(frames[0])
    x, y = start.astype(int).T
    end = start + flow[:, y, x].T
    return near(start, end)


def described(detector: Any, norm: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Feature points of both frames with mutually nearest descriptors."""
    (keys, features), (keys_after, features_after) = (detector.detectAndCompute(f, None) for f in frames)
    if features is None or features_after is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    matches = cv2.BFMatcher(norm, crossCheck=True).match(features, features_after)
    start = np.array([keys[match.queryIdx].pt for match in matches], np.float32).reshape(-1, 2)
    end = np.array([keys_after[match.trainIdx].pt for match in matches], np.float32).reshape(-1, 2)
    return near(start, end)


def near(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.linalg.norm(end - start, axis=1) <= thresholds.MATCH_RADIUS
    return start[kept], end[kept]


def ransac(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    if len(start) <= thresholds.MATCHES_NEEDED:
        return np.eye(3)
    found, inliers = cv2.findHomography(start, end, cv2.RANSAC, thresholds.INLIER_DISTANCE)
    return np.eye(3) if found is None or inliers.sum() <= thresholds.INLIERS_NEEDED else found


def measure_borders(scenes: dict[float, list[Scene]]) -> list[dict[str, Any]]:
    """Background error of a pass on the resampled frame, with three border fills and the true homography."""
    farneback = estimator("farneback", backend="opencv")
    rows = []
    for reach, pairs in scenes.items():
        errors: dict[str, list[float]] = {"previous frame": [], "nearest pixel": [], "black": []}
        for scene in pairs:
            previous, current = scene.frames
            for name, frame in filled(previous, current, scene.homographies[0]).items():
                residual = np.asarray(farneback(previous[None], frame[None]))[0]
                errors[name].append(both_errors(residual, scene)[0])
        for name, values in errors.items():
            show(rows, {"filled_with": name, "camera_px": reach, "background_px": rounded(np.mean(values))})
    return rows


def filled(previous: np.ndarray, current: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    size, flags = previous.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return {
        "previous frame": resample(current, true, previous),
        "nearest pixel": cv2.warpPerspective(
            current, true, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
        ),
        "black": cv2.warpPerspective(current, true, size, flags=flags),
    }


def measure_clips(folder: Path, pairs: int = 30) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(path for path in folder.rglob("*.*") if path.is_file()):
        frames = read(path)
        if len(frames) < 2:
            continue
        selection = MotionEstimator(estimator("farneback", backend="opencv")).select(np.stack(frames))
        starts = [t for t in range(len(frames) - 1) if (frames[t] != frames[t + 1]).any()]
        starts = starts[:: max(1, len(starts) // pairs)]
        if not starts:
            continue
        chosen = [(frames[t], frames[t + 1]) for t in starts]
        found = selection.homographies[starts]
        motion = [camera_motion(h, *frames[0].shape) for h in found]
        before = [difference(*pair) for pair in chosen]
        after = [difference(a, resample(b, h, a)) for (a, b), h in zip(chosen, found, strict=True)]
        row = {
            "clip": path.name,
            "pairs": len(chosen),
            "accepted": rounded(np.mean(selection.accepted[starts])),
            "still": rounded(np.mean(np.array(motion) == 0)),
            "camera_px_median": rounded(np.median(motion)),
            "camera_px_largest": rounded(np.max(motion)),
            "difference_before": rounded(np.mean(before)),
            "difference_after": rounded(np.mean(after)),
        }
        show(rows, row)
    return rows


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Mean absolute difference in grey levels, at most 10 per pixel so that moving objects count little."""
    return float(np.minimum(cv2.absdiff(one, two), 10).mean())


def read(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        decoded, frame = capture.read()
        if not decoded:
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


class Clock:
    """Seconds of a call: processor time on a CPU, wall time including synchronisation on a GPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device.startswith("cuda")

    def time(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        start = self.now()
        result = function(*arguments)
        return result, self.now() - start

    def now(self) -> float:
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def rounded(value: Any) -> float:
    return round(float(value), 3)


def show(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    rows.append(row)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
