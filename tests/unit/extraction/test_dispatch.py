"""The number of worker processes, and one record per video whatever happens to its worker."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from m3flow.camera.compensation import Motion, MotionEstimator
from m3flow.errors import Interrupted, UsageError
from m3flow.extraction import dispatch, extractor, gpu_errors
from m3flow.extraction.dispatch import WorkerConfig, run, worker_config
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.process_pool import Channel, Workers
from m3flow.extraction.run import FAILED, execute_one
from m3flow.extraction.work import Work, tracking_device
from m3flow.layout import Outputs
from m3flow.results.records import Record, read_records
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import clip, moving_texture, write_video

FAST = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="none")
SLOW = FlowSettings(estimator="farneback", parameters={"iterations": 200}, camera="none")


def on_machine(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int) -> None:
    monkeypatch.setattr(dispatch, "available_cores", lambda: cores)
    monkeypatch.setattr(dispatch, "gpu_count", lambda: gpus)
    monkeypatch.setattr(dispatch, "faster_on_gpu", lambda *_, **__: True)


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
            (16, 2, 100, (0, 0), WorkerConfig(2, 8, ("cuda:0", "cuda:1"))),
            (16, 4, 100, (0, 2), WorkerConfig(2, 8, ("cuda:0", "cuda:1"))),
            (16, 1, 100, (8, 0), WorkerConfig(8, 2, ("cuda:0",))),
            (16, 4, 100, (2, 0), WorkerConfig(2, 8, ("cuda:0", "cuda:1"))),
            (16, 4, 1, (0, 0), WorkerConfig(1, 16, ("cuda:0",))),
            (2, 4, 100, (0, 0), WorkerConfig(4, 1, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"))),
        ],
    )
    def test_a_process_per_core_or_per_gpu(
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
        assert worker_config(job(None, trajectories=TrajectorySettings()), 9).devices == ("cpu",)

    def test_trajectories_are_tracked_on_the_gpus_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on_machine(monkeypatch, 8, 4)
        stored = job(None, trajectories=TrajectorySettings())
        assert worker_config(stored, 9, 0, 2) == WorkerConfig(4, 2, ("cuda:0", "cuda:1"))
        assert worker_config(replace(stored, device="cuda"), 9).devices == tuple(
            f"cuda:{n}" for n in range(4)
        )
        assert worker_config(replace(stored, device="cuda:3"), 9).devices == ("cuda:3",)
        # And a worker tracks on the device that it gets.
        monkeypatch.setattr("m3flow.flow.device.torch_device", lambda name: f"torch's {name}")
        assert tracking_device(replace(stored, device="cuda:1")) == "torch's cuda:1"
        assert tracking_device(replace(stored, device="cpu")) == "cpu"
        codec = job(None, trajectories=TrajectorySettings(job="mvs"))
        assert worker_config(codec, 9).devices == ("cpu",)
        for gpus, device in ((1, "auto"), (0, "cuda")):
            with pytest.raises(UsageError, match="leave out --gpus and --device"):
                worker_config(replace(codec, device=device), 9, 0, gpus)

    @pytest.mark.parametrize(("workers", "devices", "sharing"), [(1, 1, 1), (8, 1, 8), (8, 2, 4), (5, 2, 3)])
    def test_how_many_workers_share_a_gpu(self, workers: int, devices: int, sharing: int) -> None:
        names = tuple(f"cuda:{n}" for n in range(devices))
        assert WorkerConfig(workers, 1, names).sharing == sharing

    @pytest.mark.parametrize(
        ("workers", "threads", "device", "decoders", "encoders"),
        [(1, 16, "cuda:0", 8, 11), (1, 4, "cuda:0", 2, 3), (8, 2, "cuda:0", 1, 0), (1, 16, "cpu", 1, 0)],
    )
    def test_the_cores_of_a_gpu_decode_and_encode_for_it(
        self, workers: int, threads: int, device: str, decoders: int, encoders: int
    ) -> None:
        config = WorkerConfig(workers, threads, (device,))
        assert (config.decoders, config.encoders) == (decoders, encoders)

    def test_each_worker_knows_how_many_share_its_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[Work] = []
        monkeypatch.setattr(dispatch, "_run_in_processes", lambda _videos, work, *_: given.append(work))
        run([], job(), WorkerConfig(8, 1, ("cuda:0", "cuda:1")), lambda record: None)
        assert [work.sharing for work in given] == [4]

    def test_gpus_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on_machine(monkeypatch, 4, 1)
        with pytest.raises(UsageError, match=r"--gpus 2: torch sees 1 GPU\(s\) here"):
            worker_config(job(), 9, 0, 2)
        with pytest.raises(UsageError, match="--gpus 1 needs device auto or cuda"):
            worker_config(job(backend="opencv"), 9, 0, 1)


ILLEGAL = "CUDA error: an illegal memory access was encountered\nsecond line"
BROKEN_SIZE = (40, 56)


def _serve_on_a_fake_gpu(channel: Channel, slot: int, work: Work, _devices: Any, lost: bool) -> None:
    """A worker whose GPU fails at frames of `BROKEN_SIZE`, permanently if `lost`."""

    class OnGpu(Extractor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.device = "cuda:0"

    computed = MotionEstimator.__call__
    broken: list[bool] = []

    def compute(self: MotionEstimator, frames: Any, step: int = 1, selection: Any = None) -> Motion:
        if frames.shape[1:] == BROKEN_SIZE:
            broken.append(True)
        if frames.shape[1:] == BROKEN_SIZE or (lost and broken):
            raise RuntimeError(ILLEGAL)
        return computed(self, frames, step, selection)

    MotionEstimator.__call__ = compute  # type: ignore[method-assign]
    gpu_errors.is_usable = lambda _device: not (lost and broken)
    extractor.Extractor = OnGpu  # type: ignore[misc]
    original_serve(channel, slot, work, ("cpu",))


def serve_losing(*arguments: Any) -> None:
    _serve_on_a_fake_gpu(*arguments, lost=True)


def serve_failing(*arguments: Any) -> None:
    _serve_on_a_fake_gpu(*arguments, lost=False)


original_serve = dispatch._serve


@pytest.mark.parametrize("lost", [True, False])
def test_a_lone_worker_that_loses_its_gpu_is_replaced_and_one_with_a_failed_video_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    videos = [Video(str(clip(tmp_path / f"{n}.mkv", 6, seed=n)), f"{n}.mkv") for n in range(5)]
    write_video(tmp_path / "2.mkv", moving_texture(6, *BROKEN_SIZE))
    started: list[int] = []
    start = Workers._start
    monkeypatch.setattr(Workers, "_start", lambda self, slot: (started.append(slot), start(self, slot)))
    monkeypatch.setattr(dispatch, "_serve", serve_losing if lost else serve_failing)
    records: dict[str, Record] = {}
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FAST, backend="opencv", batch=4)
    run(videos, work, WorkerConfig(1, 1, ("cuda:0",)), lambda record: records.update({record.video: record}))
    assert {name: record.status for name, record in records.items()} == {
        f"{n}.mkv": "failed" if n == 2 else "done" for n in range(5)
    }
    first_line = ILLEGAL.splitlines()[0]
    if lost:
        assert records["2.mkv"].reason == f"the worker died (cuda:0 cannot be used any more: {first_line})"
        assert len(started) > 1
    else:
        assert records["2.mkv"].reason.startswith(f"RuntimeError: {first_line}")
        assert started == [0]


def test_a_job_of_one_video_that_loses_its_gpu_has_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise gpu_errors.DeviceLost("cuda:0 cannot be used any more: an error")

    monkeypatch.setattr(Extractor, "run", lose)
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FAST, backend="opencv")
    video = Video(str(clip(tmp_path / "a.mkv", 6)), "a.mkv")
    assert execute_one("flow", video, work, tmp_path / "log") == FAILED
    (record,) = read_records([work.outputs.job_records("flow")])
    assert (record.status, record.reason) == (
        "failed",
        "the worker died (cuda:0 cannot be used any more: an error)",
    )


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
    assert sum(counted) == 5 + 6 + 7 + 8 + 9
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stop_signal_discards_a_video_that_outlasts_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the signal comes in mid-video, whose estimator never comes back by itself."""

    def endless(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            signal.pause()

    monkeypatch.setattr("m3flow.flow.opencv.DIS.pair", endless)
    monkeypatch.setattr(dispatch, "GRACE_SECONDS", 0.05)
    path = clip(tmp_path / "a.mkv")
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FAST, backend="opencv")
    records: list[Record] = []
    announced: list[float] = []
    at_alarm = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Interrupted, match="by a signal"):
        run(
            [Video(str(path), "a.mkv")],
            work,
            WorkerConfig(1, 1, ("auto",)),
            records.append,
            on_stop=announced.append,
        )
    assert (records, announced) == ([], [0.05])
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert signal.getsignal(signal.SIGALRM) is at_alarm


def test_workers_give_the_same_files(tmp_path: Path, videos: list[Video]) -> None:
    for workers in (1, 2):
        recorded(videos, Work(outputs=Outputs(tmp_path / str(workers)), flow=FAST, backend="opencv"), workers)
    one, two = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.mp4")}
        for name in ("1", "2")
    )
    assert one == two and len(one) == 10


@pytest.mark.slow
def test_killed_workers_fail_only_their_videos_in_progress(tmp_path: Path, videos: list[Video]) -> None:
    long = write_video(tmp_path / "long.mkv", moving_texture(60, 120, 160))
    queue = [Video(str(long), "long.mkv"), *videos[:5]]
    records: dict[str, Record] = {}

    def keep(record: Record) -> None:
        first = not records
        records[record.video] = record
        if first:  # a short one is done; the long one, started before it, is in progress
            for child in psutil.Process().children():
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()

    work = Work(outputs=Outputs(tmp_path / "out"), flow=SLOW, backend="opencv")
    run(queue, work, WorkerConfig(2, 1, ("auto",)), keep)
    assert sorted(records) == sorted(video.name for video in queue)
    failed = {name for name, record in records.items() if record.status == "failed"}
    # Only a video that was alone in its worker; those that were there together are retried.
    assert len(failed) <= 2
    assert all(
        "the worker died" in records[name].reason and "SIGKILL" in records[name].reason for name in failed
    )
    assert {record.status for name, record in records.items() if name not in failed} == {"done"}
    # A temporary file of an unfinished output may stay.
    left = [path.name for path in (tmp_path / "out").rglob("*.mp4")]
    assert sorted(left) == sorted(["x.mp4", "y.mp4"] * (len(queue) - len(failed)))
