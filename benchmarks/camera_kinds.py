"""Shots of the kinds that make it hard to find the camera, with the camera's true motion.

A shot is a photograph seen by a moving camera, in most kinds with something else before it: a person-like
outline, an ellipse or a slab that fills a chosen share of the frame, or many small discs. Everything moves by
known homographies, smoothly but not evenly, as a hand-held camera does. The textures are those that
scikit-image carries in its wheel.

Convention
----------
As in `m3flow.camera.geometry`: homographies map (x, y, 1) in pixels from frame t to frame t + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from skimage import data as textures

from m3flow.scoring.camera_pairs import random_homography
from m3flow.scoring.scenes import about, apply, pixel_grid, translation, turn

HEIGHT, WIDTH = 240, 320
ENLARGED = 2  # texture pixels a frame pixel, along each axis
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "immunohistochemistry", "retina")
SURFACES = ("gravel", "brick", "grass", "coins")
SMALLEST_OWN_MOTION = 1.5  # px: below, an object does not tell itself from the background


@dataclass(frozen=True)
class Kind:
    """How a kind of shot is made; ranges are drawn from evenly.

    Attributes
    ----------
    reach: how far the camera moves the frame's corners from one frame to the next, in px; 0: it stands still.
    zoom, turn: largest change of scale, and rotation in degrees, from one frame to the next.
    share: the part of the frame that the foreground fills; None: there is none.
    discs: the number of small movers before the background.
    background_blur: standard deviation of the background's defocus, in px.
    gain, offset: largest relative and absolute change of brightness, in grey levels, between two frames.
    motion_blur: the part of the time between two frames that the shutter is open.
    interlaced, overlay, bars, compressed, dark: what else is done to the frames.
    noise: standard deviation in grey levels, drawn anew for each frame.
    """

    reach: tuple[float, float] = (1.5, 8.0)
    zoom: float = 0.0
    turn: float = 0.0
    share: tuple[float, float] | None = None
    discs: int = 0
    background_blur: tuple[float, float] = (0.0, 0.0)
    gain: float = 0.0
    offset: float = 0.0
    motion_blur: float = 0.0
    interlaced: bool = False
    overlay: bool = False
    bars: bool = False
    compressed: bool = False
    dark: bool = False
    noise: float = 1.5


STILL = (0.0, 0.0)
KINDS: dict[str, Kind] = {
    "pan": Kind(),
    "slow": Kind(reach=(0.3, 1.2)),
    "fast": Kind(reach=(14, 28)),
    "zoom": Kind(zoom=0.12),
    "rotation": Kind(turn=10),
    "still": Kind(reach=STILL),
    "motion blur": Kind(reach=(5, 12), motion_blur=0.6),
    "defocus": Kind(background_blur=(1.5, 3)),
    "interlacing": Kind(interlaced=True),
    "compression": Kind(compressed=True, share=(0.05, 0.15)),
    "dark": Kind(dark=True, noise=2.0),
    "overlay": Kind(overlay=True),
    "bars": Kind(bars=True),
    "exposure": Kind(gain=0.3, offset=15),
    "small movers": Kind(discs=40),
    "foreground 10-40 %": Kind(share=(0.1, 0.4)),
    "foreground 40-60 %": Kind(share=(0.4, 0.6)),
    "foreground 60-85 %": Kind(share=(0.6, 0.85)),
    "still, foreground 10-50 %": Kind(reach=STILL, share=(0.1, 0.5)),
    "still, foreground 50-85 %": Kind(reach=STILL, share=(0.5, 0.85)),
    "blurred background": Kind(share=(0.2, 0.5), background_blur=(3, 6)),
}


@dataclass(frozen=True)
class Shot:
    """Frames uint8 [F, H, W], the camera's homographies float64 [F-1, 3, 3], and where the background is.

    background: bool [F-1, H, W], for the first frame of each pair.
    """

    kind: str
    frames: np.ndarray
    homographies: np.ndarray
    background: np.ndarray


def make_shot(kind: str, seed: int, frames: int = 2) -> Shot:
    """The shot of a kind; the same arguments give the same bytes."""
    recipe = KINDS[kind]
    random = np.random.default_rng([seed, *kind.encode()])
    names = random.permutation(PHOTOGRAPHS)
    behind = texture(str(names[0]))
    steps = _camera_steps(recipe, random, frames)
    camera = [np.eye(3)]
    for step in steps:
        camera.append(step @ camera[-1])
    placed = _placed(behind, random)
    objects = _objects(recipe, random, frames, camera, str(names[1]))
    finish = _Finish(recipe, random)
    pictures, background = [], []
    for t in range(frames):
        following = steps[min(t, frames - 2)]
        blur = recipe.background_blur[0] and float(_sigma(recipe, seed))
        exposure = [_partly(following, share) for share in _shutter(recipe)]
        layers = []
        for part in exposure:
            picture = _seen(behind, part @ camera[t] @ placed)
            if blur:
                picture = cv2.GaussianBlur(picture, (0, 0), blur)
            layers.append(picture)
        picture = np.mean(layers, axis=0)
        later = _seen(behind, _partly(following, 0.5) @ camera[t] @ placed) if recipe.interlaced else None
        if later is not None:
            picture[1::2] = later[1::2]
        alpha = np.zeros((HEIGHT, WIDTH), np.float32)
        for one in objects:
            covered = one.outline(t)
            picture = picture + covered * (_seen(one.texture, one.motion[t] @ one.placed) - picture)
            alpha = np.maximum(alpha, covered)
        picture, hidden = finish(picture, t)
        pictures.append(picture)
        background.append((alpha < 0.01) & ~hidden)
    return Shot(kind, np.stack(pictures), np.stack(steps), np.stack(background[:-1]))


def _sigma(recipe: Kind, seed: int) -> float:
    return np.random.default_rng(seed).uniform(*recipe.background_blur)


def _shutter(recipe: Kind) -> np.ndarray:
    return np.linspace(-0.5, 0.5, 7) * recipe.motion_blur if recipe.motion_blur else np.zeros(1)


def _partly(step: np.ndarray, share: float) -> np.ndarray:
    """A part of a small motion."""
    return np.eye(3) + share * (step / step[2, 2] - np.eye(3))


@cache
def texture(name: str) -> np.ndarray:
    """A grey picture of scikit-image, enlarged `ENLARGED` times: float32 [H, W]."""
    picture = getattr(textures, name)()
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    shrink = max(1.0, min(picture.shape) / 512)
    picture = cv2.resize(picture, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7)
    return cv2.resize(soft, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)


def _seen(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A texture as a camera sees it: 2x2 samples a pixel, mirrored outside its edge. float32 [H, W]."""
    into_samples = np.diag([2.0, 2.0, 1.0])
    into_samples[:2, 2] = 0.5
    from_texture = np.diag([1 / ENLARGED, 1 / ENLARGED, 1.0])
    from_texture[:2, 2] = 0.5 / ENLARGED - 0.5
    samples = cv2.warpPerspective(
        picture,
        into_samples @ matrix @ from_texture,
        (2 * WIDTH, 2 * HEIGHT),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return cv2.resize(samples, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _placed(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The texture's pixels (not enlarged) -> the first frame: somewhere on the texture."""
    room = np.array(picture.shape[::-1]) / ENLARGED - np.array([WIDTH, HEIGHT])
    return translation(*-(room * random.uniform(0.2, 0.8, 2)))


def _uneven(random: np.random.Generator, frames: int) -> np.ndarray:
    """How much of a motion happens when: about 1, drifting, with a tremor. float64 [frames - 1]."""
    t = np.arange(frames - 1)
    drift = 0.3 * np.sin(2 * np.pi * (t / random.uniform(20, 60) + random.uniform()))
    return 1 + drift + random.normal(0, 0.1, frames - 1)


def _camera_steps(recipe: Kind, random: np.random.Generator, frames: int) -> list[np.ndarray]:
    reach = random.uniform(*recipe.reach)
    if reach == 0:
        return [np.eye(3)] * (frames - 1)
    main = random_homography(random, HEIGHT, WIDTH, reach)
    centre = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    long = max(1.0, (frames - 1) / 4)  # a zoom cannot go on at that pace
    if recipe.zoom or recipe.turn:
        zoom = 1 + random.choice([-1, 1]) * random.uniform(0.3, 1) * recipe.zoom / long
        degrees = random.choice([-1, 1]) * random.uniform(0.3, 1) * recipe.turn
        main = about(centre, turn(degrees, zoom)) @ _partly(main, 0.3)
    jitter = [random_homography(random, HEIGHT, WIDTH, 0.15 * reach) for _ in range(frames - 1)]
    back_and_forth = np.where((np.arange(frames - 1) // 12) % 2, -1.0, 1.0)
    amounts = _uneven(random, frames) * back_and_forth
    return [_partly(main, a) @ j for a, j in zip(amounts, jitter, strict=True)]


@dataclass(frozen=True)
class _Object:
    """Something before the background: its texture, where that lies, its motion, its outline in frame 0."""

    texture: np.ndarray
    placed: np.ndarray
    motion: list[np.ndarray]
    shape: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def outline(self, t: int) -> np.ndarray:
        """How much of each pixel of frame t it covers: float32 [H, W]."""
        points = apply(np.linalg.inv(self.motion[t]), pixel_grid(HEIGHT, WIDTH))
        return np.clip(0.5 - self.shape(points), 0, 1).astype(np.float32)


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Callable[[np.ndarray], np.ndarray]:
    def distance(points: np.ndarray) -> np.ndarray:
        r = np.hypot((points[..., 0] - cx) / rx, (points[..., 1] - cy) / ry)
        return (r - 1) * min(rx, ry)

    return distance


def _portrait(cx: float, top: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """A head and shoulders that reach the frame's lower edge and beyond."""
    head = _ellipse(cx, top + 0.55 * width, 0.42 * width, 0.55 * width)
    body = _ellipse(cx, top + 2.6 * width, 1.05 * width, 1.75 * width)
    return lambda points: np.minimum(head(points), body(points))


def _slab(side: int, edge: float) -> Callable[[np.ndarray], np.ndarray]:
    """All that lies beyond a line at `edge` from the left (0) or the right (1) side."""
    sign, place = (1, edge) if side == 0 else (-1, WIDTH - 1 - edge)
    return lambda points: sign * (points[..., 0] - place) + 0.15 * (points[..., 1] - HEIGHT / 2)


def _shape(random: np.random.Generator, share: float) -> Callable[[np.ndarray], np.ndarray]:
    """An outline that covers the given share of the first frame."""
    which, grid = random.uniform(), pixel_grid(HEIGHT, WIDTH)
    cx, cy = random.uniform(0.38, 0.62, 2) * (WIDTH, HEIGHT)
    aspect, side = random.uniform(0.8, 1.3), int(random.integers(2))

    def sized(size: float) -> Callable[[np.ndarray], np.ndarray]:
        if which < 0.45:
            return _ellipse(cx, cy, size * aspect, size / aspect)
        if which < 0.88:
            return _portrait(cx, HEIGHT - 1.1 * size, 0.75 * size)
        return _slab(side, size)

    low, high = 1.0, 600.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if (sized(middle)(grid) < 0).mean() < share else (low, middle)
    return sized(low)


def _objects(
    recipe: Kind, random: np.random.Generator, frames: int, camera: list[np.ndarray], name: str
) -> list[_Object]:
    front = texture(name if random.uniform() < 0.6 else str(random.choice(SURFACES)))
    result = []
    if recipe.share is not None:
        shape = _shape(random, random.uniform(*recipe.share))
        result.append(_Object(front, _placed(front, random), _sway(random, frames, camera), shape))
    for _ in range(recipe.discs):
        x, y = random.uniform(0, 1, 2) * (WIDTH, HEIGHT)
        radius = random.uniform(6, 13)
        shape = _ellipse(x, y, radius, radius * random.uniform(1, 1.6))
        result.append(_Object(front, _placed(front, random), _sway(random, frames, camera, True), shape))
    return result


def _sway(
    random: np.random.Generator, frames: int, camera: list[np.ndarray], on_ground: bool = False
) -> list[np.ndarray]:
    """The motion of an object from the first frame to each: to and fro, on top of the camera's or by itself."""
    angle, speed = random.uniform(0, 2 * np.pi), random.uniform(2, 7)
    period, phase = random.uniform(14, 40), random.uniform(0, 2 * np.pi)
    if frames == 2:
        phase = 0.0
    centre = random.uniform(0.3, 0.7, 2) * (WIDTH, HEIGHT)
    turns = random.normal(0, 0.6)
    with_camera = on_ground or random.uniform() < 0.5
    amplitude = speed * period / (2 * np.pi)
    result = []
    for t in range(frames):
        swing = np.sin(2 * np.pi * t / period + phase) - np.sin(phase)
        tremor = random.normal(0, 0.15, 2) if t else np.zeros(2)
        x, y = amplitude * swing * np.array([np.cos(angle), np.sin(angle)]) + tremor
        own = translation(x, y) @ about(tuple(centre), turn(turns * swing))
        result.append(camera[t] @ own if with_camera else own)
    return result


class _Finish:
    """What the recorder and the editor do to a picture."""

    def __init__(self, recipe: Kind, random: np.random.Generator) -> None:
        self._recipe, self._random = recipe, random
        self._gain_phase, self._gain = random.uniform(0, 2 * np.pi), random.uniform(0.4, 1) * recipe.gain
        self._offset = random.uniform(-1, 1) * recipe.offset
        self._bar = int(random.uniform(0.08, 0.16) * HEIGHT)
        self._text = "".join(chr(65 + i) for i in random.integers(0, 26, 18))

    def __call__(self, picture: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
        recipe = self._recipe
        hidden = np.zeros(picture.shape, bool)
        if recipe.gain:
            sign = (-1) ** t * np.sign(np.sin(self._gain_phase)) if t < 2 else np.sin(self._gain_phase + t)
            picture = picture * (1 + sign * self._gain / 2) + sign * self._offset / 2
        if recipe.dark:
            picture = 12 + picture * 0.15
        picture = np.clip(picture + self._random.normal(0, recipe.noise, picture.shape), 0, 255)
        if recipe.bars:
            picture[: self._bar] = picture[HEIGHT - self._bar :] = 16
            hidden[: self._bar] = hidden[HEIGHT - self._bar :] = True
        frame = np.rint(picture).astype(np.uint8)
        if recipe.overlay:
            cv2.rectangle(frame, (WIDTH - 70, 10), (WIDTH - 12, 40), 230, -1)
            cv2.putText(frame, "TV 5", (WIDTH - 66, 34), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 20, 2)
            cv2.rectangle(frame, (0, HEIGHT - 44), (WIDTH, HEIGHT - 14), 40, -1)
            cv2.putText(frame, self._text, (6, HEIGHT - 21), cv2.FONT_HERSHEY_SIMPLEX, 0.75, 240, 2)
            hidden[10:41, WIDTH - 70 : WIDTH - 11] = hidden[HEIGHT - 44 : HEIGHT - 13] = True
        if recipe.compressed:
            _, coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 25])
            frame = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
        return frame, hidden
