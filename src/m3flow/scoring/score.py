"""Scores of tracks against ground truth: error by step, coverage, and quality of the confidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from m3flow.errors import UsageError
from m3flow.scoring.tracks import Tracks

WRONG = 2.0
"""Distance from the truth in pixels beyond which a track counts as wrong."""
JUDGED_STEP = 6
"""The step at which confidence is evaluated, or the last one of shorter tracks."""
REACH = 6.0
"""Largest distance in pixels between matching starts: slightly more than half the diagonal of an 8-pixel cell."""


@dataclass(frozen=True)
class Score:
    """Scores of tracks against ground truth.

    Attributes
    ----------
    tracks: number of true tracks compared.
    coverage: share of the true points, after the start and while visible, that have a track.
    error: mean distance in pixels by step, 1 to S, over the true points that are visible and covered.
    error_p95: 95th percentile of the distance at the evaluated step.
    wrong: share of covered points that are more than 2 px off, or no longer visible, at the evaluated step.
    auroc: probability that a right point has a higher confidence than a wrong one; None without confidence, or if
        all are right or all wrong.
    upper_half: mean distance of the more confident half at the evaluated step divided by that of all, visible or
        not; None without confidence.
    residual_camera: mean length in pixels per step of the motion of background points; None if the truth does not
        mark them.
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
        """JSON values, rounded to four decimals."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def score(found: Tracks, truth: Tracks) -> Score:
    """Compare tracks with true ones.

    A true track is compared with the nearest found one that starts within `REACH` px of it in the same frame or, if
    none starts in that frame, passes there; the distance is that of their displacements from there.

    Raises UsageError if no track starts near a true one.
    """
    steps = min(found.steps, truth.steps)
    moved, given, confidence = _matched(found, truth, steps)
    if not given.any():
        raise UsageError("no track starts near a true one; are both of the same video?")
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
    """The probability that a right point has a higher confidence than a wrong one (Mann and Whitney 1947)."""
    right, others = int((~wrong).sum()), int(wrong.sum())
    if not right or not others:
        return None
    ranks = rankdata(confidence)
    return float((ranks[~wrong].sum() - right * (right + 1) / 2) / (right * others))


def upper_half(confidence: np.ndarray, distance: np.ndarray) -> float | None:
    """The mean distance of the more confident half, divided by that of all."""
    surest = np.argsort(-confidence, kind="stable")[: max(len(confidence) // 2, 1)]
    return float(distance[surest].mean() / distance.mean()) if distance.any() else None


def _matched(found: Tracks, truth: Tracks, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """For each true track, the matching track's displacements [P, S + 1, 2], validity [P, S + 1] and confidence."""
    moved = np.full((len(truth), steps + 1, 2), np.nan)
    given = np.zeros(moved.shape[:2], bool)
    confidence = None if found.confidence is None else np.zeros(moved.shape[:2])
    for frame in np.unique(truth.start):
        age = frame - found.start
        running = np.flatnonzero(age == 0)
        if not len(running):
            # Tracks of a whole-video tracker are already running.
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
