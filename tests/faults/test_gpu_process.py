"""A worker as on a GPU, with several decoders and encoders, that is killed in the middle of its videos."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from m3flow.extraction.dispatch import WorkerConfig, run
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import clip

FLOW = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="none")


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".m3flow-tmp" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_a_killed_process_leaves_no_process_and_no_memory_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [clip(tmp_path / "videos" / f"{n}.mkv", 60, seed=n) for n in range(12)]
    videos = [Video(str(path), path.name) for path in paths]
    before = set(os.listdir("/dev/shm"))

    def job(name: str) -> Work:
        trajectories = TrajectorySettings()
        return Work(
            outputs=Outputs(tmp_path / name),
            flow=FLOW,
            trajectories=trajectories,
            backend="opencv",
            device="cpu",
        )

    plain: list[Record] = []
    run(videos, job("plain"), WorkerConfig(1, 1, ("cpu",)), plain.append)
    monkeypatch.setattr(WorkerConfig, "_feeds_gpu", True)
    config = WorkerConfig(2, 6, ("cpu",))
    assert (config.decoders, config.encoders) == (3, 4)
    records: list[Record] = []
    killed: list[psutil.Process] = []

    def kill_at_the_first(record: Record) -> None:
        records.append(record)
        if killed:
            return
        for worker in psutil.Process().children():
            below = worker.children(recursive=True)
            # A decoder and an encoder at least: a worker at work.
            if len(below) > config.decoders:
                killed.extend([worker, *below])
                os.kill(worker.pid, signal.SIGKILL)
                return

    run(videos, job("out"), config, kill_at_the_first)
    assert len(killed) > config.decoders
    _, alive = psutil.wait_procs(killed, timeout=30)
    assert not alive
    assert set(os.listdir("/dev/shm")) <= before
    assert sorted(record.video for record in records) == sorted(video.name for video in videos)
    # Videos in progress together are retried; one that was alone in progress counts as its worker's death.
    failed = [record for record in records if record.status == "failed"]
    assert len(failed) <= 1
    assert all(record.reason.startswith("the worker died (SIGKILL") for record in failed)
    again: list[Record] = []
    run(videos, job("out"), config, again.append)
    assert {record.status for record in again} <= {"done", "kept"}
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
