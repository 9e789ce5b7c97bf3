"""One video in hand: what is made of it, and the record of how that goes."""

from __future__ import annotations

import errno
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3flow.errors import BadInput, Interrupted
from m3flow.extraction.sinks import FlowSink, Piece, Sink, TrajectorySink
from m3flow.extraction.statistics import MotionStatistics
from m3flow.results.provenance import Camera, StoredFlow, made_by
from m3flow.results.records import Record, one_line
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.decoder import Decoded, shortfall
from m3flow.videos.identity import stamp
from m3flow.videos.videolist import Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator

# Errors of writing that no other video would be spared.
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Making:
    """A video in hand: pieces of motion are stored, then it is completed. By itself, one that needs nothing.

    Attributes
    ----------
    video, record: the video, and how it goes.
    error: what ended this video, and no other.
    ending: whether its completion has been asked for.
    over: whether everything is done and the record is complete.
    """

    def __init__(self, video: Video, device: str) -> None:
        self.video = video
        self.record = Record(video=video.name, status="done", host=socket.gethostname(), device=device)
        self.error: Exception | None = None
        self.ending = self.over = False
        self._began = time.perf_counter()
        self._sinks: list[Sink] = []
        self._files = ExitStack()

    def begin(self) -> None:
        """Count the time from now on: until now other videos were in hand."""
        self._began = time.perf_counter()

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What goes wrong in the block is this video's error."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        # The first one says why; others follow from it.
        self.error = self.error or error

    def store(self, piece: Piece) -> None:
        """Write some of the video's motion."""
        if self.error is None:
            with self.blamed():
                self._store(piece)

    def complete(self) -> None:
        """All motion is stored, or the video has failed: make the files final, and the record complete."""
        if self.error is None:
            with self.blamed():
                self._finish()
        with self.blamed():
            self.drop()
        record, error = self.record, self.error
        if isinstance(error, BadInput):
            record.status, record.reason = "rejected", one_line(str(error))
        elif error is not None:
            record.status, record.reason = "failed", f"{type(error).__name__}: {one_line(str(error))}"
            record.traceback = "".join(traceback.format_exception(error))
            record.ends_run = getattr(error, "errno", None) in NO_PLACE
        record.seconds = time.perf_counter() - self._began
        record.time = datetime.now(UTC).isoformat(timespec="seconds")
        self.over = True

    def drop(self) -> None:
        """Leave nothing of what is not final."""
        self._files.close()

    def _refuse_changed(self, before: tuple[int, int] | None) -> None:
        """Raises RuntimeError where the video is not what it was `before` its content was looked at."""
        if stamp(self.video.source) != before:
            raise RuntimeError("the video changed while it was read; run again")

    def _enter(self, sink: Sink) -> None:
        self._sinks.append(self._files.enter_context(sink))

    def _store(self, piece: Piece) -> None:
        for sink in self._sinks:
            sink.write(piece)

    def _finish(self) -> None: ...


class FromFrames(Making):
    """A video whose frames are wanted: for flow, for trajectories, or for both in one pass.

    Parameters
    ----------
    motion: what computes its motion.
    flow_to: the folder that the flow is stored in; None to store none.
    trajectories_to: the file that the trajectories are stored in; None to make none.
    source: what identifies the video's content, see `m3flow.videos.identity.identity`.
    before: the `stamp` of the video from before its content was looked at.

    Attributes
    ----------
    camera: what was found of the camera's motion so far.
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
        self._statistics = MotionStatistics(flow.bound)
        self.camera = Camera()

    def open(self, decoded: Decoded) -> None:
        """The video's frames are on their way: open the files that its motion goes to."""
        self._decoded = decoded
        info, record, flow = decoded.info, self.record, self.flow
        record.width, record.height, record.claimed = info.width, info.height, info.claimed
        # Trajectories first: where the flow files are final, the trajectories of their pass are too.
        if self._trajectories is not None and self._trajectories_to is not None:
            self._enter(
                TrajectorySink(self._trajectories_to, self._trajectories, flow.bound, flow.step, record)
            )
        if self._flow_to is not None:
            self._enter(FlowSink(self._flow_to, flow, decoded, record))

    def _store(self, piece: Piece) -> None:
        super()._store(piece)
        self._statistics.add(piece.levels)

    def _finish(self) -> None:
        decoded, record = self._decoded, self.record
        assert decoded is not None
        record.frames, record.decode = decoded.frames, decoded.seconds
        if decoded.frames <= self.flow.step:
            needed = f"flow over {self.flow.step} needs {self.flow.step + 1}"
            raise BadInput(f"only {decoded.frames} frame(s) decode; {needed}")
        self._refuse_changed(self._before)
        record.reason = shortfall(record.frames, record.claimed)
        made = made_by(self.flow.identity(), self._source, decoded, self._motion, self.camera)
        about = self._statistics.summary() | self.camera.summary()
        made["motion"] = {name: float(f"{value:.6g}") for name, value in about.items()}
        for sink in self._sinks:
            sink.close(made)
        record.set(about)


class FromFlow(Making):
    """A video whose trajectories follow its stored flow."""

    def __init__(
        self, video: Video, device: str, flow: StoredFlow, settings: TrajectorySettings, path: Path
    ) -> None:
        super().__init__(video, device)
        self.flow = flow
        self._sink = TrajectorySink(path, settings, flow.bound, flow.step, self.record)
        self._enter(self._sink)

    def _store(self, piece: Piece) -> None:
        super()._store(piece)
        self.record.frames += len(piece.levels)

    def _finish(self) -> None:
        self.record.frames += self.flow.step
        self.record.height, self.record.width = self._sink.size
        self._sink.close(self.flow.made)


class FromCodec(Making):
    """A video whose trajectories are the motion vectors in its own file."""

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

    def read(self, sign_of_life: Callable[[], None]) -> None:
        """Read the vectors and make the file final; calls `sign_of_life` on the way."""
        from m3flow.trajectories.motion_vectors import codec_trajectories

        with self.blamed():
            codec_trajectories(
                self._path, self.video.source, self._settings, self._source, self.record, sign_of_life
            )
            self._refuse_changed(self._before)
