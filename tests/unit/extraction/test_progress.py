"""The progress display without a terminal: lines with an ETA; equal reasons shown a few times, then counted."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from m3flow.extraction import progress
from m3flow.extraction.progress import REASONS_SHOWN, Display, WorkLeft
from m3flow.results.records import Record
from m3flow.videos.videolist import Video


def videos_of(folder: Path, count: int) -> list[Video]:
    videos = [Video(str(folder / f"{index}.mp4"), f"{index}.mp4") for index in range(count)]
    for video in videos:
        Path(video.source).write_bytes(bytes(1000))
    return videos


class Lines(io.StringIO):
    """A stream that is not a terminal; `seen` is set once text with an ETA is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "ETA" in text:
            self.seen.set()
        return written


def test_a_line_comes_although_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    stream = Lines()
    with Display("flow", videos_of(tmp_path, 4), Console(file=stream)) as display:
        display.on_frames(9)
        display.on_record(Record(video="0.mp4", status="done", frames=9))
        stream.seen.clear()
        assert stream.seen.wait(30)
    line = stream.getvalue().splitlines()[-1]
    assert line.startswith("flow: 1/4 videos, 9 frames, ") and "-:--:--" not in line


def test_equal_reasons_are_counted_after_the_first_few(tmp_path: Path) -> None:
    stream, count = Lines(), 1000
    with Display("flow", videos_of(tmp_path, count), Console(file=stream)) as display:
        for index in range(count):
            name = f"{index}.mp4"
            reason = f"no such file: '/data/{name}'" if index else "not a video"
            display.on_record(Record(video=name, status="rejected", reason=reason))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + REASONS_SHOWN + 1
    assert lines[0] == "rejected: 0.mp4: not a video"
    assert lines[-1] == f"rejected: {count - 1 - REASONS_SHOWN} more videos: no such file: …"


def test_the_time_left_without_frames_goes_by_the_files(tmp_path: Path) -> None:
    work = WorkLeft(videos_of(tmp_path, 2))
    assert work.eta == "-:--:--"
    work.finished(Record(video="0.mp4", status="rejected"))
    assert work.eta == "0:00:00"
