"""Task of one video: stores its motion piece by piece, makes the files final, and completes the record."""

from __future__ import annotations

import errno
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import BadInput, Interrupted
from m3flow.extraction.background import Background
from m3flow.extraction.encoders import in_this_process
from m3flow.extraction.frame_buffer import to_device
from m3flow.extraction.sinks import FlowSink, FrameSink, Sink, TrajectoryOutput, TrajectorySink, clock
from m3flow.extraction.statistics import MotionStatistics
from m3flow.flow.base import is_tensor
from m3flow.results.forms import quantisation_of
from m3flow.results.homographies import Camera
from m3flow.results.provenance import made_by
from m3flow.results.quantisation import Piece, sampled
from m3flow.results.records import Record, timestamp
from m3flow.results.stored_flow import StoredFlow
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.text import one_line
from m3flow.version import __version__
from m3flow.videos.decoder import Decoded, shortfall
from m3flow.videos.frames import Picture
from m3flow.videos.identity import stamp
from m3flow.videos.videolist import Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator

# Write errors that affect every other video too.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class VideoTask:
    """One video: pieces of its motion are stored, then it is completed. The base class has no outputs.

    Attributes
    ----------
    video, record: the video and its record.
    error: the error that ended this video alone.
    reported: frames counted by the progress display so far.
    completing: whether its completion has been scheduled.
    finished: whether everything is done and the record is complete; set by `Completion`.
    thread: the thread that stores it.
    """

    def __init__(self, video: Video, device: str) -> None:
        self.video = video
        self.record = Record(video=video.name, status="done", host=socket.gethostname(), device=device)
        self.error: Exception | None = None
        self.reported = 0
        self.completing = self.finished = False
        self.thread: Background | None = None
        self._began = time.perf_counter()
        self._sinks: list[Sink] = []
        self._files = ExitStack()

    def begin(self) -> None:
        """Start the clock of the record; until now, other videos were computed."""
        self._began = time.perf_counter()

    @contextmanager
    def attributed(self) -> Iterator[None]:
        """Record an error in the block as this video's."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        # The first error is the cause; later ones follow from it.
        self.error = self.error or error

    def derive(self, piece: Piece) -> Piece:
        """The stored arrays of a piece of motion, computed on its device; pieces come in order.

        A call that raises an exception changes nothing.
        """
        return piece

    def store(self, piece: Piece) -> None:
        """Write a piece of the video's motion, returned by `derive` and copied to host memory."""
        if self.error is None:
            with self.attributed():
                self._store(piece)

    def complete(self) -> None:
        """Make the files final and the record complete, once all motion is stored or the video has failed."""
        if self.error is None:
            with self.attributed():
                self._finish()
        with self.attributed():
            self.drop()
        record, error = self.record, self.error
        if isinstance(error, BadInput):
            record.status, record.reason = "rejected", one_line(str(error))
        elif error is not None:
            record.status, record.reason = "failed", f"{type(error).__name__}: {one_line(str(error))}"
            record.traceback = "".join(traceback.format_exception(error))
            record.ends_run = getattr(error, "errno", None) in DISK_FULL
        record.seconds = time.perf_counter() - self._began
        record.time = timestamp()

    def drop(self) -> None:
        """Remove every file that is not final."""
        self._files.close()

    def _refuse_changed(self, before: tuple[int, int] | None) -> None:
        """Raises RuntimeError if the video file has changed since the stamp `before`."""
        if stamp(self.video.source) != before:
            raise RuntimeError("the video changed while it was read; run again")

    def _enter(self, sink: Sink) -> None:
        self._sinks.append(self._files.enter_context(sink))

    def _store(self, piece: Piece) -> None:
        for sink in self._sinks:
            sink.write(piece)

    def _finish(self) -> None: ...


class FrameTask(VideoTask):
    """Flow, trajectories or both in one pass, from the frames of a video.

    Parameters
    ----------
    motion: the estimator of its motion.
    flow_to: the output folder of the flow; None to store none.
    trajectories_to: the output file of the trajectories; None to make none.
    source: the content fingerprint of the video, see `m3flow.videos.identity.identity`.
    before: the `stamp` of the video file when it was fingerprinted.

    Attributes
    ----------
    camera: the homographies, bars and cuts found so far.
    """

    def __init__(
        self,
        video: Video,
        motion: MotionEstimator,
        flow: FlowSettings,
        *,
        flow_to: Path | None,
        trajectories: TrajectorySettings | None,
        trajectories_to: Path | None,
        source: dict[str, Any],
        before: tuple[int, int] | None,
    ) -> None:
        super().__init__(video, motion.estimator.device)
        self._motion = motion
        self.flow, self._flow_to = flow, flow_to
        self._trajectories, self._trajectories_to = trajectories, trajectories_to
        self._source, self._before = source, before
        self._decoded: Decoded | None = None
        self._trajectory_sink: TrajectorySink | None = None
        self._frame_sink: FrameSink | None = None
        self._quantisation = quantisation_of(flow.identity())
        self._statistics = MotionStatistics(self._quantisation)
        self._derived = 0  # pairs quantised so far
        self.camera = Camera()

    @property
    def stores_frames(self) -> bool:
        """Whether the frames are stored next to the flow."""
        return self._flow_to is not None and self.flow.frames.store != "none"

    @property
    def picture(self) -> Picture:
        """The frames to decode, see `m3flow.videos.frames.Frames`."""
        if self._motion.estimator.colour:
            return "colour"
        return "both" if self.stores_frames else "grey"

    def store_frames(self, frames: np.ndarray) -> None:
        """Write frames next to the flow: uint8 [n, H, W, 3], RGB."""
        if self.error is None and self._frame_sink is not None:
            with self.attributed():
                self._frame_sink.write_frames(frames)

    def open(self, decoded: Decoded) -> None:
        """Open the output files, once the video's size and frame rate are known."""
        self._decoded = decoded
        info, record, flow = decoded.info, self.record, self.flow
        record.width, record.height, record.claimed = info.width, info.height, info.claimed
        writers = in_this_process if self.thread is None else self.thread.writers
        # Trajectories first: if the flow files are final, so are the trajectories of the same pass.
        if self._trajectories is not None and self._trajectories_to is not None:
            self._trajectory_sink = TrajectorySink(
                self._trajectories_to,
                self._trajectories,
                self._quantisation,
                flow.distance,
                record,
                writers,
            )
            self._enter(self._trajectory_sink)
        if self._flow_to is not None:
            # The frames before the flow, for the same reason.
            if self.stores_frames:
                self._frame_sink = FrameSink(self._flow_to, flow.frames.quality, record, writers)
                self._enter(self._frame_sink)
            self._enter(FlowSink(self._flow_to, flow, decoded, record, writers))

    def derive(self, piece: Piece) -> Piece:
        """Quantise; on a device, also track the trajectories. Levels that are not stored are not copied to the host."""
        assert piece.flow is not None
        piece = replace(piece, levels=self._quantisation.stored(piece.flow, self._derived), flow=None)
        if is_tensor(piece.levels):
            if self._trajectory_sink is not None:
                piece = replace(piece, windows=self._trajectory_sink.track(piece), evidence=None)
            if self._flow_to is None and piece.levels is not None:
                piece = replace(piece, levels=None, sample=sampled(piece.levels))
        # After a failure for memory, the call is repeated with less.
        self._derived += len(piece)
        return piece

    def _store(self, piece: Piece) -> None:
        super()._store(piece)
        info, sample = self._decoded.info, piece.sample  # type: ignore[union-attr]
        if sample is None:
            assert piece.levels is not None
            sample = sampled(piece.levels)
        self._statistics.add(np.asarray(sample))
        self.camera.add(piece, info.height, info.width)

    def _finish(self) -> None:
        decoded, record = self._decoded, self.record
        assert decoded is not None
        record.frames, record.decode = decoded.frames, decoded.seconds
        if decoded.frames <= self.flow.distance:
            needed = f"flow over {self.flow.distance} needs {self.flow.distance + 1}"
            raise BadInput(f"only {decoded.frames} frame(s) decode; {needed}")
        self._refuse_changed(self._before)
        record.reason = shortfall(record.frames, record.claimed)
        made = made_by(self.flow.identity(), self._source, decoded, self._motion, self.camera)
        about = self._statistics.summary() | self.camera.summary()
        made["motion"] = {name: float(f"{value:.6g}") for name, value in about.items()}
        for sink in self._sinks:
            sink.close(made)
        record.set(about)


class StoredFlowTask(VideoTask):
    """Trajectories from the stored flow of a video."""

    def __init__(
        self, video: Video, device: str, flow: StoredFlow, settings: TrajectorySettings, path: Path
    ) -> None:
        super().__init__(video, device)
        self.flow, self._device = flow, device
        self._sink = TrajectorySink(path, settings, flow.quantisation, flow.step, self.record)
        self._enter(self._sink)

    def derive(self, piece: Piece) -> Piece:
        """On a device, track the trajectories there."""
        assert isinstance(piece.levels, np.ndarray)
        levels = to_device(piece.levels, self._device)
        if not is_tensor(levels):
            return piece
        return replace(piece, windows=self._sink.track(replace(piece, levels=levels)), evidence=None)

    def _store(self, piece: Piece) -> None:
        super()._store(piece)
        assert piece.levels is not None
        self.record.frames += len(piece)
        self.record.height, self.record.width = piece.levels.shape[2:]

    def _finish(self) -> None:
        self.record.frames += self.flow.step
        self._sink.close(self.flow.made)


class CodecTask(VideoTask):
    """Trajectories from the motion vectors in the video file itself."""

    def __init__(
        self,
        video: Video,
        device: str,
        settings: TrajectorySettings,
        path: Path,
        *,
        source: dict[str, Any],
        before: tuple[int, int] | None,
    ) -> None:
        super().__init__(video, device)
        self._settings, self._path, self._source, self._before = settings, path, source, before

    def read(self, heartbeat: Callable[[], None]) -> None:
        """Read the vectors and make the file final; calls `heartbeat` while pictures are decoded."""
        with self.attributed():
            self._write(heartbeat)
            self._refuse_changed(self._before)

    def _write(self, heartbeat: Callable[[], None]) -> None:
        from m3flow.trajectories.motion_vectors import codec_windows, read_motion_vectors

        record, settings = self.record, self._settings
        with clock(record, "decode"):
            vectors = read_motion_vectors(self.video.source, heartbeat)
        with clock(record, "track"), TrajectoryOutput(self._path, settings, record) as output:
            for windows in codec_windows(vectors, settings.length, settings.tracking, fine=settings.fine):
                heartbeat()
                output.write(windows)
            about: dict[str, Any] = {
                "frames": len(vectors.picture_types),
                "width": vectors.width,
                "height": vectors.height,
                "pictures": {kind: vectors.picture_types.count(kind) for kind in "IPBS"},
                "with_vectors": round(float(vectors.coded.mean()) if vectors.coded.size else 0.0, 4),
            }
            output.close(
                {
                    "m3flow": __version__,
                    "settings": settings.identity(),
                    "flow": {},
                    "source": {**self._source, **about},
                }
            )
        record.frames, record.width, record.height = about["frames"], vectors.width, vectors.height
