"""Frames of a video as JPEG images next to its flow.

`frames/img_00000.jpg` is the frame at which the flow `flow_x_00000` starts: denseflow's names. `frames/made.json` has
the provenance and is written last; the folder appears under its name when it is complete.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m3flow.atomic import NewFolder
from m3flow.errors import BadInput
from m3flow.layout import FRAMES_MADE
from m3flow.results.forms.base import UNREADABLE, no_such_file


def frame_name(number: int) -> str:
    """The name of the image of frame `number`."""
    return f"img_{number:05d}.jpg"


class FrameWriter:
    """Writes the frames of a video; the folder appears when `close` has succeeded.

    Use as a context manager. Leaving it without `close` leaves nothing behind.
    """

    def __init__(self, folder: Path, quality: int) -> None:
        self._target, self._quality = NewFolder(folder), quality
        self._digest = hashlib.sha256()
        self._frames = 0

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._target.discard()

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 [n, H, W, 3], RGB."""
        for frame in frames:
            options = [cv2.IMWRITE_JPEG_QUALITY, self._quality]
            content = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()
            self._target.add(frame_name(self._frames), content)
            self._digest.update(content)
            self._frames += 1

    def close(self, provenance: dict[str, Any]) -> None:
        """Make the folder final, with the settings and source of its flow."""
        about = {key: provenance[key] for key in ("m3flow", "settings", "source")}
        about |= {"frames": self._frames, "content": self._digest.hexdigest()[:32]}
        self._target.add(FRAMES_MADE, json.dumps(about).encode())
        self._target.finish()


def frames_made(folder: Path) -> dict[str, Any]:
    """The provenance of stored frames; raises BadInput if they are missing or it cannot be read."""
    path = folder / FRAMES_MADE
    if not path.is_file():
        raise no_such_file(path)
    try:
        made = json.loads(path.read_text())
    except UNREADABLE as error:
        raise BadInput(f"{path}: not readable ({error})") from error
    return made if isinstance(made, dict) else {}


def check_frames(folder: Path, flow_made: dict[str, Any]) -> None:
    """Raises BadInput unless all frames are there with unchanged content, made with this flow."""
    made = frames_made(folder)
    if any(made.get(key) != flow_made.get(key) for key in ("settings", "source")):
        raise BadInput(f"{folder}: not made together with the flow")
    digest = hashlib.sha256()
    try:
        for number in range(int(made["frames"])):
            digest.update((folder / frame_name(number)).read_bytes())
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename}: no such frame") from error
    except UNREADABLE as error:
        raise BadInput(f"{folder}: not readable ({error})") from error
    if made.get("content") != digest.hexdigest()[:32]:
        raise BadInput(f"{folder}: damaged (its content is not what was written)")
