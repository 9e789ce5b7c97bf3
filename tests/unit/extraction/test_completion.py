"""Completion of videos by several threads: what a run hears of a video ends with its record."""

from __future__ import annotations

import threading
from functools import partial
from typing import cast

from m3flow.extraction.completion import Completion
from m3flow.extraction.encoders import Encoder
from m3flow.extraction.tasks import VideoTask
from m3flow.results.records import Record
from m3flow.videos.videolist import Video


class Slow(VideoTask):
    """A video whose thread goes on, after everything is done, only when an earlier video's record is out."""

    def __init__(self, name: str, until: threading.Event, done: threading.Event) -> None:
        super().__init__(Video(name, name), "cpu")
        self.until, self.done = until, done

    def complete(self) -> None:
        super().complete()
        self.done.set()
        assert self.until.wait(60)


def test_frames_are_reported_before_the_record_of_their_video() -> None:
    heard: list[str] = []
    first_is_out, second_is_done, always = threading.Event(), threading.Event(), threading.Event()
    always.set()

    def on_record(record: Record) -> None:
        heard.append(f"record of {record.video}")
        if record.video == "first":
            first_is_out.set()

    encoders = [Encoder(), Encoder()]
    with Completion(
        "cpu", encoders, on_record, lambda frames: heard.append(f"{frames} frames")
    ) as completion:
        first, second = Slow("first", always, threading.Event()), Slow("second", first_is_out, second_is_done)
        first.record.frames, second.record.frames = 10, 20
        for task in (first, second):
            completion.begin(task)
        completion.complete(second)
        # The first is completed while the second's thread has yet to report its frames.
        completion.background(first, cast("partial[None]", partial(second_is_done.wait, 60)))
        completion.complete(first)
        completion.finish()
    for encoder in encoders:
        encoder.close()
    assert heard == ["10 frames", "record of first", "20 frames", "record of second"]
