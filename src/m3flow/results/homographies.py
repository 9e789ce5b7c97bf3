"""The camera of a video: collected pair by pair, stored in the flow file, read back."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.results.forms import form_in
from m3flow.results.quantisation import Piece


class Camera:
    """The camera of a video, collected pair by pair."""

    def __init__(self) -> None:
        self._pairs = 0
        self._homographies: list[np.ndarray] = []
        self._accepted: list[bool] = []
        self._confidence: list[float] = []
        self._bars: list[list[int]] = []  # the first pair, top, bottom, left and right; where they change
        self._cuts: list[int] | None = None
        self._schemes: list[str] = []
        self._shift = self._in_bars = 0.0

    def add(self, piece: Piece, height: int, width: int) -> None:
        """Add the camera of pairs of height x width frames; nothing if it was not searched for."""
        first, self._pairs = self._pairs, self._pairs + len(piece)
        if piece.cut is not None:
            cut = np.flatnonzero(np.asarray(piece.cut))
            self._cuts = (self._cuts or []) + [int(first + pair) for pair in cut]
        if piece.homographies is None or piece.accepted is None:
            return
        homographies = np.asarray(piece.homographies, np.float32)
        self._homographies.extend(homographies)
        self._accepted.extend(bool(accepted) for accepted in piece.accepted)
        self._schemes.extend(piece.schemes)
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32).T
        moved = homographies @ corners
        self._shift += float(
            np.hypot(*(moved[:, :2] / moved[:, 2:] - corners[:2]).swapaxes(0, 1)).mean(1).sum()
        )
        if piece.confidence is not None:
            self._confidence.extend(float(value) for value in piece.confidence)
        if piece.bars is not None:
            self._add_bars(first, np.asarray(piece.bars), height, width)

    def _add_bars(self, first: int, bars: np.ndarray, height: int, width: int) -> None:
        for pair, sides in enumerate(bars.tolist(), first):
            if sides != (self._bars[-1][1:] if self._bars else [0, 0, 0, 0]):
                self._bars.append([pair, *sides])
        rows, columns = height - bars[:, :2].sum(axis=1), width - bars[:, 2:].sum(axis=1)
        self._in_bars += float((1 - rows * columns / (height * width)).sum())

    def summary(self) -> dict[str, float]:
        """The record's fields about camera, bars and cuts, as far as they were searched for."""
        found: dict[str, float] = {}
        if self._accepted:
            found |= {"camera": float(np.mean(self._accepted)), "camera_shift": self._shift / self._pairs}
        if self._confidence:
            uncut = self._pairs - len(self._cuts or ())
            found["camera_confidence"] = sum(self._confidence) / max(uncut, 1)
            found["bars"] = self._in_bars / self._pairs
        if self._cuts is not None:
            # With a step of several frames a cut affects as many consecutive pairs.
            found["cuts"] = sum(pair - 1 not in self._cuts for pair in self._cuts)
        return found

    def stored(self) -> dict[str, Any]:
        """The camera as plain JSON values, {} if it was not searched for; `camera_of` reads them back."""
        stored: dict[str, Any] = {}
        if self._accepted:
            stored |= {
                "homographies": _packed(self._homographies),
                "accepted": "".join("1" if accepted else "0" for accepted in self._accepted),
                "schemes": {name: self._schemes.count(name) for name in sorted(set(self._schemes))},
            }
        if self._confidence:
            stored |= {"confidence": _packed(self._confidence), "bars": self._bars}
        if self._cuts is not None:
            stored["cuts"] = self._cuts
        return stored


def _packed(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)


@dataclass(frozen=True)
class StoredCamera:
    """The camera of a video's T frame pairs, as stored with its flow.

    Attributes
    ----------
    homographies: float32 [T, 3, 3], from pixels (x, y, 1) of frame t to those of frame t + step; the identity
        where none was accepted. `m3flow.camera.put_camera_back` puts the motion back. None with camera "none".
    accepted: bool [T], whether the homography was accepted; None with camera "none".
    confidence: float32 [T], the probability of the homography; None if not stored.
    cuts: the pairs that cross a cut. None without cut detection.
    """

    homographies: np.ndarray | None = None
    accepted: np.ndarray | None = None
    confidence: np.ndarray | None = None
    cuts: list[int] | None = None
    _bars: list[list[int]] = field(default_factory=list)

    def bars(self, start: int, stop: int) -> np.ndarray | None:
        """The rows and columns at the top, bottom, left and right without a picture, of pairs: int32 [n, 4]."""
        if self.confidence is None:
            return None
        bars = np.zeros((stop - start, 4), np.int32)
        for pair, *sides in self._bars:
            bars[max(pair - start, 0) :] = sides
        return bars

    def cut(self, start: int, stop: int) -> np.ndarray | None:
        """Whether pairs cross a cut: bool [n]."""
        return None if self.cuts is None else np.isin(np.arange(start, stop), self.cuts)


def camera_of(folder: Path | str) -> StoredCamera:
    """The camera of a stored flow."""
    form = form_in(folder)
    return camera_from(form.made(form.files(folder)[0]))


def camera_from(made: dict[str, Any]) -> StoredCamera:
    """`camera_of`, from the flow's provenance."""
    stored = made.get("camera") or {}
    found: dict[str, Any] = {"cuts": stored.get("cuts"), "_bars": stored.get("bars", [])}
    if "homographies" in stored:
        found["homographies"] = _unpacked(stored["homographies"]).reshape(-1, 3, 3)
        found["accepted"] = np.array([mark == "1" for mark in stored["accepted"]])
    if "confidence" in stored:
        found["confidence"] = _unpacked(stored["confidence"])
    return StoredCamera(**found)


def homographies_of(folder: Path | str) -> tuple[np.ndarray, np.ndarray] | None:
    """The camera motion that was removed from a stored flow; None if none was estimated.

    Returns
    -------
    homographies: float32 [T, 3, 3], from pixels (x, y, 1) of frame t to those of frame t + step; the
        identity where none was accepted. `m3flow.camera.put_camera_back` restores the motion.
    accepted: bool [T].
    """
    camera = camera_of(folder)
    if camera.homographies is None or camera.accepted is None:
        return None
    return camera.homographies, camera.accepted
