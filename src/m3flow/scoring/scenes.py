"""Synthetic scenes with exact motion: real textures moved by known matrices, rendered to grey frames.

A scene is one or two textured planes seen by a camera: the background, and in some scenes an elliptical
object in front of it. The motion of a plane is a 3x3 matrix per frame, so the flow, the camera's
homography and the path of any point through time are computed, not estimated.

Rendering is by inverse mapping. Each pixel is the mean of 3x3 samples inside it (the light that falls
on a pixel's area), and each sample is read from a texture enlarged four times, so that `cv2.remap`'s
rounding of positions (1/32 of a texture pixel) is below 0.01 px of the frame. Beyond its edge a texture
is mirrored. The textures are those in the scikit-image wheel; nothing is downloaded.

Convention
----------
Points and flow are (x, y) in pixels, x to the right, y down; the centre of the first pixel is (0, 0).
Matrices act on column vectors (x, y, 1) and map a frame to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np

SAMPLES = 3  # samples per pixel, along each axis
ENLARGED = 4  # texture pixels per frame pixel, along each axis


@dataclass(frozen=True)
class Ellipse:
    """The object's outline on its own plane: where ((x - cx)/rx)^2 + ((y - cy)/ry)^2 < 1."""

    cx: float
    cy: float
    rx: float
    ry: float

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Whether each of the points [..., 2] of the object's plane lies on the object."""
        x, y = points[..., 0], points[..., 1]
        return ((x - self.cx) / self.rx) ** 2 + ((y - self.cy) / self.ry) ** 2 < 1


@dataclass(frozen=True)
class Scene:
    """Frames with their exact motion.

    Attributes
    ----------
    name: its name in `SCENES`.
    frames: uint8 [F, H, W].
    camera: float64 [F, 3, 3], background plane -> frame t.
    object: float64 [F, 3, 3], the object's plane -> frame t; None without an object.
    outline: the object on its plane; None without an object.
    cut: the first frame that shows another texture; None without a cut. No point before it is visible after it;
        the matrices continue.
    """

    name: str
    frames: np.ndarray
    camera: np.ndarray
    object: np.ndarray | None = None
    outline: Ellipse | None = None
    cut: int | None = None

    @cached_property
    def homographies(self) -> np.ndarray:
        """The camera's motion, frame t -> frame t + 1: float64 [F-1, 3, 3]."""
        return self.camera[1:] @ np.linalg.inv(self.camera[:-1])

    @cached_property
    def mask(self) -> np.ndarray:
        """Whether the centre of each pixel shows the object: bool [F, H, W]."""
        grid = pixel_grid(*self.frames.shape[1:])
        return np.stack([self.on_object(grid, frame) for frame in range(len(self.frames))])

    @cached_property
    def flow(self) -> np.ndarray:
        """The displacement of each pixel from frame t to t + 1: float32 [F-1, 2, H, W], channel 0 is x."""
        return self._flow(self.mask)

    @cached_property
    def background_flow(self) -> np.ndarray:
        """The flow caused by the camera, at every pixel: float32 [F-1, 2, H, W]."""
        return self._flow(np.zeros_like(self.mask))

    @cached_property
    def residual(self) -> np.ndarray:
        """The motion not explained by the camera, in the view of frame t: float32 [F-1, 2, H, W].

        A point p of frame t that moves to q in frame t + 1 has the residual H^-1 q - p with the camera's
        homography H: its displacement once frame t + 1 is resampled into frame t's view. Zero on the background.
        """
        grid = pixel_grid(*self.frames.shape[1:])
        result = np.empty_like(self.flow)
        for t, homography in enumerate(self.homographies):
            seen = grid + self.flow[t].transpose(1, 2, 0)
            result[t] = (apply(np.linalg.inv(homography), seen) - grid).transpose(2, 0, 1)
        return np.where(self.mask[:-1, None], result, 0).astype(np.float32)

    @property
    def camera_moves(self) -> bool:
        return bool(np.abs(self.homographies - np.eye(3)).max() > 1e-9)

    @cached_property
    def visible(self) -> np.ndarray:
        """Whether each pixel of frame t is still visible in frame t + 1: bool [F-1, H, W].

        False where the pixel leaves the frame, where the object covers the background, and at a cut.
        """
        height, width = self.frames.shape[1:]
        grid = pixel_grid(height, width)
        result = []
        for t, flow in enumerate(self.flow):
            target = grid + flow.transpose(1, 2, 0)
            covered = ~self.mask[t] & self.on_object(target, t + 1)
            result.append(inside(target, height, width) & ~covered & (t + 1 != self.cut))
        return np.stack(result)

    def on_object(self, points: np.ndarray, frame: int) -> np.ndarray:
        """Whether each of the points [..., 2] of `frame` shows the object: bool [...]."""
        if self.object is None or self.outline is None:
            return np.zeros(points.shape[:-1], bool)
        return self.outline.holds(apply(np.linalg.inv(self.object[frame]), points))

    def tracks(self, points: np.ndarray, start_frame: int, length: int) -> np.ndarray:
        """Exact positions through time of the points [N, 2] of frame `start_frame`: float64 [length+1, N, 2].

        A point follows the surface that it shows in `start_frame`, object or background, also outside the
        frame and behind the object.
        """
        if not 0 <= start_frame <= start_frame + length < len(self.frames):
            raise ValueError(f"frames {start_frame} to {start_frame + length} of {len(self.frames)}")
        points = np.asarray(points, np.float64)
        follows_object = self.on_object(points, start_frame)[:, None]
        result = np.empty((length + 1, *points.shape))
        result[0] = points
        for step in range(1, length + 1):
            now = start_frame + step
            result[step] = apply(self.camera[now] @ np.linalg.inv(self.camera[start_frame]), points)
            if self.object is not None:
                moved = apply(self.object[now] @ np.linalg.inv(self.object[start_frame]), points)
                result[step] = np.where(follows_object, moved, result[step])
        return result

    def tracks_visible(self, tracks: np.ndarray, start_frame: int) -> np.ndarray:
        """Whether each point of the `tracks` [L+1, N, 2] is inside the frame and not hidden: bool [L+1, N]."""
        height, width = self.frames.shape[1:]
        follows_object = self.on_object(tracks[0], start_frame)
        covered = np.stack([self.on_object(p, start_frame + step) for step, p in enumerate(tracks)])
        visible = inside(tracks, height, width) & (follows_object | ~covered)
        if self.cut is not None and start_frame < self.cut:
            visible[self.cut - start_frame :] = False
        return visible

    def _flow(self, mask: np.ndarray) -> np.ndarray:
        grid = pixel_grid(*self.frames.shape[1:])
        result = np.empty((len(self.frames) - 1, 2, *grid.shape[:2]), np.float32)
        for t, homography in enumerate(self.homographies):
            moved = apply(homography, grid)
            if self.object is not None:
                step = self.object[t + 1] @ np.linalg.inv(self.object[t])
                moved = np.where(mask[t, ..., None], apply(step, grid), moved)
            result[t] = (moved - grid).transpose(2, 0, 1)
        return result


def pixel_grid(height: int, width: int) -> np.ndarray:
    """The centres of all pixels: float64 [H, W, 2] as (x, y)."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height)), axis=-1)


def inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether each of the points [..., 2] lies between the centres of the frame's outermost pixels: bool [...]."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The points [..., 2] moved by a 3x3 matrix: float64 [..., 2]."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def about(centre: tuple[float, float], matrix: np.ndarray) -> np.ndarray:
    """The 3x3 `matrix` applied about the point `centre` instead of the origin."""
    to_centre = translation(*centre)
    return to_centre @ matrix @ np.linalg.inv(to_centre)


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def turn(degrees: float, zoom: float = 1.0) -> np.ndarray:
    """Rotation (clockwise on the screen) and zoom about the origin, 3x3."""
    c, s = zoom * np.cos(np.deg2rad(degrees)), zoom * np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@cache
def texture(name: str) -> np.ndarray:
    """A grey picture of scikit-image, enlarged `ENLARGED` times: float32 [H, W].

    Softened a little first (sigma 0.7 px), as a lens does: detail at the pixel's own size cannot be moved
    by part of a pixel without aliasing.
    """
    from skimage import data

    picture = getattr(data, name)()
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7)
    return cv2.resize(soft, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)


def render(
    height: int,
    width: int,
    background: np.ndarray,
    camera: np.ndarray,
    front: np.ndarray | None = None,
    front_matrix: np.ndarray | None = None,
    outline: Ellipse | None = None,
) -> np.ndarray:
    """One frame, float32 [H, W]: `background` seen through `camera`, with the object in front of it."""
    fine = (pixel_grid(height * SAMPLES, width * SAMPLES) + 0.5) / SAMPLES - 0.5
    samples = _read(background, apply(np.linalg.inv(camera), fine))
    if front is not None and front_matrix is not None and outline is not None:
        on_plane = apply(np.linalg.inv(front_matrix), fine)
        samples = np.where(outline.holds(on_plane), _read(front, on_plane), samples)
    return samples.reshape(height, SAMPLES, width, SAMPLES).mean(axis=(1, 3))


def _read(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An enlarged texture at points [..., 2] given in the texture's own pixels."""
    x, y = np.moveaxis((points + 0.5) * ENLARGED - 0.5, -1, 0).astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@dataclass(frozen=True)
class Recipe:
    """The recipe of a scene: its textures and their motion per frame.

    step: (height, width) -> the camera's motion from one frame to the next, 3x3 in frame coordinates.
    object_step: the same for the object, in the coordinates of the background's plane.
    after_cut: the background's texture from the middle frame on; None without a cut.
    blur: standard deviation in pixels of a Gaussian blur of the frames.
    noise: standard deviation in grey levels of Gaussian noise, independent for each frame.
    """

    background: str
    step: Callable[[int, int], np.ndarray]
    front: str | None = None
    object_step: Callable[[int, int], np.ndarray] | None = None
    after_cut: str | None = None
    blur: float = 0.0
    noise: float = 0.0


def _pan(x: float, y: float) -> Callable[[int, int], np.ndarray]:
    return lambda _height, _width: translation(x, y)


def _centred(matrix: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda height, width: about(((width - 1) / 2, (height - 1) / 2), matrix)


_AFFINE = np.array([[1.012, 0.018, 0.9], [-0.009, 0.991, -0.6], [0, 0, 1]])
_TILT = np.array([[1, 0, 1.5], [0, 1, 0.5], [8e-5, -5e-5, 1]])

SCENES: dict[str, Recipe] = {
    "still": Recipe("camera", _pan(0, 0)),
    "translation": Recipe("gravel", _pan(3.3, -1.7)),
    "rotation": Recipe("coins", _centred(turn(1.5))),
    "zoom": Recipe("brick", _centred(turn(0, zoom=1.02))),
    "affine": Recipe("camera", _centred(_AFFINE)),
    "perspective": Recipe("astronaut", _centred(_TILT)),
    "slow": Recipe("grass", _pan(0.21, -0.13)),
    "fast": Recipe("astronaut", _pan(11.6, -5.3)),
    "object": Recipe("brick", _pan(0, 0), "coins", _pan(2.6, 1.3)),
    "object_moving_camera": Recipe("gravel", _pan(-3.7, 1.4), "coins", _pan(4.4, 1.6)),
    "object_turning_camera": Recipe("grass", _centred(turn(0.8, zoom=1.01)), "gravel", _pan(-2.8, 1.9)),
    "occlusion": Recipe("camera", _pan(0.6, -0.3), "brick", _pan(6.5, 2.2)),
    "blur": Recipe("gravel", _pan(2.4, -1.1), blur=2.5),
    "noise": Recipe("astronaut", _pan(-1.7, 0.9), noise=8.0),
    "cut": Recipe("camera", _pan(1.2, 0.4), after_cut="coins"),
}


def make_scene(
    name: str, *, frames: int = 13, height: int = 192, width: int = 256, noise: float = 0.0, seed: int = 0
) -> Scene:
    """The scene `name` of `SCENES`; the same arguments give the same bytes.

    Parameters
    ----------
    noise: standard deviation of Gaussian noise added to the frames, in grey levels.
    seed: selects the visible part of the textures (0: their middle) and the noise.
    """
    if name not in SCENES:
        raise ValueError(f"unknown scene {name!r}; choose from {', '.join(SCENES)}")
    recipe = SCENES[name]
    random = np.random.default_rng(seed)
    back = texture(recipe.background)
    shift = _to_middle(back, height, width)
    if seed:
        shift += random.uniform(-20, 20, 2)
    step = recipe.step(height, width)
    first = translation(*-shift)
    camera = np.stack([np.linalg.matrix_power(step, t) @ first for t in range(frames)])
    front, front_matrices, outline = None, None, None
    if recipe.front is not None and recipe.object_step is not None:
        front = texture(recipe.front)
        front_shift = _to_middle(front, height, width)
        cx, cy = front_shift + np.array([0.45 * width, 0.45 * height])
        outline = Ellipse(float(cx), float(cy), 0.2 * width, 0.25 * height)
        own = recipe.object_step(height, width)
        # The object's plane coincides with the first frame, then moves with its own step and the camera's.
        placed = translation(*-front_shift)
        front_matrices = np.stack(
            [np.linalg.matrix_power(step, t) @ np.linalg.matrix_power(own, t) @ placed for t in range(frames)]
        )
    cut = frames // 2 if recipe.after_cut else None
    rendered = []
    for t in range(frames):
        shown = texture(recipe.after_cut) if cut is not None and recipe.after_cut and t >= cut else back
        front_matrix = None if front_matrices is None else front_matrices[t]
        picture = render(height, width, shown, camera[t], front, front_matrix, outline)
        rendered.append(cv2.GaussianBlur(picture, (0, 0), recipe.blur) if recipe.blur else picture)
    pictures = np.stack(rendered)
    noise = noise or recipe.noise
    if noise:
        pictures = pictures + random.normal(0, noise, (frames, height, width))
    grey = np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
    return Scene(name, grey, camera, front_matrices, outline, cut)


def _to_middle(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Offset from the upper left corner of an enlarged texture to that of a centred frame: (x, y) in pixels."""
    return np.array(picture.shape[::-1]) / ENLARGED / 2 - np.array([width, height]) / 2
