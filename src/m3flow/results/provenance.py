"""What results say of how they were made, and whether that is what is wanted now."""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.extraction.sinks import Piece
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.version import __version__
from m3flow.videos.identity import identity

if TYPE_CHECKING:
    from m3flow.camera.compensation import Motion, MotionEstimator
    from m3flow.videos.decoder import Decoded


class Camera:
    """The homographies of a video, gathered pair by pair."""

    def __init__(self) -> None:
        self._homographies: list[np.ndarray] = []
        self._accepted: list[bool] = []
        self._schemes: list[str] = []
        self._shift = 0.0

    def add(self, motion: Motion) -> None:
        if motion.homographies is None or motion.accepted is None:
            return
        self._homographies.extend(motion.homographies.astype(np.float32))
        self._accepted.extend(bool(accepted) for accepted in motion.accepted)
        self._schemes.extend(motion.schemes)
        _, _, height, width = motion.flow.shape
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32).T
        moved = motion.homographies @ corners
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
    from m3flow.results.flowfile import COMPONENTS, read_provenance

    camera = read_provenance(Path(folder) / COMPONENTS[0]).get("camera")
    if not camera:
        return None
    data = np.frombuffer(base64.b64decode(camera["homographies"]), "<f4").reshape(-1, 3, 3)
    return data.astype(np.float32), np.array([mark == "1" for mark in camera["accepted"]])


def made_by(
    settings: dict[str, Any],
    source: dict[str, Any],
    decoded: Decoded,
    motion: MotionEstimator,
    camera: Camera,
) -> dict[str, Any]:
    """The provenance of a video's flow, as plain JSON values."""
    info = decoded.info
    made: dict[str, Any] = {
        "m3flow": __version__,
        "settings": settings,
        "source": {
            **source,
            "frames": decoded.frames,
            "claimed": info.claimed,
            "width": info.width,
            "height": info.height,
            "rate": str(info.rate),
            "codec": info.codec,
            "rotation": info.rotation,
        },
        "used": {
            "backend": motion.estimator.backend,
            "device": motion.estimator.device,
            "versions": _versions(motion.estimator.backend),
            "camera": motion.describe(),
        },
    }
    if len(camera):
        made["camera"] = camera.stored()
    return made


def _versions(backend: str) -> dict[str, str]:
    if backend == "torch":
        import torch

        library = {"torch": str(torch.__version__)}
    else:
        import cv2

        library = {"opencv": cv2.__version__}
    return {"python": platform.python_version(), "numpy": np.__version__, **library}


def same_source(made: dict[str, Any], source: dict[str, Any]) -> bool:
    stored = made.get("source", {})
    return all(stored.get(key) == source.get(key) for key in ("bytes", "sha256"))


def flow_is_current(folder: Path, settings: FlowSettings, source: dict[str, Any]) -> bool:
    """Whether both flow files are there, made with these settings from this source."""
    from m3flow.results.flowfile import COMPONENTS, read_provenance

    for name in COMPONENTS:
        if not (folder / name).is_file():
            return False
        try:
            made = read_provenance(folder / name)
        except BadInput:
            return False
        if made.get("settings") != settings.identity() or not same_source(made, source):
            return False
    return True


def trajectories_are_current(
    path: Path, settings: TrajectorySettings, flow: dict[str, Any], source: dict[str, Any]
) -> bool:
    """Whether the file is there, made with these settings from this flow ({} for none) of this source."""
    from m3flow.results.trajectoryfile import read_made

    if not path.is_file():
        return False
    try:
        made = read_made(path)
    except BadInput:
        return False
    return (
        made.get("settings") == settings.identity() and made.get("flow") == flow and same_source(made, source)
    )


@dataclass(frozen=True)
class StoredFlow:
    """A video's flow files, ready to be read: what they say of themselves, and their levels."""

    folder: Path
    made: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return self.made["settings"]

    @property
    def source(self) -> dict[str, Any]:
        return self.made["source"]

    @property
    def bound(self) -> float:
        from m3flow.results.flowfile import DEFAULT_BOUND

        return float(self.settings.get("bound", DEFAULT_BOUND))

    @property
    def step(self) -> int:
        return int(self.settings.get("step", 1))

    def levels(self) -> Iterator[np.ndarray]:
        """uint8 [n, 2, H, W] levels, in pieces."""
        from m3flow.results.flowfile import read_level_pairs

        return read_level_pairs(self.folder)

    def pieces(self) -> Iterator[Piece]:
        """The levels, and the camera's motion that is not in them, in pieces."""
        camera = homographies_of(self.folder)
        done = 0
        for levels in self.levels():
            end = done + len(levels)
            yield Piece(levels, camera[0][done:end] if camera else None)
            done = end


def stored_flow(folder: Path) -> StoredFlow:
    """The flow files of a folder; raises BadInput where they are missing, unreadable or do not belong together.

    Files that say nothing of themselves (another program's) are taken with the default bound; the flow file
    itself then stands for the source.
    """
    from m3flow.results.flowfile import COMPONENTS, read_provenance

    paths = [folder / name for name in COMPONENTS]
    for path in paths:
        if not path.is_file():
            raise BadInput(f"no flow file {path}; make the flow first")
    x, y = (read_provenance(path) for path in paths)
    if x.get("settings") != y.get("settings") or not same_source(x, y.get("source", {})):
        raise BadInput(f"{folder}: x.mp4 and y.mp4 were not made together; make the flow again")
    return StoredFlow(folder, {"settings": {}, "source": identity(paths[0]), **x})
