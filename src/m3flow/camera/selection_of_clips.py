"""The camera of many short clips at once: the decisions of `m3flow.camera.selection`, in arrays over the clips."""

from __future__ import annotations

import numpy as np

from m3flow.camera import cuts
from m3flow.camera.candidates import Candidates
from m3flow.camera.geometry import camera_motion, within_half
from m3flow.camera.selection import LOOKAHEAD, Selection, log_probabilities, normalised, transitions
from m3flow.camera.thresholds import (
    CONFIDENCE,
    MATCHES_NEEDED,
    SLOW,
    STILL,
    STILL_COST,
    STILL_SUPPORT,
)


def select_clips(
    candidates: Candidates,
    clips: int,
    size: tuple[int, int],
    *,
    step: int = 1,
    find_cuts: bool = True,
    threshold: float = CONFIDENCE,
) -> Selection:
    """The camera of every pair, each clip a video of its own.

    Parameters
    ----------
    candidates: of n = T · clips pairs: the first of each clip, then the second of each, and so on.
    size, step, find_cuts, threshold: as in `m3flow.camera.selection.Selector`.

    Returns
    -------
    The pairs in the same order.
    """
    pairs = len(candidates) // clips
    by_clip = np.arange(len(candidates)).reshape(pairs, clips).T.ravel()
    ordered = candidates[by_clip]
    cut = np.zeros((clips, pairs), bool)
    if find_cuts:
        cut = cuts.are_cuts(ordered.change.reshape(clips, pairs), step)
    end = _ends_of_windows(cut)
    evidence = log_probabilities(ordered)
    between = np.zeros((len(ordered), *2 * evidence.shape[1:]))
    between[1:] = transitions(ordered)
    evidence, between = (array.reshape(clips, pairs, *array.shape[1:]) for array in (evidence, between))
    between[:, 0] = 0
    probabilities = np.exp(normalised(_forward(evidence, between, cut) + _backward(evidence, between, end)))
    bars = within_half(_bars(ordered.bars.reshape(clips, pairs, 4), cut, end).reshape(-1, 4), *size)
    chosen = _choice(ordered, probabilities[..., :-1].reshape(len(ordered), -1), size, threshold)
    selection = _without_cuts(chosen, bars, cut.ravel(), ordered.identical)
    return selection[np.argsort(by_clip)]


def _ends_of_windows(cut: np.ndarray) -> np.ndarray:
    """The pair at which the window of each pair ends: at a cut, or after `LOOKAHEAD` further pairs: int [B, T]."""
    pairs = cut.shape[1]
    numbers = np.arange(pairs)
    at_cuts = np.where(cut, numbers, pairs)
    next_cut = np.minimum.accumulate(at_cuts[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(next_cut, np.minimum(numbers + LOOKAHEAD + 1, pairs))


def _backward(evidence: np.ndarray, between: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The evidence of each window's pairs for its first pair: log-likelihoods float64 [B, T, K + 1]."""
    backward = np.zeros_like(evidence)
    numbers = np.arange(evidence.shape[1])
    for ahead in range(min(LOOKAHEAD, len(numbers) - 1), 0, -1):
        clip, pair = np.nonzero(numbers + ahead < end)
        later = evidence[clip, pair + ahead] + backward[clip, pair]
        backward[clip, pair] = np.logaddexp.reduce(between[clip, pair + ahead] + later[:, None], axis=2)
    return backward


def _forward(evidence: np.ndarray, between: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The evidence of each shot so far for each pair: log-probabilities float64 [B, T, K + 1]."""
    forward = np.empty_like(evidence)
    begins = np.ones(len(evidence), bool)
    for t in range(evidence.shape[1]):
        forward[:, t] = evidence[:, t]
        if t:
            reached = np.logaddexp.reduce(forward[:, t - 1, :, None] + between[:, t], axis=1)
            forward[:, t] += np.where(begins[:, None], 0, reached)
        forward[:, t] = normalised(forward[:, t])
        begins = cut[:, t]
    return forward


def _bars(bars: np.ndarray, cut: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The bars of each pair: of the shot so far and of its window, int32 [B, T, 4]."""
    largest = np.iinfo(bars.dtype).max
    found, of_shot = np.empty_like(bars), np.full_like(bars[:, 0], largest)
    numbers = np.arange(bars.shape[1])
    for t in numbers:
        in_window = (numbers >= t) & (numbers < end[:, t, None])
        of_window = np.where(in_window[..., None], bars, largest).min(axis=1)
        found[:, t] = np.minimum(of_shot, of_window)
        of_shot = np.where(cut[:, t, None], largest, np.minimum(of_shot, bars[:, t]))
    return found


def _choice(
    candidates: Candidates, probabilities: np.ndarray, size: tuple[int, int], threshold: float
) -> Selection:
    """The decisions from the probabilities float64 [n, K], as if no pair crossed a cut; without bars."""
    rows = np.arange(len(candidates))
    motion = np.where(candidates.valid, camera_motion(candidates.homographies, *size), np.inf)
    slow = motion <= SLOW
    probabilities[:, 0] = np.where(slow, probabilities, 0).sum(axis=1)
    chosen = probabilities.argmax(axis=1)
    confidence = probabilities[rows, chosen]
    matches = candidates.matches.sum(axis=(1, 2))
    support = candidates.support.sum(axis=(2, 3))
    accepted = (matches > MATCHES_NEEDED) & (confidence >= threshold)
    chosen = np.where(slow[rows, chosen], np.where(slow, support, -1).argmax(axis=1), chosen)
    most, standing = support[rows, chosen], support[:, 0]
    explained = (standing >= STILL_SUPPORT * most) & (matches - standing <= STILL_COST * (matches - most))
    moves = accepted & ~((motion[rows, chosen] < STILL) | explained)
    homographies = np.where(moves[:, None, None], candidates.homographies[rows, chosen], np.eye(3))
    return Selection(
        homographies, accepted, confidence.astype(np.float32), np.zeros_like(accepted), candidates.bars
    )


def _without_cuts(chosen: Selection, bars: np.ndarray, cut: np.ndarray, identical: np.ndarray) -> Selection:
    """The decisions with nothing known across cuts, and a static camera between identical frames."""
    nothing = cut | identical
    return Selection(
        np.where(nothing[:, None, None], np.eye(3), chosen.homographies),
        ~cut & (chosen.accepted | identical),
        np.where(cut, 0, np.where(identical, 1, chosen.confidence)).astype(np.float32),
        cut,
        np.where(cut[:, None], 0, bars).astype(np.int32),
    )
