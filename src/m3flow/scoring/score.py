"""Tracks against the truth: error by step, coverage, and whether confidence tells right from wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from m3flow.errors import UsageError
from m3flow.scoring.tracks import Tracks

WRONG = 2.0
"""Pixels from the truth beyond which a track counts as wrong."""
JUDGED_STEP = 6
"""The step at which confidence is judged, or the last one of shorter tracks."""
REACH = 6.0
"""Pixels within which a track starts where a true one does: half the diagonal of a cell of 8 pixels, and a little."""


@dataclass(frozen=True)
class Score:
    """How far tracks are from the truth.

    Attributes
    ----------
    tracks: true tracks compared.
    coverage: share of the true points, after the start and while visible, that a track is given for.
    error: mean distance in pixels by step, 1 to S, over the true points that are visible and covered.
    error_p95: its 95th percentile at the judged step.
    wrong: share of covered points that are more than 2 px off, or not visible any more, at the judged step.
    auroc: probability that a right point has more confidence than a wrong one; None without confidence, or where
        all are right or all wrong.
    upper_half: mean distance of the half with more confidence at the judged step over that of all, visible or not;
        None without confidence.
    residual_camera: mean length in pixels per step of the motion given to background points; None where the truth
        does not say which these are.
    """

    tracks: int
    coverage: float
    error: list[float | None]
    error_p95: float | None
    wrong: float | None
    auroc: float | None
    upper_half: float | None
    residual_camera: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, rounded to four digits after the point."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def score(found: Tracks, truth: Tracks) -> Score:
    """Compare tracks with true ones.

    A true track is compared with the nearest found one that starts within `REACH` px of it in the same frame (or, where
    none starts in that frame, that is there on its way); the distance is that of their displacements from there.

    Raises UsageError where no track starts near a true one.
    """
    steps = min(found.steps, truth.steps)
    moved, given, confidence = _matched(found, truth, steps)
    if not given.any():
        raise UsageError("no track starts where a true one does: are they of the same video?")
    distance = np.linalg.norm(moved - (truth.positions[:, : steps + 1] - truth.positions[:, :1]), axis=-1)
    visible = truth.visible[:, : steps + 1] & truth.visible[:, :1]
    judged = min(JUDGED_STEP, steps)
    compared = visible & given & np.isfinite(distance)
    at_end = distance[:, judged][compared[:, judged]]
    known = given[:, judged] & np.isfinite(distance[:, judged])
    wrong = (distance[:, judged] > WRONG) | ~visible[:, judged]
    sure = None if confidence is None else confidence[:, judged][known]
    return Score(
        tracks=len(truth),
        coverage=float(compared[:, 1:].sum() / max(visible[:, 1:].sum(), 1)),
        error=[_mean(distance[:, k][compared[:, k]]) for k in range(1, steps + 1)],
        error_p95=float(np.percentile(at_end, 95)) if at_end.size else None,
        wrong=_mean(np.asarray(wrong[known])),
        auroc=None if sure is None else auroc(sure, np.asarray(wrong[known])),
        upper_half=None if sure is None else upper_half(sure, distance[:, judged][known]),
        residual_camera=_residual_camera(moved, given & visible, truth.background),
    )


def auroc(confidence: np.ndarray, wrong: np.ndarray) -> float | None:
    """The probability that a right one has more confidence than a wrong one (Mann and Whitney 1947)."""
    right, others = int((~wrong).sum()), int(wrong.sum())
    if not right or not others:
        return None
    ranks = rankdata(confidence)
    return float((ranks[~wrong].sum() - right * (right + 1) / 2) / (right * others))


def upper_half(confidence: np.ndarray, distance: np.ndarray) -> float | None:
    """The mean distance of the half with more confidence, as a share of that of all."""
    surest = np.argsort(-confidence, kind="stable")[: max(len(confidence) // 2, 1)]
    return float(distance[surest].mean() / distance.mean()) if distance.any() else None


def _matched(found: Tracks, truth: Tracks, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """For each true track the found one's displacements [P, S + 1, 2], where given [P, S + 1], and its confidence."""
    moved = np.full((len(truth), steps + 1, 2), np.nan)
    given = np.zeros(moved.shape[:2], bool)
    confidence = None if found.confidence is None else np.zeros(moved.shape[:2])
    for frame in np.unique(truth.start):
        age = frame - found.start
        running = np.flatnonzero(age == 0)
        if not len(running):
            # A tracker of whole videos: its tracks are under way.
            running = np.flatnonzero((age > 0) & (age <= found.steps))
        here = found.positions[running, age[running]]
        usable = np.isfinite(here).all(axis=1) & found.visible[running, age[running]]
        running, here = running[usable], here[usable]
        of_frame = np.flatnonzero(truth.start == frame)
        if not len(running):
            continue
        apart, nearest = cKDTree(here).query(truth.positions[of_frame, 0], distance_upper_bound=REACH)
        near = np.isfinite(apart)
        chosen, targets = running[nearest[near]], of_frame[near]
        for k in range(steps + 1):
            now = age[chosen] + k
            inside = now <= found.steps
            rows, columns = chosen[inside], now[inside]
            moved[targets[inside], k] = found.positions[rows, columns] - here[nearest[near]][inside]
            given[targets[inside], k] = found.visible[rows, columns]
            if confidence is not None and found.confidence is not None:
                confidence[targets[inside], k] = found.confidence[rows, columns]
    given &= np.isfinite(moved).all(axis=-1)
    return moved, given, confidence


def _residual_camera(moved: np.ndarray, given: np.ndarray, background: np.ndarray | None) -> float | None:
    if background is None:
        return None
    lengths = np.linalg.norm(np.diff(moved, axis=1), axis=-1)
    return _mean(lengths[given[:, 1:] & given[:, :-1] & background[:, None]])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
