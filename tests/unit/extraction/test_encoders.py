"""Encoding processes: the same files as from this process, and a process that dies costs its video alone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from m3flow.atomic import TEMPORARY_SUFFIX, remove
from m3flow.errors import Interrupted
from m3flow.extraction.encoders import Encoder
from m3flow.extraction.extractor import Extractor, Queue
from m3flow.extraction.shared_memory import SharedMemory
from m3flow.extraction.tasks import FrameTask
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.quantisation import Piece
from m3flow.results.records import Record
from m3flow.results.repair import leftovers
from m3flow.results.stored_frames import FrameWriter
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import clip

LENGTHS = (30, 12, 3, 24, 19, 1)
FLOW = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="warp")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [clip(folder / f"{n}.mkv", length, seed=n) for n, length in enumerate(LENGTHS)]
    return [Video(str(path), path.name) for path in paths]


def work(folder: Path, encoders: int = 0, **how: Any) -> Work:
    values: dict[str, Any] = {"flow": FLOW, "trajectories": TrajectorySettings(), "backend": "opencv"}
    return Work(outputs=Outputs(folder), encoders=encoders, **{**values, **how})


def run(job: Work, videos: list[Video]) -> list[Record]:
    records: list[Record] = []
    with Extractor(job) as one:
        one.run(Queue(videos), records.append)
    return records


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_the_files_are_those_of_one_process_to_the_byte(
    videos: list[Video], tmp_path: Path, backend: str
) -> None:
    flow = replace(FLOW, frames=replace(FLOW.frames, store="jpg")) if backend == "opencv" else FLOW
    expected = run(work(tmp_path / "here", flow=flow, backend=backend, device="cpu"), videos)
    found = run(work(tmp_path / "there", 3, decoders=2, flow=flow, backend=backend, device="cpu"), videos)
    assert [r.reason + r.traceback for r in found if r.status == "failed"] == []
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "there")) > 2 * len(LENGTHS)
    for one, other in zip(expected, found, strict=True):
        for name in ("video", "status", "reason", "frames", "windows", "speed", "camera", "outside"):
            assert getattr(one, name) == getattr(other, name), name
    assert all(record.encode > 0 for record in found if record.status == "done")


def at_piece(monkeypatch: pytest.MonkeyPatch, video: Video, number: int, action: Any) -> None:
    """Call `action(task)` in the storing thread before a piece of a video is written."""
    store = FrameTask._store
    seen: list[Piece] = []

    def count(self: FrameTask, piece: Piece) -> None:
        if self.video == video:
            seen.append(piece)
            if len(seen) == number:
                action(self)
        store(self, piece)

    monkeypatch.setattr(FrameTask, "_store", count)


def kill_encoder(task: FrameTask) -> None:
    encoder: Encoder = task.thread.writers.__self__  # type: ignore[union-attr]
    assert encoder.child is not None
    os.kill(encoder.child.pid, signal.SIGKILL)


@pytest.mark.parametrize(("encoders", "frames"), [(1, "none"), (2, "none"), (2, "jpg")])
def test_an_encoder_that_is_killed_in_mid_video_costs_that_video_alone(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: int, frames: Any
) -> None:
    # Of the next video, frames are stored before the motion of the first is whole; another encoder has them.
    flow = replace(FLOW, frames=replace(FLOW.frames, store=frames))
    run(work(tmp_path / "whole", flow=flow), videos)
    with monkeypatch.context() as patch:
        at_piece(patch, videos[0], 3, kill_encoder)
        records = run(work(tmp_path / "out", encoders, flow=flow), videos)
    statuses = [record.status for record in records]
    assert statuses == ["failed", "done", "done", "done", "done", "rejected"]
    assert records[0].reason == "RuntimeError: the encoding process ended (SIGKILL)"
    left = [name for name in contents(tmp_path / "out") if name.startswith(("flows/0", "trajs/0"))]
    assert all(TEMPORARY_SUFFIX in name for name in left)
    # What a killed process leaves is recognised as such.
    for leftover in leftovers(Outputs(tmp_path / "out")):
        assert leftover.abandoned
        remove(leftover.path)
    again = run(work(tmp_path / "out", encoders, flow=flow), videos)
    assert [record.status for record in again] == ["done", "kept", "kept", "kept", "kept", "rejected"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_suspended_encoder_continues_where_it_was(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suspend(task: FrameTask) -> None:
        pid = task.thread.writers.__self__.child.pid  # type: ignore[union-attr]
        psutil.Process(pid).suspend()
        subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -CONT {pid}"])

    run(work(tmp_path / "whole"), videos)
    at_piece(monkeypatch, videos[0], 3, suspend)
    run(work(tmp_path / "out", 1), videos)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_error_in_the_process_arrives_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    encoder = Encoder()
    try:
        writer = encoder.writer(FrameWriter, tmp_path / "file" / "frames", 90)
        with pytest.raises(FileExistsError) as error:
            writer.write(np.zeros((1, 8, 8, 3), np.uint8))
        assert error.value.errno == errno.EEXIST
        assert "in write" in "".join(error.value.__notes__)
    finally:
        encoder.close()


def test_an_error_of_the_receiver_of_records_ends_the_run(videos: list[Video], tmp_path: Path) -> None:
    def refuse(_: Record) -> None:
        raise Interrupted("enough")

    with Extractor(work(tmp_path, 2)) as one, pytest.raises(Interrupted, match="enough"):
        one.run(Queue(videos), refuse)
    assert not [name for name in contents(tmp_path) if "m3flow-tmp" in name]


def children_of_a_killed_parent(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield int(parent.stdout.readline())
        parent.kill()


def test_a_killed_parent_leaves_neither_process_nor_memory() -> None:
    before = set(os.listdir("/dev/shm"))
    code = (
        "import numpy as np, time\n"
        "from m3flow.extraction.encoders import Encoder\n"
        "from pathlib import Path\n"
        "from m3flow.results.stored_frames import FrameWriter\n"
        "encoder = Encoder(); writer = encoder.writer(FrameWriter, Path('unused'), 90)\n"
        "writer.write(np.zeros((0, 8, 8, 3), np.uint8))\n"
        "print(encoder.child.pid, flush=True); time.sleep(60)\n"
    )
    for pid in children_of_a_killed_parent(code):
        child = psutil.Process(pid)
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert set(os.listdir("/dev/shm")) <= before


def test_arrays_of_any_size_in_turn() -> None:
    ours = SharedMemory()
    theirs = SharedMemory(os.dup(ours.descriptor))
    try:
        for count in (3, 0, 1000, 5):
            arrays = [np.arange(count, dtype=np.int16).reshape(1, -1), np.full((2, 2), count, np.float32)]
            for view, array in zip(theirs.views(ours.put(arrays)), arrays, strict=True):
                assert view.dtype == array.dtype and np.array_equal(view, array)
    finally:
        ours.close()
        theirs.close()
