"""Frame pairs for the estimator tests: real clips, ground truth, and a moved texture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from skimage import data as textures

DEMO_CLIPS = ["animation/bigbuckbunny.mp4", "street/bikes.mp4", "talking/carphone_pristine.mp4"]
SHARED_CLIPS = [
    "UCF101/UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    "hmdb51/videos/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "hmdb51/videos/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
    "kinetics400/train_video/arm_wrestling/demo.mp4",
    "kinetics400/train_video/using_segway/SOX5yA1l24A.mp4",
    "kinetics400/train_video/flipping_pancake/flipping_a_pancake.mkv",
]
TALLEST = 256


@dataclass
class Pair:
    """Two grey frames uint8 [1, H, W], the true flow [1, 2, H, W], and where it is known [1, H, W]."""

    previous: np.ndarray
    current: np.ndarray
    flow: np.ndarray
    known: np.ndarray

    def crop(self, rows: slice, columns: slice) -> Pair:
        """A part of the frames."""
        arrays = (self.previous, self.current, self.flow, self.known)
        return Pair(*(np.ascontiguousarray(array[..., rows, columns]) for array in arrays))

    def error(self, flow: np.ndarray) -> float:
        """The mean end-point error of `flow`, in pixels."""
        return float(endpoint_distance(flow, self.flow)[self.known].mean())


def endpoint_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The end-point distance of two flows [B, 2, H, W] per pixel: [B, H, W]."""
    return np.hypot(*np.moveaxis(np.asarray(first) - np.asarray(second), 1, 0))


def clip_frames(clips: Path, clip: str, start: int, count: int) -> np.ndarray:
    """Grey frames uint8 [count, H, W] of a real clip, at a size usual in data sets."""
    video = cv2.VideoCapture(str(clips / clip))
    frames = [video.read()[1] for _ in range(start + count)][start:]
    scale = min(1, TALLEST / frames[0].shape[0])
    small = [cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in small])


def ground_truth(shared_data: Path, name: str) -> Pair:
    """ "rubberwhale", "sintel_alley_1" or "chairs"; occluded pixels count as unknown."""
    folder = shared_data / "flow_gt" / name
    pattern = "img{}.ppm" if name == "chairs" else "frame{}.png"
    frames = [cv2.imread(str(folder / pattern.format(i)), cv2.IMREAD_GRAYSCALE)[None] for i in (1, 2)]
    flow = cv2.readOpticalFlow(str(folder / "flow.flo")).transpose(2, 0, 1)[None]
    known = (np.abs(flow) < 1e9).all(1)
    for mask in ("invalid.png", "occlusions.png"):
        if (folder / mask).exists():
            known &= cv2.imread(str(folder / mask), cv2.IMREAD_GRAYSCALE)[None] == 0
    return Pair(frames[0], frames[1], flow, known)


def moved_texture(height: int, width: int, matrix: tuple[tuple[float, ...], ...], margin: int = 8) -> Pair:
    """A real texture and the same one under the affine map x' = matrix · (x, y, 1), with exact flow.

    The map is about the frame's centre. Known: pixels that stay `margin` inside the frame.
    """
    border = 60
    tiles = (-(-(height + 2 * border) // 512), -(-(width + 2 * border) // 512))
    texture = cv2.GaussianBlur(np.tile(textures.gravel(), tiles), (0, 0), 1)
    full = np.array(matrix, np.float64)
    centre = np.array([border + (width - 1) / 2, border + (height - 1) / 2])
    about_centre = np.column_stack((full[:, :2], full[:, 2] + centre - full[:, :2] @ centre))
    moved = cv2.warpAffine(texture, about_centre, texture.shape[::-1], flags=cv2.INTER_CUBIC)
    window = np.s_[None, border : border + height, border : border + width]
    y, x = np.mgrid[border : border + height, border : border + width].astype(np.float64)
    target = np.einsum("ij,jhw->ihw", about_centre, np.stack((x, y, np.ones_like(x))))
    flow = (target - np.stack((x, y)))[None].astype(np.float32)
    place = target - border
    known = (place.min(0) >= margin) & (place[0] < width - margin) & (place[1] < height - margin)
    known[:margin] = known[-margin:] = known[:, :margin] = known[:, -margin:] = False
    return Pair(texture[window].copy(), moved[window].copy(), flow, known[None])


TRANSLATION = ((1.0, 0.0, 3.25), (0.0, 1.0, -1.5))
ZOOM = ((1.02, 0.0, 0.0), (0.0, 1.02, 0.0))
