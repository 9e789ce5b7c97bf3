"""Pictures of frame pairs whose camera motion is not found over time, for docs/accuracy.md.

    python benchmarks/camera_pictures.py

Looks through the sequences of benchmarks/camera_hunt.py for the first harmful pair of kinds with a large object, and
writes docs/images/undecided-camera.png: the frame with the true background, and its matches by the motion that
explains them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from camera_hunt import FIRST_SEED, FRAMES, distance, motion_estimator, over_time
from camera_kinds import HEIGHT, WIDTH, Shot, make_shot
from m3flow.camera import camera_flow, candidates_opencv
from m3flow.camera.thresholds import INLIER_DISTANCE
from m3flow.report.canvas import FAINT, Canvas

PICTURE = Path(__file__).resolve().parent.parent / "docs/images/undecided-camera.png"
SHOWN = ("foreground 40-60 %", "foreground 60-85 %", "still, foreground 50-85 %")
MARGIN, HEADING, ROW = 20, 44, HEIGHT + 66
BLUE, ORANGE, GREY = (40, 110, 220), (235, 120, 20), (190, 190, 190)  # RGB


def main() -> None:
    cv2.setNumThreads(1)
    canvas = Canvas(HEADING + ROW * len(SHOWN), 3 * MARGIN + 2 * WIDTH)
    canvas.text(
        MARGIN, 12, "The camera's true motion (blue) and the motion taken for it (orange)", 11, weight="bold"
    )
    for row, kind in enumerate(SHOWN):
        shot, pair, chosen = first_harmful(kind)
        top = HEADING + row * ROW
        canvas.text(MARGIN, top, f"{kind}: frame, its background in colour; matches", 9, FAINT)
        canvas.paste(with_background(shot, pair), MARGIN, top + 22)
        picture, explained = with_matches(shot, pair, chosen)
        canvas.paste(picture, 2 * MARGIN + WIDTH, top + 22)
        canvas.text(MARGIN, top + HEIGHT + 28, explained, 9, FAINT)
    cv2.imwrite(str(PICTURE), canvas.picture()[..., ::-1])
    print(f"written: {PICTURE}")


def first_harmful(kind: str) -> tuple[Shot, int, np.ndarray]:
    """The first shot and pair of a kind whose camera is wrong and worse than none, and the homography chosen."""
    found = motion_estimator("opencv")
    for seed in range(FIRST_SEED + 1000, FIRST_SEED + 1100):
        shot = make_shot(kind, seed, FRAMES)
        for pair, (homography, accepted) in enumerate(over_time(found, shot.frames)):
            background = shot.background[pair]
            true = camera_flow(shot.homographies[pair], HEIGHT, WIDTH)
            error = distance(camera_flow(homography, HEIGHT, WIDTH), true, background)
            if accepted and error > max(1, distance(np.zeros_like(true), true, background)):
                return shot, pair, homography
    raise SystemExit(f"no harmful pair of {kind}")


def with_background(shot: Shot, pair: int) -> np.ndarray:
    """The first frame, tinted where the background is: uint8 [H, W, 3], RGB."""
    picture = np.repeat(shot.frames[pair][..., None], 3, axis=2).astype(float)
    background = shot.background[pair][..., None]
    return np.where(background, 0.6 * picture + 0.4 * np.array(BLUE), picture).astype(np.uint8)


def with_matches(shot: Shot, pair: int, chosen: np.ndarray) -> tuple[np.ndarray, str]:
    """The frame with its matches, coloured by the motion that explains them, and their numbers in words."""
    previous, current = shot.frames[pair : pair + 2]
    start, end = candidates_opencv.track(previous, current, candidates_opencv.corners(previous))
    picture = np.repeat((255 - (255 - previous) // 3)[..., None], 3, axis=2)
    by_camera, by_chosen = (_explained(matrix, start, end) for matrix in (shot.homographies[pair], chosen))
    for one, two, true, taken in zip(start, end, by_camera, by_chosen, strict=True):
        colour = BLUE if true else ORANGE if taken else GREY
        at, to = (tuple(int(v) for v in np.rint(point)) for point in (one, one + 2 * (two - one)))
        cv2.line(picture, at, to, colour, 1, cv2.LINE_AA)
        cv2.circle(picture, at, 2, colour, -1, cv2.LINE_AA)
    words = f"{by_camera.sum()} of {len(start)} matches follow the camera, {by_chosen.sum()} the motion taken for it"
    return picture, words


def _explained(matrix: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    moved = cv2.perspectiveTransform(start[None].astype(np.float64), matrix)[0]
    return np.linalg.norm(moved - end, axis=1) < INLIER_DISTANCE


if __name__ == "__main__":
    main()
