"""The numbers of workers that a calibration tries, and its handling of too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3flow.errors import BadInput
from m3flow.experiment import worker_trials
from m3flow.experiment.worker_trials import workers_to_try
from m3flow.extraction.dispatch import WorkerConfig
from m3flow.extraction.process_pool import WorkersDie
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.steps import StepCounter, no_display

ONE_GPU = ("cuda:0",)


@pytest.mark.parametrize(
    ("workers", "devices", "cores", "expected"),
    [
        (16, ("auto",), 16, [1, 8, 16]),
        (8, ONE_GPU, 16, [1, 2, 4, 8]),
        (64, ONE_GPU, 128, [1, 2, 4, 8, 64]),
        (8, ("cuda:0", "cuda:1"), 16, [1, 2, 4, 8, 16]),
        (4, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), 2, [1, 4]),
    ],
)
def test_a_few_workers_for_each_gpu(
    workers: int, devices: tuple[str, ...], cores: int, expected: list[int]
) -> None:
    assert workers_to_try(WorkerConfig(workers, 1, devices), cores) == expected


def a_machine(monkeypatch: pytest.MonkeyPatch, room: int, *, starting: bool = False) -> list[int]:
    """A simulated GPU with memory for `room` workers; returns the numbers of workers tried.

    starting: more workers die at their start, not with their first videos.
    """
    tried: list[int] = []

    def run(videos: Any, _work: Any, config: WorkerConfig, on_record: Any) -> None:
        tried.append(config.workers)
        if starting and config.workers > room:
            raise WorkersDie("the workers die during startup (status 1)")
        for video in videos:
            if config.workers > room:
                on_record(Record(video=video.name, status="failed", reason="TooLarge: a pair of frames"))
            on_record(Record(video=video.name, status="done", frames=10, seconds=0.1))

    monkeypatch.setattr(worker_trials.dispatch, "run", run)
    monkeypatch.setattr(worker_trials, "available_cores", lambda: 16)
    return tried


def try_workers(work: Work, folder: Path) -> tuple[dict[int, float], float]:
    config = WorkerConfig(8, 2, ONE_GPU)
    numbers = workers_to_try(config, 16)
    return worker_trials.try_workers(work, config, ["a.mp4"], folder, numbers, StepCounter(no_display))


@pytest.mark.parametrize("starting", [False, True])
def test_too_many_workers_for_the_memory_are_not_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starting: bool
) -> None:
    tried = a_machine(monkeypatch, room=2, starting=starting)
    work = Work(outputs=Outputs(tmp_path))
    rates, _ = try_workers(work, tmp_path)
    assert tried == [1, 2, 4] and sorted(rates) == [1, 2]


def test_a_video_that_fails_with_one_worker_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a_machine(monkeypatch, room=0)
    work = Work(outputs=Outputs(tmp_path))
    with pytest.raises(BadInput, match="TooLarge"):
        try_workers(work, tmp_path)
