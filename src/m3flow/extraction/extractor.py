"""Pipeline from the frames of videos to their output files: decoding, computing and storing overlap."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from m3flow.camera.selection import Decision, Selection
from m3flow.extraction.batching import Batches, Part, batch_size
from m3flow.extraction.camera_search import SearchedBatches
from m3flow.extraction.completion import Completion, Progress
from m3flow.extraction.downloads import Stopwatch, downloads_from
from m3flow.extraction.encoders import Encoder
from m3flow.extraction.evidence import evidence_of, with_frames
from m3flow.extraction.gpu_errors import detecting_lost_device, free_memory_of
from m3flow.extraction.resume import Planner
from m3flow.extraction.sinks import clock
from m3flow.extraction.tasks import CodecTask, FrameTask, StoredFlowTask, VideoTask
from m3flow.extraction.work import Work, motion_estimator, tracking_device
from m3flow.flow.out_of_memory import is_out_of_memory
from m3flow.results.quantisation import Piece
from m3flow.results.records import Record
from m3flow.settings import FlowSettings
from m3flow.system import keep_freed_memory
from m3flow.videos.decoder import Decoder
from m3flow.videos.decoders import Decoders
from m3flow.videos.videolist import Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator
    from m3flow.flow.base import Array

# Peak memory per pixel of each pair: of removing the camera motion, in addition to the estimator's, and of searching
# for the camera.
CAMERA_BYTES_PER_PIXEL = 23
SEARCH_BYTES_PER_PIXEL = 100


class Source(Protocol):
    """The supplier of an `Extractor`'s videos."""

    def take(self, *, wait: bool) -> Video | None:
        """The next video. None if there are no more or, without `wait`, if none is available yet."""


class Queue:
    """A source of videos that are all known in advance."""

    def __init__(self, videos: Iterable[Video]) -> None:
        self._videos = iter(videos)

    def take(self, *, wait: bool) -> Video | None:  # noqa: ARG002 (all videos are known)
        return next(self._videos, None)


class Extractor:
    """Makes the outputs of videos; the estimator and the decoding process are reused between them.

    Use as a context manager: it owns a decoding process and, if the work says so, encoding processes.
    """

    def __init__(self, work: Work, on_frames: Progress = lambda count: None) -> None:
        self.work = work
        self._on_frames = on_frames
        self._last_heartbeat = 0.0
        indexed = work.flow is not None
        self._decoder: Decoder | Decoders = (
            Decoders(work.decoders, work.limits, indexed=indexed)
            if work.decoders > 1
            else Decoder(work.limits, indexed=indexed)
        )
        self._encoders = [Encoder() for _ in range(work.encoders)]
        self._motion: MotionEstimator | None = None
        if work.flow is not None:
            keep_freed_memory()
            self._motion = motion_estimator(work)
        self.device = self._motion.estimator.device if self._motion else tracking_device(work)
        self._downloads = downloads_from(self.device)
        self._confidence = work.trajectories.confidence if work.trajectories else "none"
        self._planner = Planner(work, self._motion, self.device)
        # Frame pairs that fitted the device's memory, by frame size; kept from video to video.
        self._fitting: dict[tuple[int, int], int] = {}

    def __enter__(self) -> Extractor:
        if self._motion is not None or self._confidence != "none":
            self._decoder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()
        for encoder in self._encoders:
            encoder.close()

    def __call__(self, video: Video) -> Record:
        """Make the missing outputs of one video; errors of the video are not raised but recorded."""
        records: list[Record] = []
        self.run(Queue([video]), records.append)
        return records[0]

    def run(self, source: Source, on_record: Callable[[Record], None]) -> None:
        """Make the missing outputs of each video; `on_record` gets the records, in the order of the videos.

        While the motion of one video is computed, the next is decoded, and the previous ones are encoded and
        completed: a record may come after later videos have been started. `on_record` and the progress
        callback are called from the storing threads; an error in them ends the run.

        Raises DeviceLost, and delivers no more records, if the GPU has become unusable to this process.
        """
        # An error on a GPU can surface at any later call, of another video too.
        with (
            detecting_lost_device(self.device),
            Completion(self.device, self._encoders, on_record, self._on_frames) as completion,
        ):
            batches = self._batches()
            upcoming: deque[VideoTask] = deque()
            task = self._next(source, wait=True)
            while task is not None:
                completion.begin(task)
                self._look_ahead(source, upcoming)
                task.begin()
                self._do(task, batches, completion)
                if not upcoming or not isinstance(upcoming[0], FrameTask):
                    self._store_parts(batches.flush(), completion)
                if not upcoming:
                    completion.finish()
                task = upcoming.popleft() if upcoming else self._next(source, wait=True)

    def _batches(self) -> VideoBatches:
        motion, flow = self._motion, self.work.flow
        if motion is None or flow is None:
            return Batches(_no_frames)
        # A short video alone leaves most of a GPU idle.
        on_torch = motion.estimator.backend == "torch"
        how: dict[str, Any] = {
            "step": flow.distance,
            "shared": on_torch,
            "device": self.device if on_torch else None,
            "fitting": self._fitting,
        }
        batches: Batches[FrameTask, _Computed] = Batches(partial(self._motion_of, motion, flow), **how)
        return SearchedBatches(motion, batches, **how) if motion.looks_ahead else batches

    def _motion_of(
        self, motion: MotionEstimator, flow: FlowSettings, frames: Array, decisions: Sequence[Decision] = ()
    ) -> _Computed:
        """The motion of frame pairs, on the device; on a GPU it is launched, perhaps not finished."""
        with self._downloads.timed() as time_taken:
            selection = Selection.of(decisions[: -flow.distance]) if decisions else None
            found = motion(frames, flow.distance, selection)
            evidence = evidence_of(self._confidence, motion, frames, flow.distance, found)
        piece = Piece(
            flow=found.flow,
            homographies=found.homographies,
            accepted=found.accepted,
            confidence=found.confidence,
            bars=found.bars,
            cut=found.cut,
            schemes=found.schemes,
            evidence=evidence,
        )
        return _Computed(piece, time_taken)

    def _look_ahead(self, source: Source, upcoming: deque[VideoTask]) -> None:
        """Add the tasks of the next videos, one for each decoder.

        None where this process itself reads possibly damaged files: a crash must affect only the video in progress.
        """
        while not self.work.reads_codec and len(upcoming) < self.work.decoders:
            task = self._next(source, wait=False)
            if task is None:
                return
            upcoming.append(task)

    def _next(self, source: Source, *, wait: bool) -> VideoTask | None:
        """The task of the next video; its frames are prefetched."""
        video = source.take(wait=wait)
        if video is None:
            return None
        task = self._planner.task(video)
        if isinstance(task, FrameTask):
            self._decoder.expect(
                video.source, task.flow.resize, picture=task.picture, rate=task.flow.frames.rate
            )
        return task

    def _do(self, task: VideoTask, batches: VideoBatches, completion: Completion) -> None:
        """Run one task; storing continues in the background."""
        if isinstance(task, FrameTask):
            return self._compute(task, batches, completion)
        if isinstance(task, StoredFlowTask):
            with task.attributed():
                for piece in _timed(self._stored_pieces(task), task.record, "decode"):
                    self._hand_over(task, piece, completion)
                    if task.error is not None:
                        break
        elif isinstance(task, CodecTask):
            task.read(self._heartbeat)
        return completion.complete(task)

    def _stored_pieces(self, task: StoredFlowTask) -> Iterator[Piece]:
        """The stored flow of a video, with its frames if the confidence needs them."""
        if self._confidence == "none":
            yield from task.flow.pieces()
            return
        decoded = self._decoder.open(task.video.source, task.flow.resize, rate=task.flow.rate)
        with closing(decoded.blocks) as blocks:
            yield from with_frames(task.flow.pieces(), blocks, task.flow.step)

    def _compute(self, task: FrameTask, batches: VideoBatches, completion: Completion) -> None:
        """Compute the motion of a video; the last pairs of a short one may be computed with the next video."""
        with task.attributed():
            flow = task.flow
            decoded = self._decoder.open(
                task.video.source, flow.resize, picture=task.picture, rate=flow.frames.rate
            )
            task.open(decoded)
            info = decoded.info
            batch = self._batch_size(info.height, info.width)
            with closing(decoded.blocks) as blocks:
                for block in _timed(blocks, task.record, "wait"):
                    if task.stores_frames:
                        completion.background(task, partial(task.store_frames, block[..., :3]))
                    frames = np.ascontiguousarray(block[..., 3]) if task.picture == "both" else block
                    self._store_parts(batches.add(task, frames, batch), completion)
                    if task.error is not None:
                        break
        if task.error is None:
            self._store_parts(batches.end(task), completion)
        else:
            batches.drop(task)
            completion.complete(task)

    def _batch_size(self, height: int, width: int) -> int:
        motion, work = self._motion, self.work
        assert motion is not None
        used = motion.estimator.bytes_per_pixel + (CAMERA_BYTES_PER_PIXEL if motion.camera != "none" else 0)
        if motion.looks_ahead:
            used = max(used, SEARCH_BYTES_PER_PIXEL)
        used += motion.estimator.kept_bytes_per_pixel
        size = batch_size(
            self.device, height, width, bytes_per_pixel=used, sharing=work.sharing, setting=work.batch or None
        )
        return min(size, motion.estimator.largest_batch or size)

    def _store_parts(self, parts: Iterable[Part[FrameTask, _Computed]], completion: Completion) -> None:
        """Pass computed motion to the storing thread."""
        for part in parts:
            task = part.owner
            if part.error is not None:
                task.fail(part.error)
            elif part.result is not None and task.error is None:
                with task.attributed():
                    self._hand_over(task, part.result.piece, completion, part.result.time_taken, part.share)
                # Its flow is not needed any more, and the next batch needs the memory.
                part.result = None
            if part.last:
                completion.complete(task)

    def _hand_over(
        self,
        task: VideoTask,
        piece: Piece,
        completion: Completion,
        time_taken: Stopwatch | None = None,
        share: float = 1.0,
    ) -> None:
        """Start copying the stored arrays of a piece to the host; the storing thread waits for the copy.

        On out-of-memory, one half of the piece after the other; later batches are as small.
        """
        pairs = len(piece)
        try:
            derived = task.derive(piece)
        except Exception as error:
            if pairs == 1 or not is_out_of_memory(error):
                raise
            free_memory_of(error)
            self._halve(piece)
            for half in (slice(0, pairs // 2), slice(pairs // 2, pairs)):
                part = piece[half]
                self._hand_over(task, part, completion, time_taken, share * len(part) / pairs)
            return
        fetch = self._downloads.start(derived)

        def store() -> None:
            with task.attributed():
                stored = fetch()
                if time_taken is not None:
                    task.record.flow += share * time_taken.seconds()
                task.store(stored)
            task.reported += pairs
            completion.report(pairs)

        completion.background(task, store)

    def _halve(self, piece: Piece) -> None:
        """Have later batches of this frame size at most half as many pairs as the piece."""
        array = piece.levels if piece.flow is None else piece.flow
        assert array is not None
        size = (array.shape[2], array.shape[3])
        self._fitting[size] = min(self._fitting.get(size, len(piece)), len(piece) // 2)

    def _heartbeat(self) -> None:
        """Report at most once per second that the video in progress advances."""
        if time.monotonic() - self._last_heartbeat >= 1:
            self._last_heartbeat = time.monotonic()
            self._on_frames(0)


@dataclass(frozen=True)
class _Computed:
    """The motion of a batch and its computing time."""

    piece: Piece
    time_taken: Stopwatch

    def __getitem__(self, pairs: slice) -> _Computed:
        return _Computed(self.piece[pairs], self.time_taken)


VideoBatches = Batches[FrameTask, _Computed] | SearchedBatches[_Computed]


def _no_frames(_: object) -> _Computed:
    raise AssertionError("no flow was asked for")


def _timed(items: Iterator[Any], record: Record, stage: str) -> Iterator[Any]:
    """The items; the time spent waiting for them is added to a stage of the record."""
    while True:
        with clock(record, stage):
            item = next(items, None)
        if item is None:
            return
        yield item
