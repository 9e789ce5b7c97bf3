"""Motion that stays on the device: the copies to the host, their synchronisation, and identical files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3flow import load_flow, load_trajectories
from m3flow.extraction import extractor, tasks
from m3flow.extraction.downloads import CudaDownloads, Downloads
from m3flow.extraction.extractor import Extractor, Queue
from m3flow.extraction.work import Work
from m3flow.flow import transfer
from m3flow.layout import Outputs
from m3flow.results.quantisation import Piece, Quantisation, quantise, table
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories import tracking
from m3flow.trajectories.tracking import Tracker
from m3flow.videos.videolist import Video
from support.clips import clip
from support.recorded_graphs import pretended_graphs

LENGTHS = (12, 3, 20, 9)
FLOW = FlowSettings(estimator="farneback", parameters={"iterations": 2}, camera="warp", codec="h264-lossless")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [clip(folder / f"{n}.mkv", length, seed=n) for n, length in enumerate(LENGTHS)]
    return [Video(str(path), path.name) for path in paths]


def work(folder: Path, **how: Any) -> Work:
    values: dict[str, Any] = {
        "flow": FLOW,
        "trajectories": TrajectorySettings(),
        "backend": "torch",
        "device": "cpu",
        "batch": 6,
    }
    return Work(outputs=Outputs(folder), **{**values, **how})


def run(job: Work, videos: list[Video]) -> list[Record]:
    records: list[Record] = []
    with Extractor(job) as one:
        one.run(Queue(videos), records.append)
    assert [record.status for record in records] == ["done"] * len(videos)
    return records


class Delayed(Downloads):
    """Copies made only when they are waited for, into memory with other content until then."""

    def __init__(self, _device: str) -> None:
        self.log: list[str] = []
        self.fields: set[str] = set()
        self.bytes = 0

    def start(self, piece: Piece) -> Callable[[], Piece]:
        self.log.append("start")
        for name in ("levels", "sample", "windows"):
            if getattr(piece, name) is not None:
                self.fields.add(name)
        assert threading.current_thread() is threading.main_thread()
        buffers = piece.map(lambda array: np.full(tuple(array.shape), 77, _as_numpy(array).dtype))
        values = piece.map(lambda array: _as_numpy(array).copy())

        def wait() -> Piece:
            self.log.append("wait")
            for buffer, value in zip(_arrays(buffers), _arrays(values), strict=True):
                buffer[...] = value
                self.bytes += value.nbytes
            return buffers

        return wait


def _as_numpy(array: Any) -> np.ndarray:
    return array.numpy() if isinstance(array, torch.Tensor) else array


def _arrays(piece: Piece) -> list[Any]:
    found: list[Any] = []
    piece.map(lambda array: found.append(array) or array)  # type: ignore[func-returns-value]
    return found


def same_files(one: Path, other: Path) -> None:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file())
    for name in names:
        if name.endswith(".gz"):
            ours, theirs = (load_trajectories(folder / name) for folder in (one, other))
            assert np.array_equal(ours.traj_feat, theirs.traj_feat)
            assert np.array_equal(ours.traj_type, theirs.traj_type)
        elif name.endswith("x.mp4"):
            folder = Path(name).parent
            assert np.array_equal(load_flow(one / folder), load_flow(other / folder))


@pytest.mark.parametrize("keep_flow", [True, False])
def test_copies_that_come_late_give_the_same_files(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_flow: bool
) -> None:
    expected = run(work(tmp_path / "plain", keep_flow=keep_flow), videos)
    late = Delayed("cpu")
    monkeypatch.setattr(extractor, "downloads_from", lambda _device: late)
    found = run(work(tmp_path / "late", keep_flow=keep_flow), videos)
    same_files(tmp_path / "plain", tmp_path / "late")
    for one, other in zip(expected, found, strict=True):
        for name in ("frames", "windows", "speed", "speed_p95", "saturated", "still", "camera", "outside"):
            assert getattr(one, name) == getattr(other, name), name
    # Levels are copied if they are stored; otherwise only the sample for the record's statistics.
    assert late.fields == ({"levels", "windows"} if keep_flow else {"sample", "windows"})
    pairs = sum(length - 1 for length in LENGTHS)
    of_levels = pairs * 2 * 48 * 64
    assert late.bytes > of_levels if keep_flow else late.bytes < of_levels / 4


def test_the_next_batch_is_computed_before_the_last_ones_copy_is_waited_for(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Delayed("cpu")
    monkeypatch.setattr(extractor, "downloads_from", lambda _device: late)
    second = threading.Event()
    original = late.start

    def start(piece: Piece) -> Callable[[], Piece]:
        wait = original(piece)
        if late.log.count("start") > 1:
            second.set()

        def after_the_second() -> Piece:
            # Would never happen if the first copy blocked the second batch.
            assert second.wait(timeout=60)
            return wait()

        return after_the_second

    monkeypatch.setattr(late, "start", start)
    run(work(tmp_path), videos)
    assert late.log[:2] == ["start", "start"]


@pytest.mark.parametrize(
    ("tracking", "track"), [("subpixel", "motion"), ("subpixel", "pixels"), ("integer", "motion")]
)
def test_tracked_with_torch_to_the_bit_as_with_numpy(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: Any, track: Any
) -> None:
    settings = TrajectorySettings(tracking=tracking, track=track)
    run(work(tmp_path / "device", trajectories=settings), videos)
    # From the stored levels, with NumPy.
    run(work(tmp_path / "device", flow=None, trajectories=replace(settings, length=4)), videos)
    # From the stored levels on a device.
    copied: list[int] = []

    def to_device(array: np.ndarray, device: str) -> torch.Tensor:
        assert device == "cpu"
        copied.append(len(array))
        return torch.from_numpy(array)

    folder = tmp_path / "stored"
    (folder / "flows").parent.mkdir()
    (folder / "flows").symlink_to(tmp_path / "device" / "flows")
    monkeypatch.setattr(tasks, "to_device", to_device)
    for length in (4, 6):
        run(work(folder, flow=None, trajectories=replace(settings, length=length)), videos)
    assert sum(copied) == 2 * sum(length - 1 for length in LENGTHS)
    for video in videos:
        for length in (4, 6):
            one, other = (
                load_trajectories(Outputs(place).trajectories(video.name, length))
                for place in (tmp_path / "device", folder)
            )
            assert np.array_equal(one.traj_feat, other.traj_feat)
            assert np.array_equal(one.traj_type, other.traj_type)


@pytest.mark.parametrize("tracking", ["subpixel", "integer"])
def test_levels_in_pieces_as_tensors(tracking: str) -> None:
    flow = np.random.default_rng(0).normal(0, 4, (23, 2, 40, 56)).astype(np.float32)
    levels = quantise(flow, 20)
    assert isinstance(levels, np.ndarray)
    assert np.array_equal(np.asarray(quantise(torch.from_numpy(flow), 20)), levels)
    on_numpy, on_torch = (
        Tracker(length=4, job="trajs_dense", tracking=tracking, table=table(20)) for _ in range(2)
    )
    for start in range(0, 23, 5):
        expected = on_numpy.push(levels[start : start + 5])
        found = on_torch.push(torch.from_numpy(levels[start : start + 5]))
        assert (found.traj_feat.dtype, found.traj_type.dtype) == (torch.int8, torch.uint8)
        assert np.array_equal(expected.traj_feat, found.traj_feat)
        assert np.array_equal(expected.traj_type, found.traj_type)


def limited(
    function: Callable[..., Any], most: int, error: Exception, calls: list[int]
) -> Callable[..., Any]:
    """Fails for more than `most` frames of flow."""

    def call(*arguments: Any, **how: Any) -> Any:
        flow = next(array for array in arguments if hasattr(array, "ndim"))
        calls.append(len(flow))
        if len(flow) > most:
            raise error
        return function(*arguments, **how)

    return call


@pytest.mark.parametrize("where", ["quantising", "tracking"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_out_of_memory_after_the_flow_halves_and_changes_no_file(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    flow = replace(FLOW, camera="none", dither=True)
    run(work(tmp_path / "plain", flow=flow), videos)
    calls: list[int] = []
    # 6 pairs are a batch; the tracker holds 5 more.
    patched: Any = (Quantisation, "stored", 4) if where == "quantising" else (tracking, "follow", 9)
    owner, name, most = patched
    monkeypatch.setattr(owner, name, limited(getattr(owner, name), most, error, calls))
    run(work(tmp_path / "limited", flow=flow), videos)
    same_files(tmp_path / "plain", tmp_path / "limited")
    # Once, and then only batches that fit.
    assert sum(count > most for count in calls) == 1


def test_a_repeated_piece_is_tracked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows end to end, and frames between them that no window reads."""
    flow = np.random.default_rng(0).normal(0, 2, (40, 2, 32, 40)).astype(np.float32)
    how: dict[str, Any] = {"length": 2, "job": "trajs", "tracking": "subpixel", "step": 3}
    steady, repeated = Tracker(**how), Tracker(**how)
    expected, found = [], []
    for start in range(0, 40, 5):
        piece = flow[start : start + 5]
        expected.append(steady.push(piece).traj_feat)
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "follow", limited(tracking.follow, 0, MemoryError(), []))
            with pytest.raises(MemoryError):
                repeated.push(piece)
        found += [repeated.push(piece[:2]).traj_feat, repeated.push(piece[2:]).traj_feat]
    assert np.array_equal(np.concatenate(expected, 1), np.concatenate(found, 1))
    assert sum(windows.shape[1] for windows in found) == 7


class RecordedStream:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait_event(self, event: str) -> None:
        self.log.append(f"copying waits for {event}")

    def wait_stream(self, _other: object) -> None:
        self.log.append("computing waits for the upload")

    def record_event(self) -> str:
        self.log.append("mark computed")
        return "computed"


def test_the_order_of_calls_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy follows the computation on a separate stream, and only the waiting function blocks."""
    log: list[str] = []

    class Event:
        def __init__(self, **_: Any) -> None: ...

        def record(self, _stream: object) -> None:
            log.append("mark copied")

        def synchronize(self) -> None:
            log.append("wait for copied")

    class Within:
        def __init__(self, _stream: object) -> None: ...

        def __enter__(self) -> None:
            log.append("on the copying stream")

        def __exit__(self, *_: object) -> None: ...

    def page_locked(like: torch.Tensor) -> torch.Tensor:
        log.append("copy")
        return torch.empty(like.shape, dtype=like.dtype)

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: RecordedStream(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: RecordedStream(log))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: log.append("keep for the copy"))
    monkeypatch.setattr(transfer, "page_locked", page_locked)
    levels = torch.arange(48, dtype=torch.uint8).reshape(2, 2, 3, 4)
    fetch = CudaDownloads("cuda:0").start(Piece(levels=levels))
    assert log == [
        "mark computed",
        "on the copying stream",
        "copying waits for computed",
        "keep for the copy",
        "copy",
        "mark copied",
    ]
    fetched = fetch().levels
    assert log[-1] == "wait for copied"
    assert isinstance(fetched, np.ndarray) and np.array_equal(fetched, levels.numpy())


def test_frames_are_uploaded_while_the_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From page-locked memory on a stream of its own: what was launched before is not waited for."""
    log: list[str] = []

    class Target:
        """Of a GPU."""

        device = torch.device("cuda:0")

        def copy_(self, values: torch.Tensor) -> None:
            log.append(f"{values.tolist()} into the frames")

    class Within:
        def __init__(self, _stream: object) -> None: ...

        def __enter__(self) -> None:
            log.append("on the uploading stream")

        def __exit__(self, *_: object) -> None:
            log.append("on the computing stream")

    def pin_memory(source: torch.Tensor) -> torch.Tensor:
        log.append("page-locked")
        return source

    empty_like, copy = torch.empty_like, torch.Tensor.copy_

    def copied(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        log.append(f"uploaded, {non_blocking=}")
        return copy(target, source)

    transfer._upload_stream.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: RecordedStream(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: RecordedStream(log))
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch, "empty_like", lambda source, device: empty_like(source))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: log.append("keep until read"))
    transfer.upload(np.array([3, 5], np.uint8), Target())  # type: ignore[arg-type]
    transfer._upload_stream.cache_clear()
    assert log == [
        "on the uploading stream",
        "page-locked",
        "uploaded, non_blocking=True",
        "on the computing stream",
        "computing waits for the upload",
        "keep until read",
        "[3, 5] into the frames",
    ]


def test_without_page_locked_memory_ordinary_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "CUDA error: out of memory"
    empty = torch.empty

    def refused(*_: Any, **how: Any) -> torch.Tensor:
        if how.pop("pin_memory", True):
            raise RuntimeError(message)
        return empty(*_, **how)

    levels = torch.arange(6, dtype=torch.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", refused)
        patch.setattr(torch, "empty", lambda *shape, **how: refused(*shape, **{"pin_memory": False, **how}))
        assert transfer._in_page_locked(levels) is levels
        assert transfer.page_locked(levels).shape == levels.shape
        message = "CUDA error: an illegal memory access was encountered"
        for function in (transfer._in_page_locked, transfer.page_locked):
            with pytest.raises(RuntimeError, match="illegal"):
                function(levels)


@pytest.mark.parametrize("name", ["farneback", "dis"])
@pytest.mark.slow
def test_files_are_the_same_with_graphs(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    few = replace(FLOW, estimator=name, parameters=FLOW.parameters if name == "farneback" else {})
    run(work(tmp_path / "plain", flow=few), videos)
    recordings = pretended_graphs(monkeypatch)
    run(work(tmp_path / "graphs", flow=few), videos)
    assert recordings.made >= 1 and recordings.replays > 2 * recordings.made
    same_files(tmp_path / "plain", tmp_path / "graphs")


@pytest.mark.gpu
def test_a_gpu_makes_the_files_of_the_cpu(videos: list[Video], tmp_path: Path) -> None:
    """Trajectories from stored flow are bit-identical; in one pass the flow's levels agree up to rounding."""
    run(work(tmp_path / "cpu"), videos)
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "flows").symlink_to(tmp_path / "cpu" / "flows")
    run(work(stored, flow=None, device="cuda:0"), videos)
    for video in videos:
        one, other = (
            load_trajectories(Outputs(place).trajectories(video.name, 6))
            for place in (tmp_path / "cpu", stored)
        )
        assert np.array_equal(one.traj_feat, other.traj_feat)
        assert np.array_equal(one.traj_type, other.traj_type)
    run(work(tmp_path / "gpu", device="cuda:0", batch=0), videos)
    for video in videos:
        differences = np.abs(
            load_flow(tmp_path / "cpu/flows" / video.name) - load_flow(tmp_path / "gpu/flows" / video.name)
        )
        assert np.median(differences) == 0 and (differences > 0.2).mean() < 0.01
