"""How far a run is: bars with an ETA on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from m3flow.results.records import Record
from m3flow.text import one_line
from m3flow.videos.identity import file_size
from m3flow.videos.videolist import Video

PLAIN_SECONDS = 60.0
FILES_LOOKED_AT = 2000


class WorkLeft:
    """Estimates the frames of a run from the sizes of its files: frames are only known when they decode.

    A file that is missing counts nothing. Of a long list only some files, spread over it, are looked at: on a
    network file system looking at all would hold up the run for minutes. The others count as their mean.
    """

    def __init__(self, videos: Sequence[Video]) -> None:
        looked_at = videos[:: math.ceil(len(videos) / FILES_LOOKED_AT) or 1]
        self._bytes = {video.name: file_size(video.source) for video in looked_at}
        self._mean_bytes = sum(self._bytes.values()) / max(len(self._bytes), 1)
        self._bytes_left = self._mean_bytes * len(videos)
        self._bytes_done = 0.0
        self._frames_of_done = 0
        self.frames = 0
        self._began = time.monotonic()

    def count(self, frames: int) -> None:
        self.frames += frames

    def finished(self, record: Record) -> None:
        size = self._bytes.get(record.video, self._mean_bytes)
        self._bytes_left -= size
        if record.status == "done":
            self._bytes_done += size
            self._frames_of_done += record.frames

    @property
    def total(self) -> int | None:
        """The estimated frames of the whole run; None before the first video is done."""
        if not self._bytes_done:
            return None
        left = self._bytes_left * self._frames_of_done / self._bytes_done
        return max(self.frames, round(self._frames_of_done + left))

    @property
    def rate(self) -> float:
        """Frames per second since the beginning."""
        return self.frames / max(time.monotonic() - self._began, 1e-9)

    @property
    def eta(self) -> str:
        if self.total is None or not self.rate:
            return "-:--:--"
        return str(timedelta(seconds=round((self.total - self.frames) / self.rate)))


class Display:
    """Shows a run on `console`; use as a context manager."""

    def __init__(self, title: str, videos: Sequence[Video], console: Console) -> None:
        self._console = console
        self._work = WorkLeft(videos)
        self._videos = len(videos)
        self._finished = 0
        self._next_line = time.monotonic() + PLAIN_SECONDS
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._video_bar = self._bars.add_task("videos", total=self._videos, note=title)
            self._frame_bar = self._bars.add_task("frames", total=None, note="")

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is None:
            return
        if self._finished == self._videos:
            # The total was an estimate; nothing is left now.
            frames = self._work.frames
            self._bars.update(
                self._frame_bar, completed=frames, total=frames, note=f"{self._work.rate:.0f} frames/s"
            )
        self._bars.stop()

    def on_frames(self, count: int) -> None:
        self._work.count(count)
        self._show()

    def on_record(self, record: Record) -> None:
        self._finished += 1
        self._work.finished(record)
        if record.status in ("rejected", "failed"):
            self._console.print(
                f"{record.status}: {one_line(record.video)}: {record.reason}", markup=False, soft_wrap=True
            )
        self._show()

    def _show(self) -> None:
        note = f"{self._work.rate:.0f} frames/s, ETA {self._work.eta}"
        if self._bars is not None:
            self._bars.update(self._video_bar, completed=self._finished)
            self._bars.update(self._frame_bar, completed=self._work.frames, total=self._work.total, note=note)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_SECONDS
            self._console.print(
                f"{self._finished}/{self._videos} videos, {self._work.frames} frames, {note}", soft_wrap=True
            )
