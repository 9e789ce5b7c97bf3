"""Videos, from their frames to their files: one is decoded, one computed, one stored at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import cv2

from m3flow.extraction.background import Background
from m3flow.extraction.batching import Batches, Part, batch_size
from m3flow.extraction.sinks import Piece, clock
from m3flow.extraction.tasks import FromCodec, FromFlow, FromFrames, Making
from m3flow.flow.base import is_tensor
from m3flow.results.provenance import flow_is_current, stored_flow, trajectories_are_current
from m3flow.results.quantisation import quantise
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.system import keep_freed_memory
from m3flow.videos.decoder import Decoder, Limits
from m3flow.videos.identity import identity, stamp
from m3flow.videos.videolist import Outputs, Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import Motion, MotionEstimator

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


class Source(Protocol):
    """Where an `Extractor` gets its videos from."""

    def take(self, *, wait: bool) -> Video | None:
        """The next video. None: there are no more; without `wait`, also where there is none to be had yet."""


class Queue:
    """Videos that are all known beforehand."""

    def __init__(self, videos: Iterable[Video]) -> None:
        self._videos = iter(videos)

    def take(self, *, wait: bool) -> Video | None:  # noqa: ARG002 (nothing has to be waited for)
        return next(self._videos, None)


class Extractor:
    """Makes the outputs of videos; what is dear to set up stays warm between them.

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

    @property
    def device(self) -> str:
        return self._motion.estimator.device if self._motion else "cpu"

    def __call__(self, video: Video) -> Record:
        """Make what is missing of the video's outputs; never raises for a video, the record says how it went."""
        records: list[Record] = []
        self.run(Queue([video]), records.append)
        return records[0]

    def run(self, source: Source, on_record: Callable[[Record], None]) -> None:
        """Make what is missing of each video's outputs; `on_record` gets the records, in the order of the videos.

        While the motion of one video is computed, the next is decoded, and the last ones are encoded and
        completed: a video's record may come when later ones have been begun. `on_record` and the progress are
        called from a thread that does the storing; an error of theirs ends the run.
        """
        in_hand: deque[Making] = deque()
        try:
            with Background() as behind:
                line = _Line(behind, in_hand, on_record)
                batches = self._batches()
                making = self._next(source, wait=True)
                while making is not None:
                    in_hand.append(making)
                    upcoming = self._next(source, wait=False) if self._takes_ahead else None
                    making.begin()
                    self._do(making, batches, line)
                    if not isinstance(upcoming, FromFrames):
                        self._pass_on(batches.flush(), line)
                    if upcoming is None:
                        behind.finish()
                    making = upcoming or self._next(source, wait=True)
        finally:
            for left in in_hand:
                left.drop()

    @property
    def _takes_ahead(self) -> bool:
        """Whether the next video is looked at before the one in hand is done.

        Not where this process itself reads what may be damaged: what it dies of must be the one in hand.
        """
        settings = self.work.trajectories
        return self.work.flow is not None or settings is None or settings.job != "mvs"

    def _batches(self) -> Batches[FromFrames, Motion]:
        motion, flow = self._motion, self.work.flow
        if motion is None or flow is None:
            return Batches(_no_frames)
        # A short video alone leaves most of a GPU idle.
        shared = motion.estimator.backend == "torch"
        return Batches(lambda frames: motion(frames, flow.step), step=flow.step, shared=shared)

    def _next(self, source: Source, *, wait: bool) -> Making | None:
        """The next video and what it needs; it is decoded as soon as those before it are."""
        video = source.take(wait=wait)
        if video is None:
            return None
        making = Making(video, self.device)
        with making.blamed():
            making = self._plan(video)
        if isinstance(making, FromFrames):
            self._decoder.expect(video.source, making.flow.short_side)
        return making

    def _plan(self, video: Video) -> Making:
        """What is to be done for a video: nothing where all is there already."""
        if self.work.flow is not None and self._motion is not None:
            return self._plan_frames(video, self.work.flow, self._motion)
        settings = self.work.trajectories
        if settings is not None and settings.job == "mvs":
            return self._plan_codec(video, settings)
        if settings is not None:
            return self._plan_stored_flow(video, settings)
        return Making(video, self.device)

    def _plan_frames(self, video: Video, flow: FlowSettings, motion: MotionEstimator) -> Making:
        """Flow from the frames, and, where wanted, the trajectories in the same pass."""
        settings, outputs = self.work.trajectories, self.work.outputs
        before, source = stamp(video.source), identity(video.source)
        folder = outputs.flow(video.name)
        make_flow = self.work.keep_flow and not flow_is_current(folder, flow, source)
        path = outputs.trajectories(video.name, settings.length) if settings else None
        make_trajectories = (
            settings is not None
            and path is not None
            and not trajectories_are_current(path, settings, flow.identity(), source)
        )
        if not make_flow and not make_trajectories:
            return self._kept(video, stored_flow(folder).made if self.work.keep_flow else None)
        if settings is not None and self.work.keep_flow and not make_flow:
            # The flow is there, another length or tracking is wanted: the frames are not needed.
            return self._plan_stored_flow(video, settings)
        return FromFrames(
            video,
            motion,
            flow,
            flow_to=folder if make_flow else None,
            trajectories=settings,
            trajectories_to=path if make_trajectories else None,
            source=source,
            before=before,
        )

    def _plan_stored_flow(self, video: Video, settings: TrajectorySettings) -> Making:
        """Trajectories from the flow files."""
        path = self.work.outputs.trajectories(video.name, settings.length)
        flow = stored_flow(self.work.outputs.flow(video.name))
        if trajectories_are_current(path, settings, flow.settings, flow.source):
            return self._kept(video)
        return FromFlow(video, self.device, flow, settings, path)

    def _plan_codec(self, video: Video, settings: TrajectorySettings) -> Making:
        """Trajectories from the motion vectors in the video file itself."""
        before, source = stamp(video.source), identity(video.source)
        path = self.work.outputs.trajectories(video.name, settings.length)
        if trajectories_are_current(path, settings, {}, source):
            return self._kept(video)
        return FromCodec(video, self.device, settings, path, source=source, before=before)

    def _kept(self, video: Video, made: dict[str, Any] | None = None) -> Making:
        making = Making(video, self.device)
        making.record.status = "kept"
        if made is not None:
            _recall(making.record, made)
        return making

    def _do(self, making: Making, batches: Batches[FromFrames, Motion], line: _Line) -> None:
        """A video's work; what is left of it goes on behind."""
        if isinstance(making, FromFrames):
            return self._compute(making, batches, line)
        if isinstance(making, FromFlow):
            with making.blamed():
                for piece in _timed(making.flow.pieces(), making.record, "decode"):
                    line.behind(partial(self._store, making, piece))
                    if making.error is not None:
                        break
        elif isinstance(making, FromCodec):
            making.read(self._sign_of_life)
            self._on_frames(making.record.frames)
        return line.complete(making)

    def _compute(self, making: FromFrames, batches: Batches[FromFrames, Motion], line: _Line) -> None:
        """The motion of a video from its frames; that of a short one may come with that of the next."""
        with making.blamed():
            decoded = self._decoder.open(making.video.source, making.flow.short_side)
            making.open(decoded)
            info = decoded.info
            batch = batch_size(self.device, info.height, info.width, setting=self.work.batch or None)
            with closing(decoded.blocks) as blocks:
                for block in _timed(blocks, making.record, "wait"):
                    self._pass_on(batches.add(making, block, batch), line)
                    if making.error is not None:
                        break
        if making.error is None:
            self._pass_on(batches.end(making), line)
        else:
            batches.drop(making)
            line.complete(making)

    def _pass_on(self, parts: Iterable[Part[FromFrames, Motion]], line: _Line) -> None:
        """Hand motion on to where it is stored."""
        for part in parts:
            making = part.owner
            if part.error is not None:
                making.fail(part.error)
            elif part.result is not None and making.error is None:
                making.record.flow += part.seconds
                with making.blamed(), clock(making.record, "flow"):
                    making.camera.add(part.result)
                    levels: Any = quantise(part.result.flow, making.flow.bound)
                    if is_tensor(levels):
                        levels = levels.cpu().numpy()
                if making.error is None:
                    piece = Piece(levels, part.result.homographies)
                    line.behind(partial(self._store, making, piece))
            if part.last:
                line.complete(making)

    def _store(self, making: Making, piece: Piece) -> None:
        making.store(piece)
        self._on_frames(len(piece.levels))

    def _sign_of_life(self) -> None:
        """Tell once a second that the video in hand moves on."""
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._on_frames(0)


class _Line:
    """The videos in hand, in the order of their records, and the thread that stores and completes them."""

    def __init__(
        self, behind: Background, in_hand: deque[Making], on_record: Callable[[Record], None]
    ) -> None:
        self.behind, self._in_hand, self._on_record = behind, in_hand, on_record

    def complete(self, making: Making) -> None:
        """Complete a video once all that was found of it is stored; it may have failed in several places."""
        if not making.ending:
            making.ending = True
            self.behind(partial(self._complete, making))

    def _complete(self, making: Making) -> None:
        making.complete()
        while self._in_hand and self._in_hand[0].over:
            self._on_record(self._in_hand.popleft().record)


def _no_frames(_: object) -> Motion:
    raise AssertionError("no flow was asked for")


def motion_estimator(work: Work) -> MotionEstimator:
    """The estimator with its treatment of the camera, on the device that the work names."""
    from m3flow.camera.compensation import MotionEstimator
    from m3flow.flow import estimator

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


def _recall(record: Record, made: dict[str, Any]) -> None:
    """What the first record of a video said: a run that was killed may have left the files and no record."""
    about = made["source"]
    record.set({name: int(about.get(name, 0)) for name in ("frames", "claimed", "width", "height")})
    record.set(made.get("motion", {}))
