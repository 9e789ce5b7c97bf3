"""The background's motion among the candidates of each pair, decided over a window of the shot.

Each candidate of a pair gets a probability from the location of its evidence: the background reaches the frame's
rim, also explains untextured regions, and is static if a static camera explains it. The weights
are those of a conditional logit fitted to synthetic shots of the kinds in benchmarks/camera_kinds.py. Over
time the candidates form a hidden Markov model: the background of one pair is most likely the candidate of the
next that is supported at the same places. The forward pass runs from the start of the shot, the backward pass
over a bounded number of following pairs, so that memory and latency are bounded and batches have no influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from m3flow.camera import cuts
from m3flow.camera.candidates import COLUMNS, COUNT, ROWS, Candidates
from m3flow.camera.geometry import camera_motion, within_half
from m3flow.camera.thresholds import CONFIDENCE, MATCHES_NEEDED, SLOW, STILL, STILL_COST, STILL_SUPPORT

LOOKAHEAD = 15  # pairs
SWITCHING = 2.0  # log-probability lost by a transition to a candidate that shares no place with the last
STANDING = 1.0  # log-probability gained if the same places remain static: no motion is that even
VANISHING = 3.0  # log-probability lost by a transition to "none of them", or back
FEW = 2.0  # matches: cells with fewer are weak evidence

# The zones of the grid, and the weight of the evidence in each.
UPPER_RIM, LOWER_SIDES, BOTTOM, RING, CENTRE = range(5)
SUPPORT = np.array([1.41, 2.27, 0.32, 2.35, 1.63])
PHOTOMETRIC = np.array([4.6, 2.26, 0.0, -4.17, -3.21])
STANDING_STILL = np.array([1.15, 3.34, -1.4, 0.0, 0.0])
STANDING_STILL_RIM = 4.7  # on the square root of the share of the upper rim and the lower sides
STANDING_STILL_BOTTOM = 0.48  # likewise
IDENTITY = -2.92
NONE = 0.22


def _zones() -> np.ndarray:
    """Weights that average over each zone: float64 [5, R, C]."""
    zone = np.full((ROWS, COLUMNS), CENTRE)
    zone[1:-1, [1, -2]] = zone[[1, -2], 1:-1] = RING
    zone[0] = UPPER_RIM
    zone[1 : ROWS // 2, [0, -1]] = UPPER_RIM
    zone[ROWS // 2 : -1, [0, -1]] = LOWER_SIDES
    zone[-1] = BOTTOM
    return np.stack([(zone == number) / (zone == number).sum() for number in range(5)])


ZONES = _zones()


def log_probabilities(candidates: Candidates) -> np.ndarray:
    """The log-probability that each candidate is the background's motion: float64 [n, K + 1].

    The last one is that of none of them.
    """
    share = candidates.matches + FEW
    support = np.einsum("zrc,nkrc->nkz", ZONES, candidates.support / share[:, None])
    photometric = np.einsum("zrc,nkrc->nkz", ZONES, candidates.photometric)
    still = np.einsum("zrc,nrc->nz", ZONES, candidates.still / share)
    score = np.full((len(candidates), COUNT + 1), NONE)
    score[:, :-1] = support @ SUPPORT + photometric @ PHOTOMETRIC
    score[:, 0] += IDENTITY + still @ STANDING_STILL
    score[:, 0] += STANDING_STILL_RIM * np.sqrt(still[:, UPPER_RIM] + still[:, LOWER_SIDES])
    score[:, 0] += STANDING_STILL_BOTTOM * np.sqrt(still[:, BOTTOM])
    score[:, :-1][~candidates.valid] = -np.inf
    return normalised(score)


def normalised(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities that sum to 1 over the last axis."""
    return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def transitions(candidates: Candidates) -> np.ndarray:
    """From each pair's candidates to those of the next: log-probabilities float64 [n - 1, K + 1, K + 1]."""
    weight = candidates.matches + 1
    overlap = _overlap(candidates.support / weight[:, None])
    standing = _overlap((candidates.still / weight)[:, None])[:, 0, 0]
    scores = np.full((len(candidates) - 1, COUNT + 1, COUNT + 1), -VANISHING)
    scores[:, :-1, :-1] = np.where(candidates.valid[1:, None], SWITCHING * (overlap - 1), -np.inf)
    scores[:, -1, -1] = 0
    scores[:, -1, :-1][~candidates.valid[1:]] = -np.inf
    scores = normalised(scores)
    scores[:, 0, 0] += STANDING * standing
    return scores


def _overlap(places: np.ndarray) -> np.ndarray:
    """The overlap of each pair's places [n, K, R, C] with the next pair's: float [n - 1, K, K], 0 to 1."""
    size = places.sum(axis=(2, 3))
    shared = np.minimum(places[:-1, :, None], places[1:, None]).sum(axis=(3, 4))
    return shared / np.maximum(np.sqrt(size[:-1, :, None] * size[1:, None]), 0.5)


@dataclass(frozen=True)
class Decision:
    """The camera of one frame pair; the attributes are those of `Selection`."""

    homography: np.ndarray
    accepted: bool
    confidence: float
    cut: bool
    bars: np.ndarray


UNDECIDED = Decision(np.eye(3), False, 0.0, False, np.zeros(4, np.int32))


@dataclass(frozen=True)
class Selection:
    """The camera of n frame pairs.

    Attributes
    ----------
    homographies: float64 [n, 3, 3], the identity if rejected, across a cut, or for a static camera.
    accepted: bool [n], whether the camera is known; between identical frames it stands still.
    confidence: float32 [n], the probability of the most probable candidate; 0 across a cut.
    cut: bool [n], whether the pair crosses a cut.
    bars: int32 [n, 4], the bars at the top, bottom, left and right of the shot so far, in pixels.
    """

    homographies: np.ndarray
    accepted: np.ndarray
    confidence: np.ndarray
    cut: np.ndarray
    bars: np.ndarray

    def __len__(self) -> int:
        return len(self.cut)

    def __getitem__(self, pairs: slice | np.ndarray) -> Selection:
        return Selection(*(getattr(self, item.name)[pairs] for item in fields(self)))

    def reversed(self) -> Selection:
        """The pairs in reversed order."""
        return self[np.arange(len(self))[::-1]]

    @staticmethod
    def of(decisions: Sequence[Decision]) -> Selection:
        return Selection(
            np.array([one.homography for one in decisions]).reshape(-1, 3, 3),
            np.array([one.accepted for one in decisions], bool),
            np.array([one.confidence for one in decisions], np.float32),
            np.array([one.cut for one in decisions], bool),
            np.array([one.bars for one in decisions], np.int32).reshape(-1, 4),
        )


class Selector:
    """Decides about the pairs of one video as they come, up to `LOOKAHEAD` + `step` pairs late.

    Parameters
    ----------
    size: height and width of the frames.
    step: the distance of a pair's frames.
    find_cuts: whether cuts are looked for; otherwise the video is taken as one shot.
    threshold: the least confidence at which a camera is accepted.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        step: int = 1,
        find_cuts: bool = True,
        threshold: float = CONFIDENCE,
    ) -> None:
        self._size, self._step, self._find_cuts, self._threshold = size, step, find_cuts, threshold
        self._pairs: list[_Pair] = []  # the undecided pairs, after up to `step` decided ones
        self._decided = 0  # of those
        self._last: Candidates | None = None
        self._forward: np.ndarray | None = None
        self._bars: np.ndarray | None = None

    def push(self, candidates: Candidates) -> list[Decision]:
        """Add the next pairs; returns the decisions made possible by them."""
        self._pairs.extend(_pairs(candidates, self._last, self._size))
        self._last = candidates[len(candidates) - 1 :] if len(candidates) else self._last
        return self._decide(len(self._pairs) - LOOKAHEAD - self._step)

    def finish(self) -> list[Decision]:
        """The decisions about all remaining pairs."""
        return self._decide(len(self._pairs))

    def _decide(self, end: int) -> list[Decision]:
        start = self._decided
        if end <= start:
            return []
        changes = [pair.change for pair in self._pairs]
        cut = [self._find_cuts and cuts.is_cut(changes, t, self._step) for t in range(len(changes))]
        ends = [_end_of_window(cut, t) for t in range(start, end)]
        backward = self._backward(start, ends)
        decisions = []
        for t, window_end, following in zip(range(start, end), ends, backward, strict=True):
            if cut[t]:
                self._forward = self._bars = None
                decisions.append(replace(UNDECIDED, cut=True))
                continue
            bars = self._bars_of(self._pairs[t:window_end])
            decision = self._camera(self._pairs[t], following, bars)
            if self._pairs[t].identical:
                decision = Decision(np.eye(3), True, 1.0, False, bars)
            decisions.append(decision)
        self._pairs = self._pairs[max(0, end - self._step) :]
        self._decided = min(end, self._step)
        return decisions

    def _backward(self, start: int, ends: list[int]) -> np.ndarray:
        """The evidence of each window's pairs for its first pair: log-likelihoods float64 [n, K + 1]."""
        evidence = np.stack([pair.log_probabilities for pair in self._pairs])
        transition = np.stack([pair.transition for pair in self._pairs])
        first = np.arange(start, start + len(ends))
        backward = np.zeros((len(ends), COUNT + 1))
        for ahead in range(LOOKAHEAD, 0, -1):
            windows = np.flatnonzero(first + ahead < np.array(ends))
            later = first[windows] + ahead
            reached = evidence[later] + backward[windows]
            backward[windows] = np.logaddexp.reduce(transition[later] + reached[:, None], axis=2)
        return backward

    def _bars_of(self, window: list[_Pair]) -> np.ndarray:
        """The bars of a window's first pair: of the shot so far and of the window."""
        bars = np.min([pair.bars for pair in window], axis=0)
        if self._bars is not None:
            bars = np.minimum(self._bars, bars)
        self._bars = window[0].bars if self._bars is None else np.minimum(self._bars, window[0].bars)
        return within_half(bars, *self._size)

    def _camera(self, pair: _Pair, backward: np.ndarray, bars: np.ndarray) -> Decision:
        """The decision about a pair that crosses no cut."""
        forward = pair.log_probabilities
        if self._forward is not None:
            forward = forward + np.logaddexp.reduce(self._forward[:, None] + pair.transition, axis=0)
        self._forward = normalised(forward)
        probabilities = np.exp(normalised(self._forward + backward))[:-1]
        slow = pair.motion <= SLOW
        probabilities[0] = probabilities[slow].sum()
        chosen = int(probabilities.argmax())
        confidence = float(probabilities[chosen])
        if pair.matches <= MATCHES_NEEDED or confidence < self._threshold:
            return replace(UNDECIDED, confidence=confidence, bars=bars)
        if slow[chosen]:
            chosen = int(np.where(slow, pair.support, -1).argmax())
        still = pair.motion[chosen] < STILL or pair.explained_by_standing_still(chosen)
        return Decision(np.eye(3) if still else pair.homographies[chosen], True, confidence, False, bars)


def _end_of_window(cut: list[bool], first: int) -> int:
    """The pair at which the window of a pair ends: at a cut, or after `LOOKAHEAD` further pairs."""
    end = min(first + LOOKAHEAD + 1, len(cut))
    return next((t for t in range(first, end) if cut[t]), end)


@dataclass(frozen=True)
class _Pair:
    """One pair's candidates with their log-probabilities, and the transition from the pair before."""

    homographies: np.ndarray
    log_probabilities: np.ndarray
    transition: np.ndarray
    matches: float
    support: np.ndarray
    motion: np.ndarray  # of the frame's corners by each candidate, in px; infinite if it is invalid
    bars: np.ndarray
    change: float
    identical: bool

    def explained_by_standing_still(self, chosen: int) -> bool:
        """Whether the identity explains the matches nearly as well as a candidate."""
        still, support = self.support[0], self.support[chosen]
        as_much_left = self.matches - still <= STILL_COST * (self.matches - support)
        return bool(still >= STILL_SUPPORT * support and as_much_left)


def _pairs(candidates: Candidates, last: Candidates | None, size: tuple[int, int]) -> list[_Pair]:
    if not len(candidates):
        return []
    evidence = log_probabilities(candidates)
    between = transitions(candidates if last is None else Candidates.joined([last, candidates]))
    if last is None:
        between = np.concatenate([np.zeros((1, COUNT + 1, COUNT + 1)), between])
    totals = candidates.support.sum(axis=(2, 3))
    motion = np.where(candidates.valid, camera_motion(candidates.homographies, *size), np.inf)
    return [
        _Pair(
            candidates.homographies[t],
            evidence[t],
            between[t],
            float(candidates.matches[t].sum()),
            totals[t],
            motion[t],
            candidates.bars[t],
            float(candidates.change[t]),
            bool(candidates.identical[t]),
        )
        for t in range(len(candidates))
    ]
