"""One video, from its frames to its files."""

from __future__ import annotations

import errno
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cv2

from m3flow.background import Background
from m3flow.dataset import Outputs, Video
from m3flow.decoding import Decoded, Decoder, Limits, shortfall
from m3flow.errors import BadInput, Interrupted
from m3flow.flow.base import is_tensor
from m3flow.flow.batching import batch_size, run_in_batches
from m3flow.levels import quantise
from m3flow.processes import keep_freed_memory
from m3flow.provenance import Camera, flow_is_current, made_by, stored_flow, trajectories_are_current
from m3flow.records import Record, one_line
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.sinks import FlowSink, Piece, Sink, TrajectorySink, clock
from m3flow.source import identity
from m3flow.statistics import MotionStatistics

if TYPE_CHECKING:
    from m3flow.motion import MotionEstimator

# Errors of writing that no other video would be spared.
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be made of each video of a run, and where.

    Attributes
    ----------
    outputs: the output folder.
    flow: make flow from the frames with these settings; None to take the stored flow.
    trajectories: make trajectories with these settings; None for flow alone.
    keep_flow: whether flow that is made is also stored.
    backend, device: see `m3flow.flow.estimator`.
    batch: frame pairs computed at a time; 0 chooses by the device's memory.
    limits: what decoding a video may cost.
    threads: CPU threads that one worker may use.
    """

    outputs: Outputs
    flow: FlowSettings | None = None
    trajectories: TrajectorySettings | None = None
    keep_flow: bool = True
    backend: str = "auto"
    device: str = "auto"
    batch: int = 0
    limits: Limits = field(default_factory=Limits)
    threads: int = 1


class Extractor:
    """Makes the outputs of one video after the other; what is dear to set up stays warm between them.

    Use as a context manager: it holds a decoding process.
    """

    def __init__(self, work: Work, on_frames: Progress = lambda count: None) -> None:
        self.work = work
        self._on_frames = on_frames
        self._told = 0.0
        self._decoder = Decoder(work.limits)
        self._motion: MotionEstimator | None = None
        if work.flow is not None:
            keep_freed_memory()
            self._motion = motion_estimator(work)

    def __enter__(self) -> Extractor:
        if self._motion is not None:
            self._decoder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def __call__(self, video: Video) -> Record:
        """Make what is missing of the video's outputs; never raises for a video, the record says how it went."""
        record = Record(video=video.name, status="done", host=socket.gethostname(), device=self.device)
        began = time.perf_counter()
        try:
            self._make(video, record)
        except BadInput as error:
            record.status, record.reason = "rejected", one_line(str(error))
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            record.status, record.reason = "failed", f"{type(error).__name__}: {one_line(str(error))}"
            record.traceback = traceback.format_exc()
            record.ends_run = getattr(error, "errno", None) in NO_PLACE
        record.seconds = time.perf_counter() - began
        record.time = datetime.now(UTC).isoformat(timespec="seconds")
        return record

    @property
    def device(self) -> str:
        return self._motion.estimator.device if self._motion else "cpu"

    def _make(self, video: Video, record: Record) -> None:
        trajectories = self.work.trajectories
        if self.work.flow is not None:
            self._from_frames(video, record)
        elif trajectories is not None and trajectories.job == "mvs":
            self._from_codec(video, trajectories, record)
        elif trajectories is not None:
            self._from_stored_flow(video, trajectories, record)

    def _from_frames(self, video: Video, record: Record) -> None:
        """Flow from the frames, and, where wanted, the trajectories in the same pass."""
        assert self.work.flow is not None and self._motion is not None
        flow, trajectories, outputs = self.work.flow, self.work.trajectories, self.work.outputs
        stamp = _stamp(video.source)
        source = identity(video.source)
        folder = outputs.flow(video.name)
        make_flow = self.work.keep_flow and not flow_is_current(folder, flow, source)
        path = outputs.trajectories(video.name, trajectories.length) if trajectories else None
        make_trajectories = (
            trajectories is not None
            and path is not None
            and not trajectories_are_current(path, trajectories, flow.identity(), source)
        )
        if not make_flow and not make_trajectories:
            record.status = "kept"
            if self.work.keep_flow:
                _recall(record, stored_flow(folder).made)
            return None
        if trajectories is not None and self.work.keep_flow and not make_flow:
            # The flow is there, another length or tracking is wanted: the frames are not needed.
            return self._from_stored_flow(video, trajectories, record)
        decoded = self._decoder.open(video.source, flow.short_side)
        info = decoded.info
        record.width, record.height, record.claimed = info.width, info.height, info.claimed
        statistics, camera = MotionStatistics(flow.bound), Camera()
        with ExitStack() as open_files:
            # Trajectories first: where the flow files are final, the trajectories of their pass are too.
            sinks: list[Sink] = []
            if make_trajectories:
                assert trajectories is not None and path is not None
                sinks.append(TrajectorySink(path, trajectories, flow.bound, flow.step, record))
            if make_flow:
                sinks.append(FlowSink(folder, flow, decoded, record))
            for sink in sinks:
                open_files.enter_context(sink)

            def store(piece: Piece) -> None:
                for sink in sinks:
                    sink.write(piece)
                statistics.add(piece.levels)
                self._on_frames(len(piece.levels))

            with Background(store) as behind:
                for piece in self._pieces(decoded, flow, camera, record):
                    behind(piece)
                behind.finish()
            record.frames, record.decode = decoded.frames, decoded.seconds
            if decoded.frames <= flow.step:
                raise BadInput(
                    f"only {decoded.frames} frame(s) decode; flow over {flow.step} needs {flow.step + 1}"
                )
            if _stamp(video.source) != stamp:
                raise RuntimeError("the video changed while it was read; run again")
            record.reason = shortfall(record.frames, record.claimed)
            made = made_by(flow.identity(), source, decoded, self._motion, camera)
            made["motion"] = {
                name: float(f"{value:.6g}")
                for name, value in (statistics.summary() | camera.summary()).items()
            }
            for sink in sinks:
                sink.close(made)
        return _set(record, statistics.summary() | camera.summary())

    def _pieces(
        self, decoded: Decoded, flow: FlowSettings, camera: Camera, record: Record
    ) -> Iterator[Piece]:
        """The quantised motion of a video, and what was taken out of it, in pieces."""
        assert self._motion is not None
        info = decoded.info
        batch = batch_size(self.device, info.height, info.width, setting=self.work.batch or None)
        blocks = _timed(decoded.blocks, record, "wait")
        motions = run_in_batches(
            lambda frames: self._motion(frames, flow.step),  # type: ignore[misc]
            blocks,
            step=flow.step,
            batch=batch,
        )
        waited = 0.0
        for motion in _timed(motions, record, "flow"):
            # The time of the estimator is what is left when the waiting for frames is taken off.
            record.flow -= record.wait - waited
            waited = record.wait
            camera.add(motion)
            with clock(record, "flow"):
                levels: Any = quantise(motion.flow, flow.bound)
                if is_tensor(levels):
                    levels = levels.cpu().numpy()
            yield Piece(levels, motion.homographies)

    def _from_stored_flow(self, video: Video, settings: TrajectorySettings, record: Record) -> None:
        """Trajectories from the flow files."""
        outputs = self.work.outputs
        path = outputs.trajectories(video.name, settings.length)
        flow = stored_flow(outputs.flow(video.name))
        if trajectories_are_current(path, settings, flow.settings, flow.source):
            record.status = "kept"
            return
        sink = TrajectorySink(path, settings, flow.bound, flow.step, record)
        with sink, Background(sink.write) as behind:
            for piece in _timed(flow.pieces(), record, "decode"):
                behind(piece)
                record.frames += len(piece.levels)
                self._on_frames(len(piece.levels))
            behind.finish()
            record.height, record.width = sink.size
            sink.close(flow.made)
        record.frames += flow.step

    def _sign_of_life(self) -> None:
        """Tell once a second that the video in hand moves on."""
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._on_frames(0)

    def _from_codec(self, video: Video, settings: TrajectorySettings, record: Record) -> None:
        """Trajectories from the motion vectors in the video file itself."""
        from m3flow.motionvectors import codec_trajectories

        stamp = _stamp(video.source)
        source = identity(video.source)
        path = self.work.outputs.trajectories(video.name, settings.length)
        if trajectories_are_current(path, settings, {}, source):
            record.status = "kept"
            return
        codec_trajectories(path, video.source, settings, source, record, self._sign_of_life)
        if _stamp(video.source) != stamp:
            raise RuntimeError("the video changed while it was read; run again")
        self._on_frames(record.frames)


def motion_estimator(work: Work) -> MotionEstimator:
    """The estimator with its treatment of the camera, on the device that the work names."""
    from m3flow.flow import estimator
    from m3flow.motion import MotionEstimator

    assert work.flow is not None
    chosen = estimator(work.flow.estimator, backend=work.backend, device=work.device, **work.flow.parameters)
    # Now that the estimator's library is loaded.
    limit_threads(work.threads)
    return MotionEstimator(chosen, camera=work.flow.camera, scheme=work.flow.scheme)


def limit_threads(threads: int) -> None:
    """Keep the libraries of this process from starting a thread a core: there is a process a core already."""
    import sys

    cv2.setNumThreads(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _timed(items: Iterator[Any], record: Record, stage: str) -> Iterator[Any]:
    """The items, with the time that getting each takes added to a stage of the record."""
    while True:
        with clock(record, stage):
            item = next(items, None)
        if item is None:
            return
        yield item


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _recall(record: Record, made: dict[str, Any]) -> None:
    """What the first record of a video said: a run that was killed may have left the files and no record."""
    about = made["source"]
    for name in ("frames", "claimed", "width", "height"):
        setattr(record, name, int(about.get(name, 0)))
    _set(record, made.get("motion", {}))


def _set(record: Record, values: dict[str, float]) -> None:
    for name, value in values.items():
        setattr(record, name, value)
