"""Confidence of tracked points, from the frames and the backward flow.

Two kinds of evidence add up to the uncertainty of a point:

- photometric: the patch around its start against the patch around its current position. Their correlation
  measures whether they show the same; the texture of the first determines how precisely a correlation can locate
  it (a flat or striped patch looks the same elsewhere). The product of 1 − correlation and the standard error of
  the position in pixels, from the smaller eigenvalue of the structure tensor (Shi and Tomasi, CVPR 1994).
- forward-backward: the distance between a pixel and its position after the forward and the backward flow
  (Sundaram, Brox and Keutzer, ECCV 2010), the largest on the way.

Both need the texture: on flat patches an estimator that falls back to zero motion does so in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.trajectories.grid import GRID, OFFSET, beside, carried, namespace

if TYPE_CHECKING:
    from m3flow.flow.base import Array

CONFIDENCES = ("none", "photometric", "forward-backward")
RELIABLE = 128
"""The smallest confidence of a reliable point: an uncertainty of at most 1."""
LEVELS_PER_PIXEL = 8
"""Round trips are stored as 8-bit levels of an eighth of a pixel, up to 31.9 px."""

RADIUS = 4
SPACING = 2
OFFSETS = [(x, y) for y in range(-RADIUS, RADIUS + 1, SPACING) for x in range(-RADIUS, RADIUS + 1, SPACING)]
PAD = RADIUS + 1  # one more pixel for the gradient
VARIANCE_FLOOR = 0.1  # squared grey levels: of the quantisation of the frames
DIFFERENCE_FLOOR = 1.0  # squared grey levels
EIGENVALUE_FLOOR = 0.02  # squared grey levels per pixel


@dataclass(frozen=True)
class Evidence:
    """Evidence for the confidence of trajectories through T flow frames.

    Attributes
    ----------
    frames: uint8 [T + step, H, W], the consecutive frames from which the flow was computed.
    step: the flow's step in frames.
    homographies: float32 [T, 3, 3], the camera motion removed from the flow; None for none.
    round_trip: uint8 [T, H, W], each pixel's distance from its position after the forward and the backward flow, in
        levels of 1 / `LEVELS_PER_PIXEL` px; None without backward flow.
    """

    frames: Array
    step: int = 1
    homographies: Array | None = None
    round_trip: Array | None = None

    def __len__(self) -> int:
        return len(self.frames) - self.step

    def __getitem__(self, pairs: slice) -> Evidence:
        """The evidence of a range of the flow frames."""
        start, stop, _ = pairs.indices(len(self))
        return replace(
            self,
            frames=self.frames[start : max(stop, start) + self.step],
            homographies=None if self.homographies is None else self.homographies[pairs],
            round_trip=None if self.round_trip is None else self.round_trip[pairs],
        )

    def beside(self, flow: Array) -> Evidence:
        """The evidence on the device of `flow`: as NumPy, or as tensors."""
        frames: Any = beside(flow, self.frames)
        return replace(
            self,
            frames=frames,
            homographies=beside(flow, self.homographies),
            round_trip=beside(flow, self.round_trip),
        )

    def followed_by(self, other: Evidence) -> Evidence:
        """This evidence concatenated with that of the following flow frames."""
        xp = namespace(self.frames)

        def joined(first: Array | None, second: Array | None) -> Array | None:
            return None if first is None or second is None else xp.concatenate((first, second))

        return replace(
            self,
            frames=xp.concatenate((self.frames, other.frames[self.step :])),
            homographies=joined(self.homographies, other.homographies),
            round_trip=joined(self.round_trip, other.round_trip),
        )


class ConfidenceJudge:
    """The confidence of all windows' points, step by step.

    Parameters
    ----------
    evidence: of the tracked flow.
    starts: the flow frames at which the windows start.
    follows_pixels: whether the points follow the pixels of the video; otherwise they follow the flow, and their
        position in the video is that point moved by the camera.

    Convention
    ----------
    A point's confidence is 255 / (1 + u), rounded, with the largest uncertainty u so far: it never rises along a
    trajectory, so a point that was occluded or crossed a cut stays uncertain. It is 0 outside the frame.
    """

    def __init__(self, evidence: Evidence, starts: range, *, follows_pixels: bool) -> None:
        self._xp = xp = namespace(evidence.frames)
        self._evidence, self._starts = evidence, starts
        self._height, self._width = (int(side) for side in evidence.frames.shape[1:])
        images = _padded(xp, _smoothed(xp, evidence.frames))
        self._flat, self._stride = images.reshape(-1), int(images.shape[2])
        self._plane = int(images.shape[1]) * self._stride
        patches, self._eigenvalue = self._at_start(images[starts.start : starts.stop : starts.step])
        self._patches, self._variance = self._centred(patches)
        self._carried = None if follows_pixels else evidence.homographies
        self._camera: Array | None = None
        self._worst: Any = 0.0

    def __call__(self, step_number: int, x: Array, y: Array, next_x: Array, next_y: Array) -> Array:
        """The confidence after a step: uint8 [N, rows, columns].

        x, y: the positions, inside the frame, at which the flow of this step was read; next_x, next_y: the positions
        after it. All float32 [N, rows, columns].
        """
        xp, shift = self._xp, step_number * self._evidence.step
        read = slice(self._starts.start + shift, self._starts[-1] + shift + 1, self._starts.step)
        if self._carried is not None:
            homographies = self._carried[read]
            self._camera = homographies if self._camera is None else homographies @ self._camera
            next_x, next_y = carried(self._camera, next_x, next_y)
        uncertainty = self._photometric(shift + self._evidence.step, next_x, next_y)
        if self._evidence.round_trip is not None:
            uncertainty = uncertainty + self._round_trip(shift, x, y)
        inside = (next_x >= 0) & (next_x <= self._width - 1) & (next_y >= 0) & (next_y <= self._height - 1)
        uncertainty = xp.where(inside, uncertainty, xp.asarray(np.inf, dtype=xp.float32))
        self._worst = uncertainty if step_number == 0 else xp.maximum(self._worst, uncertainty)
        return xp.asarray(255 / (1 + self._worst) + 0.5, dtype=xp.uint8)

    def _at_start(self, images: Array) -> tuple[Array, Array]:
        """The patches at the grid points [K, N, h, w], and the smaller eigenvalue of their structure tensors."""
        rows, columns = self._height // GRID, self._width // GRID

        def around(dx: int, dy: int) -> Array:
            top, left = PAD + OFFSET + dy, PAD + OFFSET + dx
            return images[:, top : top + GRID * rows : GRID, left : left + GRID * columns : GRID][
                :, :rows, :columns
            ]

        xp = self._xp
        patches = xp.stack([around(x, y) for x, y in OFFSETS])
        gradient_x = xp.stack([around(x + 1, y) - around(x - 1, y) for x, y in OFFSETS]) / 2
        gradient_y = xp.stack([around(x, y + 1) - around(x, y - 1) for x, y in OFFSETS]) / 2
        xx, yy = (gradient_x**2).mean(0), (gradient_y**2).mean(0)
        xy = (gradient_x * gradient_y).mean(0)
        return patches, (xx + yy - xp.sqrt((xx - yy) ** 2 + 4 * xy**2)) / 2

    def _centred(self, patches: Array) -> tuple[Array, Array]:
        """The patches without their mean, and their variance."""
        centred = patches - patches.mean(0)[None]
        return centred, (centred**2).mean(0)

    def _photometric(self, shift: int, x: Array, y: Array) -> Array:
        """The uncertainty of points at x, y, `shift` frames after their windows' starts."""
        xp = self._xp
        x = xp.clip(xp.floor(x + 0.5), 0, self._width - 1)
        y = xp.clip(xp.floor(y + 0.5), 0, self._height - 1)
        index = xp.asarray(y, dtype=xp.int64) * self._stride + xp.asarray(x, dtype=xp.int64)
        index = index + self._of_windows(shift) * self._plane + PAD * (self._stride + 1)
        now = xp.stack([xp.take(self._flat, index + (dy * self._stride + dx)) for dx, dy in OFFSETS])
        now, variance = self._centred(now)
        covariance = (now * self._patches).mean(0)
        floors = (self._variance + VARIANCE_FLOOR) * (variance + VARIANCE_FLOOR)
        difference = xp.clip(self._variance + variance - 2 * covariance, 0, None)
        place = xp.sqrt((difference + DIFFERENCE_FLOOR) / (self._eigenvalue + EIGENVALUE_FLOOR))
        return (1 - covariance / xp.sqrt(floors)) * place

    def _round_trip(self, shift: int, x: Array, y: Array) -> Array:
        """The round-trip distance of the flow at x, y, in pixels."""
        xp = self._xp
        pixel = xp.asarray(xp.floor(y + 0.5), dtype=xp.int64) * self._width
        pixel = pixel + xp.asarray(xp.floor(x + 0.5), dtype=xp.int64)
        levels = xp.take(
            self._evidence.round_trip.reshape(-1),  # type: ignore[union-attr]
            pixel + self._of_windows(shift) * (self._height * self._width),
        )
        return xp.asarray(levels, dtype=xp.float32) / LEVELS_PER_PIXEL

    def _of_windows(self, shift: int) -> Array:
        """The frame number `shift` after each window's start: int64 [N, 1, 1]."""
        xp = self._xp
        numbers = xp.arange(len(self._starts), dtype=xp.int64, device=self._evidence.frames.device)
        return (numbers * self._starts.step + (self._starts.start + shift)).reshape(-1, 1, 1)


def round_trip(forward: Array, backward: Array) -> Array:
    """The distance of each pixel from its position after the forward and the backward flow: uint8 [T, H, W].

    Parameters
    ----------
    forward, backward: float32 [T, 2, H, W] in pixels, x first: from frame t to t + step, and from t + step to t.

    Returns
    -------
    Levels of 1 / `LEVELS_PER_PIXEL` px; the backward flow is read at the nearest pixel inside the frame.
    """
    xp = namespace(forward)
    pairs, _, height, width = forward.shape
    rows = xp.arange(height, dtype=xp.float32, device=forward.device)[:, None]
    columns = xp.arange(width, dtype=xp.float32, device=forward.device)
    x = xp.clip(xp.floor(columns + forward[:, 0] + 0.5), 0, width - 1)
    y = xp.clip(xp.floor(rows + forward[:, 1] + 0.5), 0, height - 1)
    frame = xp.arange(pairs, dtype=xp.int64, device=forward.device).reshape(-1, 1, 1) * (2 * height * width)
    index = frame + xp.asarray(y, dtype=xp.int64) * width + xp.asarray(x, dtype=xp.int64)
    flat = backward.reshape(-1)
    back_x, back_y = xp.take(flat, index), xp.take(flat[height * width :], index)
    distance = xp.sqrt((forward[:, 0] + back_x) ** 2 + (forward[:, 1] + back_y) ** 2)
    return xp.asarray(xp.clip(distance * LEVELS_PER_PIXEL + 0.5, 0, 255), dtype=xp.uint8)


def _smoothed(xp: Any, frames: Array) -> Array:
    """The frames filtered by a binomial filter [1 2 1] in both directions: float32 [F, H, W]."""
    values = xp.asarray(frames, dtype=xp.float32)
    for axis in (1, 2):
        first, last = _cut(values, axis, 0, 1), _cut(values, axis, -1, None)
        before = xp.concatenate((first, _cut(values, axis, 0, -1)), axis)
        after = xp.concatenate((_cut(values, axis, 1, None), last), axis)
        values = (before + 2 * values + after) / 4
    return values


def _cut(values: Array, axis: int, start: int, stop: int | None) -> Array:
    return values[:, start:stop] if axis == 1 else values[:, :, start:stop]


def _padded(xp: Any, images: Array) -> Array:
    """The images padded by `PAD` pixels on each side, replicating the border."""
    height, width = images.shape[1:]
    rows, columns = (
        xp.clip(xp.arange(-PAD, side + PAD, device=images.device), 0, side - 1) for side in (height, width)
    )
    return images[:, rows][:, :, columns]
