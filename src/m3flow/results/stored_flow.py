"""A video's flow as it is stored: provenance, levels and homographies, ready to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.layout import flow_files
from m3flow.results.flowfile import quantisation_of, read_level_pairs, read_provenance
from m3flow.results.homographies import homographies_of
from m3flow.results.provenance import same_source
from m3flow.results.quantisation import Piece, Quantisation
from m3flow.videos.identity import identity


@dataclass(frozen=True)
class StoredFlow:
    """The flow files of a folder, with their provenance."""

    folder: Path
    made: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return self.made["settings"]

    @property
    def source(self) -> dict[str, Any]:
        return self.made["source"]

    @property
    def quantisation(self) -> Quantisation:
        return quantisation_of(self.settings)

    @property
    def step(self) -> int:
        return int(self.settings.get("step", 1))

    @property
    def short_side(self) -> int:
        return int(self.settings.get("short_side", 0))

    def levels(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """uint8 [n, 2, H, W] levels, in pieces; of the frames from `start` on and before `stop`."""
        return read_level_pairs(self.folder, start=start, stop=stop)

    def pieces(self) -> Iterator[Piece]:
        """The levels with the camera's homographies, in pieces."""
        camera = homographies_of(self.folder)
        done = 0
        for levels in self.levels():
            end = done + len(levels)
            yield Piece(levels=levels, homographies=camera[0][done:end] if camera else None)
            done = end


def stored_flow(folder: Path) -> StoredFlow:
    """The flow files of a folder; raises BadInput where they are missing, unreadable or do not belong together.

    Files that say nothing of themselves (another program's) are taken with the default bound; the flow file
    itself then stands for the source.
    """
    paths = flow_files(folder)
    for path in paths:
        if not path.is_file():
            raise BadInput(f"no flow file {path}; make the flow first")
    x, y = (read_provenance(path) for path in paths)
    if x.get("settings") != y.get("settings") or not same_source(x, y.get("source", {})):
        raise BadInput(f"{folder}: x.mp4 and y.mp4 were not made together; make the flow again")
    return StoredFlow(folder, {"settings": {}, "source": identity(paths[0]), **x})
