"""Random frame pairs with a known homography: a camera motion of given size, and an independently moving object."""

from __future__ import annotations

import cv2
import numpy as np

from m3flow.scoring import scenes

BACKGROUNDS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "immunohistochemistry")
OBJECT_SPEED = 4.0  # px per frame, on the background's plane


def random_homography(
    random: np.random.Generator, height: int, width: int, reach: float, bend: float = 0.25
) -> np.ndarray:
    """A homography that moves the frame's corners by at most `reach` px, one of them by exactly that.

    bend: how much the corners' motions differ from each other, relative to their common motion.
    """
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    motion = random.uniform(-1, 1, 2) + bend * random.uniform(-1, 1, (4, 2))
    motion *= reach / max(np.linalg.norm(motion, axis=1).max(), 1e-9)
    return cv2.getPerspectiveTransform(corners, (corners + motion).astype(np.float32))


def camera_pair(
    seed: int, reach: float, *, height: int = 240, width: int = 320, noise: float = 1.0, still: bool = False
) -> scenes.Scene:
    """Two frames of a photograph under a moving camera, with an ellipse of another one moving in front of it.

    reach: the largest motion of the frame's corners by the camera, in px.
    noise: standard deviation in grey levels; independent for each frame.
    still: without the object.
    """
    random = np.random.default_rng(seed)
    back, front = (scenes.texture(BACKGROUNDS[k]) for k in random.permutation(len(BACKGROUNDS))[:2])
    room = np.array(back.shape[::-1]) / scenes.ENLARGED - np.array([width, height])
    first = scenes.translation(*-(room * random.uniform(0.3, 0.7, 2)))
    camera = np.stack([first, random_homography(random, height, width, reach) @ first])
    placed, outline = None, None
    if not still:
        angle = random.uniform(0, 2 * np.pi)
        own = scenes.translation(OBJECT_SPEED * np.cos(angle), OBJECT_SPEED * np.sin(angle))
        centre = random.uniform(0.3, 0.7, 2) * (width, height)
        radii = random.uniform(0.1, 0.14, 2) * width
        shift = scenes.translation(40, 40)
        outline = scenes.Ellipse(*(centre + 40), *radii)
        onto_first = np.linalg.inv(shift)
        step = camera[1] @ np.linalg.inv(camera[0])
        placed = np.stack([onto_first, step @ own @ onto_first])
    frames = []
    for t in range(2):
        front_matrix = None if placed is None else placed[t]
        picture = scenes.render(height, width, back, camera[t], front, front_matrix, outline)
        picture = picture + random.normal(0, noise, picture.shape)
        frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return scenes.Scene(f"camera {reach} px, {seed}", np.stack(frames), camera, placed, outline)
