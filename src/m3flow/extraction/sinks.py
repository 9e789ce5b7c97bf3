"""Where a video's quantised motion goes: the flow files and the trajectory file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.results.quantisation import table
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories.tracking import Tracker
from m3flow.videos.decoder import Decoded


@dataclass(frozen=True)
class Piece:
    """Some frame pairs of a video.

    Attributes
    ----------
    levels: uint8 [n, 2, H, W], the quantised motion.
    homographies: float32 [n, 3, 3], the camera's motion that is not in it; None where none was looked for.
    """

    levels: np.ndarray
    homographies: np.ndarray | None = None


@contextmanager
def clock(record: Record, stage: str) -> Iterator[None]:
    """Add the time that the block takes to a stage of the record."""
    began = time.perf_counter()
    try:
        yield
    finally:
        setattr(record, stage, getattr(record, stage) + time.perf_counter() - began)


class Sink:
    """Where quantised motion goes: written piece by piece, final when closed."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, piece: Piece) -> None: ...

    def close(self, made: dict[str, Any]) -> None: ...


class FlowSink(Sink):
    def __init__(self, folder: Path, flow: FlowSettings, decoded: Decoded, record: Record) -> None:
        from m3flow.results.flowfile import FlowWriter

        info = decoded.info
        self._record = record
        self._writer = FlowWriter(
            folder, codec=flow.codec, rate=info.rate, width=info.width, height=info.height
        )

    def __exit__(self, *_: object) -> None:
        self._writer.__exit__()

    def write(self, piece: Piece) -> None:
        with clock(self._record, "encode"):
            self._writer.write(piece.levels)

    def close(self, made: dict[str, Any]) -> None:
        with clock(self._record, "encode"):
            self._writer.close(made)


class TrajectorySink(Sink):
    def __init__(
        self, path: Path, settings: TrajectorySettings, bound: float, step: int, record: Record
    ) -> None:
        self._path, self._settings, self._record = path, settings, record
        self._tracker = Tracker(
            length=settings.length,
            job=settings.job,
            tracking=settings.tracking,
            step=step,
            table=table(bound),
        )
        self._writer: Any = None
        self._inside = self._points = 0
        self.size = (0, 0)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.__exit__()

    def write(self, piece: Piece) -> None:
        from m3flow.results.trajectoryfile import TrajectoryWriter

        with clock(self._record, "track"):
            follows_pixels = self._settings.track == "pixels"
            features, inside = self._tracker.push(
                piece.levels, piece.homographies if follows_pixels else None
            )
            if self._writer is None:
                self.size = piece.levels.shape[2:]
                self._writer = TrajectoryWriter(
                    self._path,
                    length=self._settings.length,
                    rows=inside.shape[1],
                    columns=inside.shape[2],
                )
            self._writer.write(features, inside)
            self._record.windows += len(inside)
            self._inside += int(np.count_nonzero(inside))
            self._points += int(np.size(inside))

    def close(self, made: dict[str, Any]) -> None:
        with clock(self._record, "track"):
            # Without what is of the flow files alone (the camera's homographies are large): a reader finds
            # out how the file was made from its first bytes.
            kept: dict[str, Any] = {key: made[key] for key in ("m3flow", "source", "used") if key in made}
            self._writer.close({**kept, "settings": self._settings.identity(), "flow": made["settings"]})
        if self._points:
            self._record.outside = 1 - self._inside / self._points
        if self._record.windows == 0 and not self._record.reason:
            self._record.reason = f"too short for a trajectory of {self._settings.length} steps"
