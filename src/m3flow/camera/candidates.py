"""Candidates for the camera motion of each frame pair, with the evidence for each on a coarse grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from m3flow.camera.thresholds import HYPOTHESES

ROWS, COLUMNS = 6, 8  # of the grid
COUNT = 1 + HYPOTHESES  # candidates of a pair; the first is the identity
SMALL = (60, 80)  # height and width of the frames whose grey levels are compared
THUMBNAIL = (24, 32)  # height and width of the frames used for cut detection
PHOTOMETRIC_MARGIN = 1.0  # grey levels by which the best candidate must beat the second at a pixel
LARGEST_DIFFERENCE = 30.0  # grey levels; larger ones are clipped


@dataclass(frozen=True)
class Candidates:
    """Evidence for the camera motion of n frame pairs, independent of all other pairs.

    The grid of R x C cells lies over the picture without its bars.

    Attributes
    ----------
    homographies: float64 [n, K, 3, 3], previous frame -> current frame in pixels; the first is the identity.
    valid: bool [n, K], whether the candidate exists.
    matches: float32 [n, R, C], matches that start in each grid cell.
    support: float32 [n, K, R, C], matches in each cell explained by the candidate, each weighted by
        1 - (error / inlier distance)^2.
    still: float32 [n, R, C], static matches, weighted likewise.
    photometric: float32 [n, K, R, C], the share of a cell's pixels at which the candidate predicts the grey
        level clearly better than all others.
    bars: int32 [n, 4], uniform dark rows and columns of both frames at the top, bottom, left and right.
    change: float32 [n], the change of the picture, see `m3flow.camera.cuts`.
    identical: bool [n], whether the two frames are the same.
    """

    homographies: np.ndarray
    valid: np.ndarray
    matches: np.ndarray
    support: np.ndarray
    still: np.ndarray
    photometric: np.ndarray
    bars: np.ndarray
    change: np.ndarray
    identical: np.ndarray

    def __len__(self) -> int:
        return len(self.change)

    def __getitem__(self, pairs: slice | np.ndarray) -> Candidates:
        return Candidates(*(getattr(self, field.name)[pairs] for field in fields(self)))

    @staticmethod
    def joined(pieces: Sequence[Candidates]) -> Candidates:
        names = [field.name for field in fields(Candidates)]
        return Candidates(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names))

    def with_change(self, change: np.ndarray) -> Candidates:
        return replace(self, change=change)

    @staticmethod
    def empty(pairs: int) -> Candidates:
        """No evidence, for runs without compensation."""
        grid = (pairs, ROWS, COLUMNS)
        return Candidates(
            homographies=np.tile(np.eye(3), (pairs, COUNT, 1, 1)),
            valid=np.zeros((pairs, COUNT), bool),
            matches=np.zeros(grid, np.float32),
            support=np.zeros((pairs, COUNT, ROWS, COLUMNS), np.float32),
            still=np.zeros(grid, np.float32),
            photometric=np.zeros((pairs, COUNT, ROWS, COLUMNS), np.float32),
            bars=np.zeros((pairs, 4), np.int32),
            change=np.zeros(pairs, np.float32),
            identical=np.zeros(pairs, bool),
        )


EVIDENCE_FIELDS = [field.name for field in fields(Candidates)][:-2]  # all but the change and the identity
