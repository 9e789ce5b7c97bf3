"""Candidates for the camera motion between two frames with OpenCV: tracked corners and robust fits.

Corners are the best pixel of each cell by the smaller eigenvalue of the structure tensor (Shi and Tomasi
1994), spread over the frame, tracked by pyramidal Lucas-Kanade (Bouguet 2001) and kept if their
forward-backward error is small. Homographies are fitted successively, each to the outliers of the previous
ones (locally optimised RANSAC, Chum, Matas and Kittler 2003), so that the background is among them even
if something else fills most of the frame. `m3flow.camera.selection` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from m3flow.camera import cuts, thresholds
from m3flow.camera.candidates import (
    COLUMNS,
    COUNT,
    EVIDENCE_FIELDS,
    LARGEST_DIFFERENCE,
    PHOTOMETRIC_MARGIN,
    ROWS,
    SMALL,
    THUMBNAIL,
    Candidates,
)
from m3flow.camera.geometry import dark_bars, is_plausible, transform, within_half

WINDOW = (9, 9)
LEVELS = 3  # beyond the frame itself: reaches motion of about 30 px
STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
CONFIDENCE = 0.999
ITERATIONS = (1000, 500, 500)  # of each fit


def find_candidates(frames: np.ndarray, step: int, *, camera: bool = True) -> Candidates:
    """The candidates and their evidence for each pair of frames t, t + step: uint8 [F, H, W] -> F - step pairs.

    camera: whether to search for the camera; otherwise only for cuts.

    A pair's candidates depend on its two frames alone: OpenCV's random generator starts from a fixed seed.
    """
    small = [_shrunk(frame, SMALL) for frame in frames]
    change = cuts.change(np.stack([_shrunk(frame, THUMBNAIL) for frame in small]), step)
    if not camera:
        return Candidates.empty(len(change)).with_change(change)
    views = [
        _View(frame, shrunk, _quantiles(frame), dark_bars(frame))
        for frame, shrunk in zip(frames, small, strict=True)
    ]
    found = [_of_pair(views[t], views[t + step]) for t in range(len(change))]
    fields = {
        name: np.stack(values) for name, values in zip(EVIDENCE_FIELDS, zip(*found, strict=True), strict=True)
    }
    identical = [np.array_equal(frames[t], frames[t + step]) for t in range(len(change))]
    return Candidates(**fields, change=change, identical=np.array(identical, bool))


@dataclass(frozen=True)
class _View:
    """A frame uint8 [H, W] with the data shared by its two pairs.

    Attributes
    ----------
    small: float32 `SMALL`, the frame shrunk. levels: its quantiles. bars: its dark edges, int32 [4].
    """

    frame: np.ndarray
    small: np.ndarray
    levels: np.ndarray
    bars: np.ndarray

    def at_brightness_of(self, other: _View) -> _View | None:
        """This frame with another one's brightness and contrast; None if they differ little.

        Gain and offset come from a line through the quantiles of both frames' grey levels, which motion does not
        change. None also if a line does not explain the difference.
        """
        x, y = self.levels, other.levels
        before = np.abs(y - x).mean()
        if before < thresholds.BRIGHTNESS_DIFFERENCE:
            return None
        x_mean, y_mean = x.mean(), y.mean()
        gain = ((x - x_mean) * (y - y_mean)).sum() / max(((x - x_mean) ** 2).sum(), 1e-6)
        gain = float(np.clip(gain, 0.5, 2))
        offset = y_mean - gain * x_mean
        if np.abs(gain * x + offset - y).mean() > thresholds.BRIGHTNESS_LEFT * before:
            return None
        table = np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8)
        frame = cv2.LUT(self.frame, table)
        return _View(frame, _shrunk(frame, SMALL), y, self.bars)


def _of_pair(previous: _View, current: _View) -> tuple[np.ndarray, ...]:
    """The fields of one pair's `Candidates` except the last."""
    shape, of_both = previous.frame.shape, np.minimum(previous.bars, current.bars)
    bars = within_half(of_both, *shape)
    start, end, current = _tracked(previous, current, corners(previous.frame, bars))
    homographies, valid = _fits(start, end, shape)
    squared = ((transform(homographies, start) - end) ** 2).sum(axis=-1)
    cell = _cells(start, shape, bars)
    support = np.clip(1 - squared / thresholds.INLIER_DISTANCE**2, 0, 1)
    still = np.clip(1 - squared[0] / thresholds.STILL_DISTANCE**2, 0, 1)
    return (
        homographies,
        valid,
        _on_grid(cell, np.ones(len(start))),
        np.stack([_on_grid(cell, weights) for weights in support]),
        _on_grid(cell, still),
        photometric_support(previous.small, current.small, homographies, valid, shape, bars),
        of_both,
    )


def _tracked(previous: _View, current: _View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, _View]:
    """The matches of the points, and the current frame with the brightness used for tracking."""
    matched = current.at_brightness_of(previous)
    if matched is None:
        return *track(previous.frame, current.frame, points), current
    at_one_brightness = track(previous.frame, matched.frame, points)
    if len(at_one_brightness[0]) >= thresholds.MOST_TRACKED * len(points):
        return *at_one_brightness, matched
    # New content may look like a change of exposure: keep the version that tracks more corners.
    as_they_are = track(previous.frame, current.frame, points)
    if len(at_one_brightness[0]) > len(as_they_are[0]):
        return *at_one_brightness, matched
    return *as_they_are, current


def _quantiles(frame: np.ndarray) -> np.ndarray:
    """The 5th to the 95th percentile of the grey levels, evenly spaced: float32."""
    levels = np.sort(frame[2::6, 2::6], axis=None)
    cut = len(levels) // 20
    return levels[cut : max(len(levels) - cut, 1)].astype(np.float32)


def _fits(start: np.ndarray, end: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The identity and up to `HYPOTHESES` homographies: float64 [K, 3, 3], and their validity [K]."""
    homographies = np.tile(np.eye(3), (COUNT, 1, 1))
    valid = np.arange(COUNT) == 0
    left = np.ones(len(start), bool)
    needed: float = thresholds.INLIERS_NEEDED
    for slot, iterations in zip(range(1, COUNT), ITERATIONS, strict=True):
        if np.count_nonzero(left) <= needed:
            break
        found = _fit(start[left], end[left], iterations)
        if found is None:
            break
        squared = ((transform(found, start) - end) ** 2).sum(axis=1)
        inliers = np.count_nonzero(squared[left] < thresholds.INLIER_DISTANCE**2)
        if inliers > needed and is_plausible(found, shape[0], shape[1]):
            homographies[slot], valid[slot] = found, True
        needed = max(needed, thresholds.INLIERS_SHARE * inliers)
        explained = squared < thresholds.OUTLIER_DISTANCE**2
        if not (left & explained).any():
            break
        left &= ~explained
    return homographies, valid


def _fit(start: np.ndarray, end: np.ndarray, iterations: int) -> np.ndarray | None:
    try:
        found, _ = cv2.findHomography(
            start,
            end,
            cv2.USAC_FAST,
            thresholds.INLIER_DISTANCE,
            maxIters=iterations,
            confidence=CONFIDENCE,
        )
    except cv2.error:  # for some degenerate point sets
        return None
    return found


def _cells(points: np.ndarray, shape: tuple[int, ...], bars: np.ndarray) -> np.ndarray:
    """The index of each point's grid cell in the picture: int64 [N]."""
    top, bottom, left, right = bars
    column = ((points[:, 0] - left) * COLUMNS / (shape[1] - left - right)).astype(np.int64)
    row = ((points[:, 1] - top) * ROWS / (shape[0] - top - bottom)).astype(np.int64)
    return row * COLUMNS + column


def _on_grid(cell: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sums = np.bincount(cell, weights=weights, minlength=ROWS * COLUMNS)
    return sums.reshape(ROWS, COLUMNS).astype(np.float32)


def photometric_support(
    one: np.ndarray,
    two: np.ndarray,
    homographies: np.ndarray,
    valid: np.ndarray,
    shape: tuple[int, ...],
    bars: np.ndarray,
) -> np.ndarray:
    """The share of each cell's pixels at which each candidate fits the grey levels best: float32 [K, R, C].

    one, two: both frames shrunk to `SMALL`; shape: their height and width before.
    """
    support = np.zeros((len(homographies), ROWS, COLUMNS), np.float32)
    if np.count_nonzero(valid) < 2:
        return support
    height, width = SMALL
    to_small = scaling(height / shape[0], width / shape[1])
    to_frame = np.linalg.inv(to_small)
    best = np.full(SMALL, LARGEST_DIFFERENCE, np.float32)
    second, winner = best, np.full(SMALL, -1)
    for k in np.flatnonzero(valid):
        matrix = to_small @ homographies[k] @ to_frame
        moved = cv2.warpPerspective(
            two,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        error = cv2.blur(np.minimum(cv2.absdiff(moved, one), LARGEST_DIFFERENCE), (3, 3))
        winner = np.where(error < best, k, winner)
        second = np.minimum(second, np.maximum(best, error))
        best = np.minimum(best, error)
    winner = np.where(second - best > PHOTOMETRIC_MARGIN, winner, -1)
    if bars.any():
        rows = _within(bars[:2], shape[0], height)
        winner = winner[rows][:, _within(bars[2:], shape[1], width)]
    cells = winner.reshape(ROWS, height // ROWS, COLUMNS, width // COLUMNS)
    for k in np.flatnonzero(valid):
        support[k] = (cells == k).mean(axis=(1, 3))
    return support


def _within(bars: np.ndarray, length: int, count: int) -> np.ndarray:
    """`count` places spread over a side between its two bars, in a frame of `count` rows or columns: int64."""
    start, end = bars.astype(np.int64)
    middles = np.arange(1, 2 * count, 2)
    return (2 * count * start + middles * (length - start - end)) // (2 * length)


def scaling(down: float, across: float) -> np.ndarray:
    """The matrix from pixels of a frame to those of the frame resized by these factors."""
    return np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5], [0, 0, 1]])


def _shrunk(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)


def corners(frame: np.ndarray, bars: np.ndarray | None = None) -> np.ndarray:
    """The frame's best corners, at most one per cell, spread over the grid: uint8 [H, W] -> float32 [N, 2] (x, y).

    The best corner of every grid cell comes first, then every second best, and so on, so that a textured
    object does not use up the corner budget.
    """
    strength = cv2.cornerMinEigenVal(frame, blockSize=3)
    height, width = strength.shape
    border, size = thresholds.CORNER_BORDER, thresholds.cell_size(height, width)
    if min(height, width) <= 2 * border:
        return np.empty((0, 2), np.float32)
    if bars is not None and bars.any():
        top, bottom, left, right = bars + np.where(bars > 0, thresholds.BAR_MARGIN, 0)
        picture = np.zeros_like(strength)
        inside = np.s_[top : height - bottom, left : width - right]
        picture[inside] = strength[inside]
        strength = picture
    strength = strength[border : height - border, border : width - border]
    rows, columns = -(-strength.shape[0] // size), -(-strength.shape[1] // size)
    padded = np.zeros((rows * size, columns * size), np.float32)
    padded[: strength.shape[0], : strength.shape[1]] = strength
    cells = padded.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows * columns, -1)
    place = cells.argmax(axis=1)
    value = cells[np.arange(len(cells)), place]
    best = np.lexsort((-value, _rank_in_group(value, rows, columns)))
    best = best[value[best] > thresholds.CORNER_QUALITY * value.max()][: thresholds.CORNERS]
    y = best // columns * size + place[best] // size + border
    x = best % columns * size + place[best] % size + border
    return np.stack([x, y], axis=1).astype(np.float32)


def _rank_in_group(value: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The number of better corners in the same grid cell: int64 [rows * columns]."""
    group = _groups(rows, columns)
    order = np.lexsort((-value, group))
    first = np.searchsorted(group[order], np.arange(ROWS * COLUMNS))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first[group[order]]
    return rank


@lru_cache(maxsize=8)
def _groups(rows: int, columns: int) -> np.ndarray:
    """The grid cell of each corner cell: int64 [rows * columns]."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    group = row * ROWS // rows * COLUMNS + column * COLUMNS // columns
    group.flags.writeable = False
    return group


def track(previous: np.ndarray, current: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Track points of the previous frame into the current one, and keep the reliable ones.

    float32 [N, 2] as (x, y) -> float32 [M, 2] in the previous and [M, 2] in the current frame, M <= N: the
    points with a forward-backward error below 0.5 px that moved 25 px at most.
    """
    if not len(points):
        return points, points
    end, found = _follow(previous, current, points)
    back, found_back = _follow(current, previous, end)
    good = found & found_back
    good &= np.linalg.norm(back - points, axis=1) < thresholds.RETURN_DISTANCE
    good &= np.linalg.norm(end - points, axis=1) <= thresholds.MATCH_RADIUS
    return points[good], end[good]


def _follow(one: np.ndarray, two: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.empty_like(points)  # OpenCV's stubs require an array; it is only written to
    end, found, _ = cv2.calcOpticalFlowPyrLK(
        one, two, points, start, winSize=WINDOW, maxLevel=LEVELS, criteria=STOP
    )
    return np.asarray(end), np.asarray(found)[:, 0] > 0
