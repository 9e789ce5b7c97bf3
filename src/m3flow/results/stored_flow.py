"""A video's stored flow, in any form: provenance, values and homographies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.errors import BadInput, UsageError
from m3flow.layout import FLOW_FILES
from m3flow.results.forms import FORMS, form_in, quantisation_of
from m3flow.results.forms.base import FlowReader
from m3flow.results.forms.existing import existing, fingerprint
from m3flow.results.homographies import camera_from
from m3flow.results.provenance import same_source, source_text
from m3flow.results.quantisation import DEFAULT_BOUND, Piece, Quantisation
from m3flow.settings import resize_of
from m3flow.version import __version__
from m3flow.videos.identity import identity
from m3flow.videos.resize import Resize

NO_FLOW_FILE = "no flow file"


@dataclass(frozen=True)
class StoredFlow:
    """The flow stored in a folder, with its form and provenance."""

    folder: Path
    form: FlowReader
    made: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return self.made["settings"]

    @property
    def source(self) -> dict[str, Any]:
        return self.made["source"]

    @property
    def quantisation(self) -> Quantisation:
        bound = self._stated("bound", DEFAULT_BOUND)
        return Quantisation(float(bound), self.form.scale(self.settings))

    @property
    def step(self) -> int:
        return int(self._stated("step", 1))

    @property
    def rate(self) -> float:
        """The rate at which the video's frames were sampled; 0: all."""
        return float(self.settings.get("rate", 0))

    @property
    def resize(self) -> Resize:
        return resize_of(self.settings)

    def _stated(self, key: str, default: float) -> float:
        """A setting; for existing flow, values in its files take precedence over given ones."""
        return self.made.get("used", {}).get(key, self.settings.get(key, default))

    def frames(self) -> int:
        """The number of stored flow frames."""
        return self.form.frames(self.folder)

    def values(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The stored values [n, 2, H, W] of the frames from `start` up to, not including, `stop`, in pieces."""
        return self.form.read(self.folder, start, stop)

    def pieces(self) -> Iterator[Piece]:
        """The values with the camera, in pieces."""
        camera = camera_from(self.made)
        done = 0
        for values in self.values():
            end = done + len(values)
            yield Piece(
                levels=values,
                homographies=None if camera.homographies is None else camera.homographies[done:end],
                bars=camera.bars(done, end),
                cut=camera.cut(done, end),
            )
            done = end


def stored_flow(folder: Path | str) -> StoredFlow:
    """The flow stored in a folder; raises BadInput if it is missing or unreadable.

    Files without provenance (another program's) are read with the default bound; the flow file
    itself then serves as the source.
    """
    folder = Path(folder)
    form = form_in(folder)
    paths = form.files(folder)
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{NO_FLOW_FILE} {path}; make the flow first")
    made, *others = (form.made(path) for path in paths)
    for other in others:
        if made.get("settings") != other.get("settings") or not same_source(made, other.get("source", {})):
            raise BadInput(f"{folder}: x.mp4 and y.mp4 were not made together; make the flow again")
    return StoredFlow(folder, form, {"settings": {}, "source": identity(paths[0]), **made})


@dataclass(frozen=True, kw_only=True)
class ExistingFlow:
    """Location of flow written by other programs.

    Attributes
    ----------
    root: the folder; each video's flow is in it under the video's name, with or without its suffix.
    form: "images", "flo", "h5" or "npz", see `m3flow.results.forms.existing`.
    bound: of levels, in pixels, unless given in the files.
    step: of the flow, unless given in the file names.
    """

    root: Path
    form: str = "images"
    bound: float = DEFAULT_BOUND
    step: int = 1

    def identity(self) -> dict[str, Any]:
        """The settings that trajectories from it state of their flow, as JSON values."""
        return {"existing": self.form, "bound": float(self.bound), "step": self.step}

    def of(self, name: str) -> StoredFlow:
        """The existing flow of a video; raises BadInput where there is none, or where it has gaps."""
        reader = existing(self.root, self.form, name)
        found = reader.found
        stated = {"bound": found.bound, "step": found.step}
        used = {key: value for key, value in stated.items() if value is not None}
        height, width = next(reader.read(reader.place, 0, 1)).shape[2:]
        frames = found.count + abs(used.get("step", self.step))
        about = {"frames": frames, "width": width, "height": height}
        made = {
            "m3flow": __version__,
            "settings": self.identity(),
            "source": {**fingerprint(reader.place), **about},
            "used": used,
        }
        return StoredFlow(reader.place, reader, made)

    def source(self, name: str) -> str:
        """The content fingerprint of a video's existing flow, as in the records; "" if there is none."""
        try:
            return source_text(fingerprint(existing(self.root, self.form, name).place))
        except BadInput:
            return ""


def load_flow(folder: Path | str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The flow of a video, or a part of it, from the folder that it is stored in, in any form.

    Parameters
    ----------
    folder: `<output>/flows/<video>`.
    start, stop: read the frames from `start` on and before `stop`, as a slice does.

    Returns
    -------
    float32 [T, 2, H, W] in pixels, channel 0 = x (right), channel 1 = y (down), exactly 0 where a pixel was
    still. Frame t holds the motion of the pixels of video frame start + t (see `m3flow.flow.base.Estimator`).

    Raises
    ------
    UsageError: a negative `start`, or no frame from `start` on and before `stop`.
    BadInput: a file is missing or damaged.
    """
    if start < 0 or (stop is not None and stop <= start):
        raise UsageError(f"{folder}: no frames from {start} to {stop}; start is 0 or more, stop is larger")
    folder = Path(folder)
    form = form_in(folder)
    pieces = list(form.read(folder, start, stop))
    if not pieces and start:
        raise UsageError(f"{folder}: no frame {start}; the flow has {form.frames(folder)} frames")
    if not pieces:
        raise BadInput(f"{folder}: the flow files have no frames")
    made = [form.made(path) for path in form.files(folder)]
    return quantisation_of(made[0].get("settings", {})).pixels(np.concatenate(pieces))


def read_provenance(path: Path | str) -> dict[str, Any]:
    """What a file of stored flow, such as `x.mp4` or `flow.npz`, says of itself; {} for one that we did not write.

    A folder stands for the flow that is stored in it. Nothing is decoded.

    Raises BadInput if it cannot be read, or is truncated.
    """
    path = Path(path)
    if path.is_dir():
        path = form_in(path).files(path)[0]
    ends = {name: form for form, names in FLOW_FILES.items() for name in names}
    form = next((form for name, form in ends.items() if path.as_posix().endswith(f"/{name}")), "mp4")
    return FORMS[form].made(path)
