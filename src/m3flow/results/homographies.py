"""The camera's homographies of a video: collected pair by pair, stored in the flow file, read back."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.results.forms import form_in
from m3flow.results.quantisation import Piece


class Camera:
    """The homographies of a video, collected pair by pair."""

    def __init__(self) -> None:
        self._homographies: list[np.ndarray] = []
        self._accepted: list[bool] = []
        self._schemes: list[str] = []
        self._shift = 0.0

    def add(self, piece: Piece, height: int, width: int) -> None:
        """The homographies of some pairs of height x width frames; nothing where none were looked for."""
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

    def __len__(self) -> int:
        return len(self._accepted)

    def summary(self) -> dict[str, float]:
        """The record's fields `camera` and `camera_shift`."""
        if not self._accepted:
            return {}
        return {"camera": float(np.mean(self._accepted)), "camera_shift": self._shift / len(self._accepted)}

    def stored(self) -> dict[str, Any]:
        """The homographies as plain JSON values; `homographies_of` reads them back."""
        data = np.asarray(self._homographies, "<f4").tobytes()
        return {
            "homographies": base64.b64encode(data).decode("ascii"),
            "accepted": "".join("1" if accepted else "0" for accepted in self._accepted),
            "schemes": {name: self._schemes.count(name) for name in sorted(set(self._schemes))},
        }


def homographies_of(folder: Path | str) -> tuple[np.ndarray, np.ndarray] | None:
    """The camera's motion that was taken out of a stored flow; None where none was looked for.

    Returns
    -------
    homographies: float32 [T, 3, 3], from pixels (x, y, 1) of frame t to those of frame t + step; the
        identity where none was accepted. `m3flow.camera.put_camera_back` puts the motion back.
    accepted: bool [T].
    """
    form = form_in(folder)
    return homographies_from(form.made(form.files(folder)[0]))


def homographies_from(made: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """`homographies_of`, from the flow's provenance."""
    camera = made.get("camera")
    if not camera:
        return None
    data = np.frombuffer(base64.b64decode(camera["homographies"]), "<f4").reshape(-1, 3, 3)
    return data.astype(np.float32), np.array([mark == "1" for mark in camera["accepted"]])
