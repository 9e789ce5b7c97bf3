"""Accuracy of flow and trajectories against ground truth.

    python benchmarks/accuracy.py                 # about 9 minutes of one core
    python benchmarks/accuracy.py --scenes slow fast --estimators farneback

The truth comes from `m3flow.scoring.scenes` (real textures moved by known matrices) and, if they are next to the
checkout, from published pairs with ground-truth flow and from a published dense tracker's trajectories.

Trajectories are evaluated as read from the file: the start of a point plus its stored whole-pixel
displacements over L = 6 steps, against the true position. Points that leave the
frame or are occluded on the way are excluded.

Writes benchmarks/results/accuracy.json; `accuracy_table.py` makes docs/accuracy.md of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import machine
import tables
from m3flow.camera.compensation import MotionEstimator
from m3flow.flow import ESTIMATORS, estimator
from m3flow.results.forms.mp4 import Mp4Writer
from m3flow.results.quantisation import Quantisation
from m3flow.results.stored_flow import load_flow
from m3flow.scoring.estimators import encode
from m3flow.scoring.judge import LENGTH, Judge, rounded
from m3flow.scoring.scenes import SCENES, Scene, make_scene
from m3flow.trajectories.motion_vectors import read_motion_vectors, trajectories_from_motion_vectors
from m3flow.trajectories.tracking import track

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.json"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BOUND = 20.0
PAIRS = (0, 4, 8)  # the frames of a scene whose flow is evaluated
TRACKINGS = ("integer", "subpixel")
CODECS = ("h264-lossless", "mpeg4")
Flow = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    scenes = {name: make_scene(name) for name in options.scenes}
    flows = {name: flow_of(name) for name in options.estimators}
    result: dict[str, Any] = {"machine": machine.describe(), "length": LENGTH}
    result["flow"] = list(flow_rows(scenes, flows)) + list(ground_truth_rows(flows))
    result["trajectories"] = [row for scene in scenes.values() for row in trajectory_rows(scene, flows)]
    if (SHARED / "track_gt").is_dir():
        from accuracy_reference import reference_rows

        result["reference_tracks"] = list(reference_rows(SHARED / "track_gt", flows))
    if not options.no_experiments:
        import accuracy_experiments

        result["experiments"] = accuracy_experiments.run(scenes, flows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(tables.ESTIMATORS))
    parser.add_argument("--no-experiments", action="store_true", help="only the tables, no variants")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the JSON")
    return parser.parse_args()


def flow_of(name: str) -> Flow:
    """uint8 [F, H, W] -> float32 [F-1, 2, H, W], on the CPU, as computed by a run with camera none."""
    motion = MotionEstimator(estimator(name, device="cpu"), camera="none")
    if motion.estimator.backend == "opencv":
        return lambda frames: np.asarray(motion(frames).flow)
    return lambda frames: np.asarray(motion(torch.from_numpy(frames.copy())).flow)


def flow_rows(scenes: dict[str, Scene], flows: dict[str, Flow]) -> Iterator[dict[str, Any]]:
    """End-point error of the flow on the pixels that stay visible, in pixels."""
    for scene in scenes.values():
        for name, flow in flows.items():
            errors = [
                np.linalg.norm(flow(scene.frames[t : t + 2])[0] - scene.flow[t], axis=0)[scene.visible[t]]
                for t in PAIRS
            ]
            yield {"on": scene.name, "estimator": name, "epe": rounded(np.concatenate(errors).mean())}


def ground_truth_rows(flows: dict[str, Flow]) -> Iterator[dict[str, Any]]:
    """The same on published pairs with ground truth, if they are on this machine."""
    if not (SHARED / "flow_gt").is_dir():
        return
    for folder in sorted((SHARED / "flow_gt").iterdir()):
        truth = cv2.readOpticalFlow(str(folder / "flow.flo")).transpose(2, 0, 1)
        known = (np.abs(truth) < 1e9).all(axis=0)
        for name in ("invalid.png", "occlusions.png"):
            if (folder / name).exists():
                known &= cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE) == 0
        pictures = sorted(p for p in folder.iterdir() if p.stem in ("frame1", "frame2", "img1", "img2"))
        frames = np.stack([cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in pictures])
        for name, flow in flows.items():
            error = np.linalg.norm(flow(frames)[0] - truth, axis=0)[known].mean()
            yield {"on": folder.name, "estimator": name, "epe": rounded(error)}


def trajectory_rows(scene: Scene, flows: dict[str, Flow]) -> Iterator[dict[str, Any]]:
    """The distance from the true position after L steps, for each method."""
    judge = Judge(scene)
    yield {"on": scene.name, "flow": "none", "codec": "", "tracking": "", **judge.still()}
    for name, flow in {"exact": lambda _: scene.flow, **flows}.items():
        field = flow(scene.frames)
        for codec in ("", *CODECS):
            read = stored(field, codec) if codec else field
            for tracking in TRACKINGS:
                features, _ = track(read, length=LENGTH, tracking=tracking)
                row = {"on": scene.name, "flow": name, "codec": codec, "tracking": tracking}
                yield row | judge(np.asarray(features))
    for codec in ("mpeg4", "libx264"):
        with tempfile.TemporaryDirectory() as folder:
            path = encode(Path(folder) / "scene.mp4", scene.frames, codec)
            features, _ = trajectories_from_motion_vectors(read_motion_vectors(path), length=LENGTH)
        row = {"on": scene.name, "flow": "motion vectors", "codec": codec, "tracking": "subpixel"}
        yield row | judge(features)


def stored(flow: np.ndarray, codec: str) -> np.ndarray:
    """The flow as read back from x.mp4 and y.mp4."""
    height, width = flow.shape[2:]
    with tempfile.TemporaryDirectory() as folder:
        with Mp4Writer(Path(folder), codec=codec, rate=Fraction(25), width=width, height=height) as writer:
            writer.write(np.asarray(Quantisation(BOUND, dither=True).stored(flow)))
            writer.close({"settings": {"bound": BOUND}})
        return load_flow(folder)


if __name__ == "__main__":
    main()
