"""Progress of a run: bars with an ETA on a terminal, one line every 30 s elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from m3flow.results.records import Record
from m3flow.text import one_line, reason_kind
from m3flow.videos.identity import file_size
from m3flow.videos.videolist import Video

PLAIN_SECONDS = 30.0
REASONS_SHOWN = 5
SAMPLED_FILES = 2000


class WorkLeft:
    """Estimates the frames of a run from its file sizes, as frame counts are known only after decoding.

    A missing file counts as empty. Of a long list, only a sample of files spread over it is examined: on a
    network file system, a stat of every file would delay the run by minutes. The others get the mean size.
    """

    def __init__(self, videos: Sequence[Video]) -> None:
        sample = videos[:: math.ceil(len(videos) / SAMPLED_FILES) or 1]
        self._bytes = {video.name: file_size(video.source) for video in sample}
        self._mean_bytes = sum(self._bytes.values()) / max(len(self._bytes), 1)
        self._bytes_left = self._mean_bytes * len(videos)
        self._bytes_done = 0.0
        self._bytes_finished = 0.0
        self._frames_of_done = 0
        self.frames = 0
        self._began = time.monotonic()

    def count(self, frames: int) -> None:
        self.frames += frames

    def finished(self, record: Record) -> None:
        size = self._bytes.get(record.video, self._mean_bytes)
        self._bytes_left -= size
        self._bytes_finished += size
        if record.status == "done":
            self._bytes_done += size
            self._frames_of_done += record.frames

    @property
    def total(self) -> int | None:
        """The estimated number of frames of the whole run; None before the first video is done."""
        if not self._bytes_done:
            return None
        left = self._bytes_left * self._frames_of_done / self._bytes_done
        return max(self.frames, round(self._frames_of_done + left))

    @property
    def rate(self) -> float:
        """Frames per second since the beginning."""
        return self.frames / max(time.monotonic() - self._began, 1e-9)

    @property
    def pace(self) -> str:
        """The rate in words: "24 frames/s", "0.4 frames/s"."""
        return f"{self.rate:.{0 if self.rate >= 10 else 1}f} frames/s"

    @property
    def eta(self) -> str:
        """The remaining time, as h:mm:ss: by frames if frames are reported, else by the bytes of the files."""
        seconds = time.monotonic() - self._began
        if self.total is not None and self.frames:
            return _duration((self.total - self.frames) * seconds / self.frames)
        if self._bytes_finished:
            return _duration(self._bytes_left * seconds / self._bytes_finished)
        return "-:--:--"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))


class Display:
    """Shows the progress of a run on `console`; use as a context manager.

    On a terminal: bars for videos and, once frames are reported, for frames. Elsewhere: one line every
    `PLAIN_SECONDS`, from a separate thread, so that a slow video does not look like a hang.
    """

    def __init__(self, title: str, videos: Sequence[Video], console: Console) -> None:
        self._console = console
        self._work = WorkLeft(videos)
        self._videos = len(videos)
        self._finished = 0
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._bars: Progress | None = None
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, args=(title,), daemon=True)
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._video_bar = self._bars.add_task("videos", total=self._videos, note=title)
            self._frame_bar = self._bars.add_task("frames", total=None, note="", visible=False)

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        else:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bars is None:
            self._lines.join()
        else:
            if self._finished == self._videos:
                # The total was an estimate; replace it by the actual count.
                frames = self._work.frames
                note = self._work.pace
                self._bars.update(self._frame_bar, completed=frames, total=frames, note=note)
            self._bars.stop()
        for (status, kind), count in self._reasons.items():
            if count > REASONS_SHOWN:
                self._print(f"{status}: {count - REASONS_SHOWN:,} more videos: {kind}")

    def on_frames(self, count: int) -> None:
        self._work.count(count)
        self._show()

    def on_record(self, record: Record) -> None:
        self._finished += 1
        self._work.finished(record)
        if record.reason and record.status != "kept":
            kind = record.status, reason_kind(record.reason)
            self._reasons[kind] += 1
            if self._reasons[kind] <= REASONS_SHOWN:
                self._print(f"{record.status}: {one_line(record.video)}: {record.reason}")
        self._show()

    def on_stop(self, seconds: float) -> None:
        """Say that the run was asked to stop, and how long the videos in progress have."""
        self._print(f"stopping: the videos in progress have {seconds:g} s, no others are started")

    def _show(self) -> None:
        if self._bars is None:
            return
        frames = self._work.frames
        self._bars.update(
            self._video_bar, completed=self._finished, note="" if frames else f"ETA {self._work.eta}"
        )
        note = f"{self._work.pace}, ETA {self._work.eta}"
        self._bars.update(
            self._frame_bar, completed=frames, total=self._work.total, note=note, visible=frames > 0
        )

    def _print_lines(self, title: str) -> None:
        while not self._ended.wait(PLAIN_SECONDS):
            frames = f", {self._work.frames:,} frames, {self._work.pace}" if self._work.frames else ""
            self._print(f"{title}: {self._finished:,}/{self._videos:,} videos{frames}, ETA {self._work.eta}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
