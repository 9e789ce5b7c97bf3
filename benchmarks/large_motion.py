"""The error of DIS over motion from 1 to 60 px, OpenCV's and torch's, on scenes with exact motion.

    python benchmarks/large_motion.py [--preset medium] [--seeds N]

Each scene is a textured background that moves by the given distance in a random direction, turning and zooming
slightly, in front of it an ellipse that moves by half that distance more. Errors are over the pixels that stay
visible. Writes benchmarks/results/large_motion.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

import machine
from m3flow.flow import estimator
from m3flow.scoring.scenes import ENLARGED, Ellipse, Scene, about, render, texture, translation, turn

RESULT = Path(__file__).parent / "results" / "large_motion.json"
MOTIONS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 52, 60)
SIZES = {"320x240": (240, 320), "640x360": (360, 640)}
TEXTURES = ("camera", "gravel", "coins", "brick", "astronaut", "grass")


def moving_scene(motion: float, seed: int, height: int, width: int) -> Scene:
    """Two frames; the background moves by `motion` pixels. The same arguments give the same bytes."""
    random = np.random.default_rng([seed, round(motion)])
    back, front = (texture(TEXTURES[(seed + offset) % len(TEXTURES)]) for offset in (0, 3))
    angles = random.uniform(0, 2 * np.pi, 2)
    by, own = (
        translation(size * np.cos(angle), size * np.sin(angle))
        for size, angle in zip((motion, motion / 2), angles, strict=True)
    )
    centre = ((width - 1) / 2, (height - 1) / 2)
    step = by @ about(centre, turn(random.uniform(-1, 1), zoom=random.uniform(0.98, 1.02)))
    middle, middle_of_front = (
        np.array(picture.shape[::-1]) / ENLARGED / 2 - np.array([width, height]) / 2
        for picture in (back, front)
    )
    x, y = middle_of_front + np.array([width, height]) / 2
    outline = Ellipse(float(x), float(y), 0.2 * width, 0.25 * height)
    camera = np.stack([translation(*-middle), step @ translation(*-middle)])
    moved = np.stack([translation(*-middle_of_front), step @ own @ translation(*-middle_of_front)])
    frames = [render(height, width, back, camera[t], front, moved[t], outline) for t in (0, 1)]
    grey = np.clip(np.rint(np.stack(frames)), 0, 255).astype(np.uint8)
    return Scene(f"moving by {motion} px", grey, camera, moved, outline)


def error(flow: np.ndarray, scene: Scene) -> float:
    """The mean end-point error in pixels of a flow [2, H, W], over the pixels that stay visible."""
    return float(np.hypot(*(flow - scene.flow[0]))[scene.visible[0]].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="medium", choices=("ultrafast", "fast", "medium"))
    parser.add_argument("--seeds", type=int, default=12)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for size, (height, width) in SIZES.items():
        for motion in MOTIONS:
            scenes = [moving_scene(motion, seed, height, width) for seed in range(options.seeds)]
            previous, current = (np.stack([scene.frames[t] for scene in scenes]) for t in (0, 1))
            row = {"size": size, "motion_px": motion}
            for backend in ("opencv", "torch"):
                dis = estimator("dis", backend=backend, device="cpu", preset=options.preset)
                errors = [
                    error(one, scene)
                    for one, scene in zip(np.asarray(dis(previous, current)), scenes, strict=True)
                ]
                row[backend] = round(float(np.mean(errors)), 4)
            rows.append(row)
            print(row, flush=True)
    result = {
        "machine": machine.describe(),
        "preset": options.preset,
        "pairs": options.seeds,
        "end_point_error_px": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
