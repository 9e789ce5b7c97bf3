"""Camera search for frame pairs, before their motion is computed: later pairs contribute to the decision."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from m3flow.camera.selection import UNDECIDED, Decision, Selector
from m3flow.extraction.batching import Batches, Part
from m3flow.extraction.tasks import FrameTask

if TYPE_CHECKING:
    from m3flow.camera.candidates import Candidates
    from m3flow.camera.compensation import MotionEstimator
    from m3flow.flow.base import Array

Owner = TypeVar("Owner")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stretch(Generic[Owner]):
    """The next frames of a video whose camera is known.

    Attributes
    ----------
    owner: the video.
    frames: uint8 [n, H, W].
    decisions: for each frame, that about the pair it starts; `UNDECIDED` for the last frames, which start none.
    batch: the number of pairs to compute at a time.
    seconds: the time taken by the search.
    last: whether the owner has no more frames.
    error: the failure; no more stretches of this owner follow.
    """

    owner: Owner
    frames: np.ndarray
    decisions: list[Decision]
    batch: int = 1
    seconds: float = 0.0
    last: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class _Waiting:
    """A video's frames whose pairs are not decided yet, and their selector."""

    selector: Selector
    batch: int
    blocks: deque[np.ndarray] = field(default_factory=deque)
    start: int = 0  # frames of the first block that have been taken

    def take(self, count: int) -> np.ndarray:
        """The next `count` frames, uint8 [count, H, W]."""
        taken: list[np.ndarray] = []
        while count:
            block = self.blocks[0][self.start : self.start + count]
            taken.append(block)
            count -= len(block)
            self.start += len(block)
            if self.start == len(self.blocks[0]):
                self.blocks.popleft()
                self.start = 0
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


@dataclass(frozen=True)
class _Found:
    """The candidates of some pairs, and the time taken by each."""

    candidates: Candidates
    seconds: float

    def __getitem__(self, pairs: slice) -> _Found:
        return _Found(self.candidates[pairs], self.seconds)


class CameraSearch(Generic[Owner]):
    """Finds the camera of videos whose frames arrive in blocks, in batches shared between videos on a GPU.

    Videos arrive one after the other, as in `m3flow.extraction.batching.Batches`; at most the frames of a batch and of
    the look-ahead of a decision are kept per video. A decision does not depend on the batches.

    Parameters
    ----------
    motion: finds the candidates.
    step, shared, device, fitting: see `Batches`.
    """

    def __init__(
        self,
        motion: MotionEstimator,
        *,
        step: int = 1,
        shared: bool = False,
        device: str | None = None,
        fitting: MutableMapping[tuple[int, int], int] | None = None,
    ) -> None:
        self._motion, self._step = motion, step
        self._batches: Batches[Owner, _Found] = Batches(
            self._search, step=step, shared=shared, device=device, fitting=fitting
        )
        self._waiting: dict[int, _Waiting] = {}

    def add(self, owner: Owner, frames: np.ndarray, batch: int) -> Iterator[Stretch[Owner]]:
        """The next frames of a video, uint8 [any number, H, W], with at most `batch` pairs at a time."""
        size = frames.shape[1], frames.shape[2]
        if id(owner) not in self._waiting:
            self._waiting[id(owner)] = _Waiting(self._motion.selector(size, self._step), batch)
        self._waiting[id(owner)].blocks.append(frames)
        yield from self._decided(self._batches.add(owner, frames, batch))

    def end(self, owner: Owner) -> Iterator[Stretch[Owner]]:
        """The video has no more frames."""
        yield from self._decided(self._batches.end(owner))

    def flush(self) -> Iterator[Stretch[Owner]]:
        """Process the remaining frames."""
        yield from self._decided(self._batches.flush())

    def drop(self, owner: Owner) -> None:
        """Forget a failed video."""
        self._batches.drop(owner)
        self._waiting.pop(id(owner), None)

    def _search(self, frames: Array) -> _Found:
        began = time.perf_counter()
        candidates = self._motion.candidates(frames, self._step)
        return _Found(candidates, (time.perf_counter() - began) / len(candidates))

    def _decided(self, parts: Iterator[Part[Owner, _Found]]) -> Iterator[Stretch[Owner]]:
        for part in parts:
            waiting = self._waiting.get(id(part.owner))
            if part.error is not None or waiting is None:
                self.drop(part.owner)
                yield Stretch(part.owner, np.empty((0, 0, 0), np.uint8), [], last=part.last, error=part.error)
                continue
            decisions, seconds = [], 0.0
            if part.result is not None:
                decisions = waiting.selector.push(part.result.candidates)
                seconds = part.result.seconds * len(part.result.candidates)
            if part.last:
                decisions += waiting.selector.finish()
                left = sum(map(len, waiting.blocks)) - waiting.start - len(decisions)
                decisions += [UNDECIDED] * left
                del self._waiting[id(part.owner)]
            if decisions or part.last:
                frames: Any = waiting.take(len(decisions)) if decisions else np.empty((0, 0, 0), np.uint8)
                yield Stretch(part.owner, frames, decisions, waiting.batch, seconds, part.last)


class SearchedBatches(Generic[Result]):
    """Batches of frames after a camera search; the methods are those of `Batches`.

    Parameters
    ----------
    motion: finds the candidates.
    batches: receives the frames of videos with the decision about the pair started by each.
    how: the options of `batches`, see `Batches`.
    """

    def __init__(self, motion: MotionEstimator, batches: Batches[FrameTask, Result], **how: Any) -> None:
        self._search: CameraSearch[FrameTask] = CameraSearch(motion, **how)
        self._batches = batches

    def add(self, task: FrameTask, frames: np.ndarray, batch: int) -> Iterator[Part[FrameTask, Result]]:
        yield from self._computed(self._search.add(task, frames, batch))

    def end(self, task: FrameTask) -> Iterator[Part[FrameTask, Result]]:
        yield from self._computed(self._search.end(task))

    def flush(self) -> Iterator[Part[FrameTask, Result]]:
        yield from self._computed(self._search.flush())
        yield from self._batches.flush()

    def drop(self, task: FrameTask) -> None:
        self._search.drop(task)
        self._batches.drop(task)

    def _computed(self, stretches: Iterator[Stretch[FrameTask]]) -> Iterator[Part[FrameTask, Result]]:
        for stretch in stretches:
            task = stretch.owner
            if stretch.error is not None:
                self._batches.drop(task)
                yield Part(task, last=True, error=stretch.error)
                continue
            task.record.flow += stretch.seconds
            if len(stretch.frames):
                yield from self._batches.add(task, stretch.frames, stretch.batch, stretch.decisions)
            if stretch.last:
                yield from self._batches.end(task)
