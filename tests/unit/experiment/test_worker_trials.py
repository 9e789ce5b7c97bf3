"""The rate of warm workers: what they need to start, and their first videos, are no part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from m3flow.experiment import worker_trials
from m3flow.experiment.worker_trials import measured_rate
from m3flow.extraction import dispatch
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.settings import FlowSettings
from m3flow.videos.videolist import Video

FRAMES, SECONDS = 100, 2.0  # of a video on a warm worker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("start", [0.0, 5.0, 300.0])
@pytest.mark.parametrize("compiling", [0.0, 60.0])
def test_the_start_is_no_part_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: float, compiling: float
) -> None:
    clock = Clock()

    def run(
        videos: list[Video],
        work: Work,
        config: dispatch.WorkerConfig,
        on_record: Callable[[Record], None],
    ) -> None:
        """One worker on a GPU with four decoders: it starts, compiles kernels during its first videos, then goes on."""
        del work
        assert config.decoders == 4
        begins = clock.now + start
        clock.now = begins + compiling
        for number, video in enumerate(videos):
            clock.now += SECONDS
            # The first four were decoded and waited together.
            seconds = clock.now - begins if number < 4 else SECONDS
            on_record(Record(video=video.name, status="done", frames=FRAMES, seconds=seconds))

    monkeypatch.setattr(worker_trials.time, "perf_counter", clock)
    monkeypatch.setattr(worker_trials, "available_cores", lambda: 8)
    monkeypatch.setattr(dispatch, "run", run)
    work = Work(outputs=Outputs(tmp_path), flow=FlowSettings(), backend="torch", device="cuda")
    rate, until_first = measured_rate(work, ("cuda:0",), 1, ["clip.mp4"])
    assert rate == pytest.approx(FRAMES / SECONDS)
    assert until_first == pytest.approx(start)
