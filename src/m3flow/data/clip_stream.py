"""Batches of clips in a fixed random order: distributed over ranks and workers, prefetched in threads, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from m3flow.data.labelled_videos import LabelledVideos
from m3flow.errors import UsageError

PREFETCHED_BATCHES = 2


class ClipStream(IterableDataset[Any]):
    """Batches of a data set's clips, without repetition over ranks and workers.

    Iterate over it, or pass it to `DataLoader(stream, batch_size=None, num_workers=n)`: the batches and their order
    are the same with any number of threads and workers. Every epoch has a different order and different crops, both
    determined by seed, epoch and clip alone.

    Parameters
    ----------
    clips: a `TrajectoryClips` or `FlowClips`.
    batch_size: clips in a batch of this rank.
    shuffle: whether an epoch has a random order; otherwise that of the list.
    seed: of the order and of the random crops; the same on all ranks.
    rank, ranks: number of this process among those that train together.
    threads: threads that read clips where there are no workers; decoding leaves the interpreter's lock free.
    drop_last: leave out the batches at the end that are not whole on every rank. Otherwise some ranks may have one
        batch more than others.

    Attributes
    ----------
    epoch: the current epoch; incremented by each complete iteration.
    batch: the batch of this epoch at which the next iteration starts.

    Raises
    ------
    UsageError: an invalid parameter, or fewer clips than one batch on every rank.
    """

    def __init__(
        self,
        clips: LabelledVideos,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
        drop_last: bool = True,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("ranks", ranks)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be 1 or more")
        if not 0 <= rank < ranks:
            raise UsageError(f"rank is {rank}; it must be from 0 to {ranks - 1}")
        self.clips, self.batch_size, self.shuffle, self.seed = clips, batch_size, shuffle, seed
        self.rank, self.ranks, self.threads, self.drop_last = rank, ranks, threads, drop_last
        self.epoch = self.batch = 0
        if not len(self):
            raise UsageError(
                f"{len(clips)} clips do not fill a batch of {batch_size} on each of {ranks} ranks"
            )

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        whole, rest = divmod(len(self.clips), self.batch_size * self.ranks)
        return whole if self.drop_last else whole + (rest > self.rank * self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """The position: a stream with the same parameters resumes there after `load_state_dict`.

        Workers of a DataLoader prefetch in copies of the stream: with them, count the batches that were used and load
        {"epoch": …, "batch": …}.
        """
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def order(self, epoch: int) -> list[int]:
        """The numbers of the clips of all ranks in an epoch, in order."""
        if not self.shuffle:
            return list(range(len(self.clips)))
        return torch.randperm(len(self.clips), generator=_generator(self.seed, epoch)).tolist()

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        order, epoch = self.order(self.epoch), self.epoch
        if worker is not None:
            # A worker is a process; it reads ahead itself, and a forked one had better not start threads.
            for batch in range(self.batch + worker.id, len(self), worker.num_workers):
                yield default_collate([self._read(epoch, clip) for clip in self._clips_of(order, batch)])
            return
        batches = range(self.batch, len(self))
        with ThreadPoolExecutor(self.threads, "clips") as pool:
            ahead: deque[tuple[int, list[Future[Any]]]] = deque()
            try:
                for batch in batches:
                    clips = self._clips_of(order, batch)
                    ahead.append((batch, [pool.submit(self._read, epoch, clip) for clip in clips]))
                    if len(ahead) > PREFETCHED_BATCHES:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self.epoch, self.batch = epoch + 1, 0

    def _clips_of(self, order: list[int], batch: int) -> list[int]:
        first = (batch * self.ranks + self.rank) * self.batch_size
        return order[first : first + self.batch_size]

    def _read(self, epoch: int, clip: int) -> Any:
        return self.clips.draw(clip, _generator(self.seed, epoch, clip))

    def _next(self, ahead: deque[tuple[int, list[Future[Any]]]]) -> Any:
        batch, items = ahead.popleft()
        collated = default_collate([item.result() for item in items])
        self.batch = batch + 1
        return collated


def _generator(*numbers: int) -> torch.Generator:
    """A separate random generator for every combination of numbers."""
    seed = 0
    for number in numbers:
        # A step of Knuth's linear congruential generator (MMIX) distinguishes (1, 2) from (2, 1).
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)
