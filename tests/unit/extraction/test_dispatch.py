"""How many processes, and that each video gets its record whoever works on it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from m3flow.errors import UsageError
from m3flow.extraction import dispatch
from m3flow.extraction.dispatch import WorkerConfig, run, worker_config
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import clip, moving_texture, write_video

FAST = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="none")
SLOW = FlowSettings(parameters={"iterations": 200}, camera="none")


def on_machine(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int) -> None:
    monkeypatch.setattr(dispatch, "available_cores", lambda: cores)
    monkeypatch.setattr(dispatch, "gpu_count", lambda: gpus)


def job(flow: FlowSettings | None = FAST, **how: Any) -> Work:
    return Work(outputs=Outputs(Path("unused")), flow=flow, **how)


class TestWorkerConfig:
    @pytest.mark.parametrize(
        ("cores", "gpus", "videos", "asked", "expected"),
        [
            (8, 0, 100, (0, 0), WorkerConfig(8, 1, ("auto",))),
            (8, 0, 3, (0, 0), WorkerConfig(3, 2, ("auto",))),
            (8, 0, 100, (2, 0), WorkerConfig(2, 4, ("auto",))),
            (1, 0, 100, (4, 0), WorkerConfig(4, 1, ("auto",))),
            (16, 2, 100, (0, 0), WorkerConfig(8, 2, ("cuda:0", "cuda:1"))),
            (16, 4, 100, (0, 2), WorkerConfig(8, 2, ("cuda:0", "cuda:1"))),
            (2, 4, 100, (0, 0), WorkerConfig(4, 1, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"))),
        ],
    )
    def test_a_process_a_core_or_two_cores_a_process_on_gpus(
        self,
        monkeypatch: pytest.MonkeyPatch,
        cores: int,
        gpus: int,
        videos: int,
        asked: Any,
        expected: WorkerConfig,
    ) -> None:
        on_machine(monkeypatch, cores, gpus)
        assert worker_config(job(), videos, *asked) == expected

    def test_gpus_are_left_alone_where_nothing_needs_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on_machine(monkeypatch, 4, 2)
        assert worker_config(job(backend="opencv"), 9).devices == ("auto",)
        assert worker_config(job(device="cpu"), 9).devices == ("cpu",)
        assert worker_config(job(device="cuda:1"), 9).devices == ("cuda:1",)
        assert worker_config(job(None, trajectories=TrajectorySettings()), 9).devices == ("auto",)

    def test_gpus_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on_machine(monkeypatch, 4, 1)
        with pytest.raises(UsageError, match=r"--gpus 2: torch sees 1 GPU\(s\) here"):
            worker_config(job(), 9, 0, 2)
        with pytest.raises(UsageError, match="--gpus 1 needs device auto or cuda"):
            worker_config(job(backend="opencv"), 9, 0, 1)


def recorded(videos: list[Video], work: Work, workers: int) -> dict[str, Record]:
    records: dict[str, Record] = {}

    def keep(record: Record) -> None:
        assert record.video not in records
        records[record.video] = record

    run(videos, work, WorkerConfig(workers, 1, ("auto",)), keep)
    return records


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    clips = [clip(tmp_path / f"{number}.mkv", 5 + number, seed=number) for number in range(5)]
    (tmp_path / "bad.mp4").write_text("no video")
    return [Video(str(path), path.name) for path in (*clips, tmp_path / "bad.mp4")]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_record_for_each_video_and_frames_on_the_way(
    tmp_path: Path, videos: list[Video], workers: int
) -> None:
    counted: list[int] = []
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FAST, backend="opencv")
    records: list[Record] = []
    run(videos, work, WorkerConfig(workers, 1, ("auto",)), records.append, counted.append)
    assert sorted(record.video for record in records) == sorted(video.name for video in videos)
    by_name = {record.video: record for record in records}
    assert by_name["bad.mp4"].status == "rejected"
    assert [by_name[f"{number}.mkv"].frames for number in range(5)] == [5, 6, 7, 8, 9]
    assert sum(counted) == 4 + 5 + 6 + 7 + 8
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_workers_give_the_same_files(tmp_path: Path, videos: list[Video]) -> None:
    for workers in (1, 2):
        recorded(videos, Work(outputs=Outputs(tmp_path / str(workers)), flow=FAST, backend="opencv"), workers)
    one, two = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.mp4")}
        for name in ("1", "2")
    )
    assert one == two and len(one) == 10


def test_killed_workers_cost_no_more_than_what_they_have_in_hand(tmp_path: Path, videos: list[Video]) -> None:
    long = write_video(tmp_path / "long.mkv", moving_texture(60, 120, 160))
    queue = [Video(str(long), "long.mkv"), *videos[:5]]
    records: dict[str, Record] = {}

    def keep(record: Record) -> None:
        first = not records
        records[record.video] = record
        if first:  # a short one is done; the long one, begun before it, is in a worker's hands
            for child in psutil.Process().children():
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()

    work = Work(outputs=Outputs(tmp_path / "out"), flow=SLOW, backend="opencv")
    run(queue, work, WorkerConfig(2, 1, ("auto",)), keep)
    assert sorted(records) == sorted(video.name for video in queue)
    failed = {name for name, record in records.items() if record.status == "failed"}
    # One that was alone in a worker's hands; what was there with others is tried again.
    assert len(failed) <= 2
    assert all(
        "the worker died" in records[name].reason and "SIGKILL" in records[name].reason for name in failed
    )
    assert {record.status for name, record in records.items() if name not in failed} == {"done"}
    # A temporary file may stay of what was being written.
    left = [path.name for path in (tmp_path / "out").rglob("*.mp4")]
    assert sorted(left) == sorted(["x.mp4", "y.mp4"] * (len(queue) - len(failed)))
