"""Destinations of a video's motion: the flow files and the trajectory file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.extraction.encoders import Writer, Writers, in_this_process
from m3flow.layout import frames_folder
from m3flow.results.forms import FlowWriter, Stream, form_of
from m3flow.results.quantisation import Piece, Quantisation
from m3flow.results.records import Record
from m3flow.results.stored_frames import FrameWriter
from m3flow.results.trajectoryfile import TrajectoryWriter
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories.confidence import RELIABLE
from m3flow.trajectories.tracking import Tracker, Windows
from m3flow.videos.decoder import Decoded


@contextmanager
def clock(record: Record, stage: str) -> Iterator[None]:
    """Add the duration of the block to a stage of the record."""
    began = time.perf_counter()
    try:
        yield
    finally:
        setattr(record, stage, getattr(record, stage) + time.perf_counter() - began)


def flow_writer(folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
    """The writer of flow with these settings (`FlowSettings.identity`) into a video's folder."""
    return form_of(settings).writer(folder, settings, stream)


class Sink:
    """A destination of quantised motion: written piece by piece, final when closed."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, piece: Piece) -> None: ...

    def close(self, made: dict[str, Any]) -> None: ...


class FlowSink(Sink):
    """The stored flow of a video."""

    def __init__(
        self,
        folder: Path,
        flow: FlowSettings,
        decoded: Decoded,
        record: Record,
        writers: Writers = in_this_process,
    ) -> None:
        info = decoded.info
        self._record = record
        stream = Stream(width=info.width, height=info.height, rate=info.rate, step=flow.step)
        self._writer = writers(flow_writer, folder, flow.identity(), stream)

    def __exit__(self, *_: object) -> None:
        self._writer.__exit__()

    def write(self, piece: Piece) -> None:
        with clock(self._record, "encode"):
            self._writer.write(np.asarray(piece.levels))

    def close(self, made: dict[str, Any]) -> None:
        with clock(self._record, "encode"):
            self._writer.close(made)


class FrameSink(Sink):
    """The frames of a video, stored next to its flow."""

    def __init__(
        self, flow_folder: Path, quality: int, record: Record, writers: Writers = in_this_process
    ) -> None:
        self._record = record
        self._writer = writers(FrameWriter, frames_folder(flow_folder), quality)

    def __exit__(self, *_: object) -> None:
        self._writer.__exit__()

    def write_frames(self, frames: np.ndarray) -> None:
        """Append frames: uint8 [n, H, W, 3], RGB."""
        with clock(self._record, "encode"):
            self._writer.write(frames)

    def close(self, made: dict[str, Any]) -> None:
        with clock(self._record, "encode"):
            self._writer.close(made)


class TrajectoryOutput:
    """The trajectory file of a video and its figures in the record; the file appears when it is closed."""

    def __init__(
        self,
        path: Path,
        settings: TrajectorySettings,
        record: Record,
        writers: Writers = in_this_process,
    ) -> None:
        self._path, self._settings, self._record, self._writers = path, settings, record, writers
        self._writer: Writer | None = None
        self._inside = self._points = self._reliable = 0

    def __enter__(self) -> TrajectoryOutput:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.__exit__()

    def write(self, windows: Windows) -> None:
        """Append windows; the first call determines the grid and the arrays of the file."""
        arrays = windows.map(np.asarray)
        types = np.asarray(arrays.traj_type)
        if self._writer is None:
            _, rows, columns = types.shape
            self._writer = self._writers(
                TrajectoryWriter,
                self._path,
                length=self._settings.length,
                rows=rows,
                columns=columns,
                confidence=arrays.traj_conf is not None,
                fine=arrays.traj_fine is not None,
            )
        self._writer.write(*arrays.arrays())
        self._record.windows += len(types)
        self._inside += int(np.count_nonzero(types))
        self._points += types.size
        if arrays.traj_conf is not None:
            self._reliable += int(np.count_nonzero(np.asarray(arrays.traj_conf)[-1] >= RELIABLE))

    def close(self, made: dict[str, Any]) -> None:
        """Make the file final, with the provenance `made`; call `write` at least once before."""
        assert self._writer is not None
        record = self._record
        self._writer.close(made)
        if self._points:
            record.outside = 1 - self._inside / self._points
            if self._settings.confidence != "none":
                record.reliable = self._reliable / self._points
        if record.windows == 0 and not record.reason:
            record.reason = f"too short for a trajectory of {self._settings.length} steps"


class TrajectorySink(Sink):
    """The trajectories of a video, tracked through its quantised motion."""

    def __init__(
        self,
        path: Path,
        settings: TrajectorySettings,
        quantisation: Quantisation,
        step: int,
        record: Record,
        writers: Writers = in_this_process,
    ) -> None:
        self._settings, self._record = settings, record
        self._tracker = Tracker(
            length=settings.length,
            job=settings.job,
            tracking=settings.tracking,
            step=step,
            table=quantisation.table,
            fine=settings.fine,
        )
        self._output = TrajectoryOutput(path, settings, record, writers)

    def __exit__(self, *_: object) -> None:
        self._output.__exit__()

    def track(self, piece: Piece) -> Windows:
        """The windows completed by a piece, computed on the device of its levels; pieces come in order."""
        assert piece.levels is not None
        with clock(self._record, "track"):
            follows_pixels = self._settings.track == "pixels"
            homographies = piece.homographies if follows_pixels else None
            return self._tracker.push(piece.levels, homographies, piece.evidence, piece.without_picture())

    def write(self, piece: Piece) -> None:
        windows = self.track(piece) if piece.windows is None else piece.windows
        with clock(self._record, "track"):
            self._output.write(windows)

    def close(self, made: dict[str, Any]) -> None:
        with clock(self._record, "track"):
            # Without the keys that only the flow files need (the homographies are large), so that the
            # provenance fits in the first bytes of the file.
            kept: dict[str, Any] = {key: made[key] for key in ("m3flow", "source", "used") if key in made}
            self._output.close({**kept, "settings": self._settings.identity(), "flow": made["settings"]})
