"""CUDA graphs, pretended on the CPU: results are those without them."""

from __future__ import annotations

import ast
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import numpy as np
import pytest
import torch
from torch import Tensor

from m3flow import flow
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.errors import UsageError
from m3flow.extraction.batching import Batches
from m3flow.flow import Estimator, estimator, graphs
from m3flow.flow.dis import make_order
from m3flow.flow.image_ops import pixel_grid, reflected, resize_plan
from support.flow_cases import moved_texture
from support.recorded_graphs import NotPermitted, PretendedRecording, pretended_graphs

FEW: dict[str, dict[str, Any]] = {
    "farneback": {"levels": 1, "iterations": 2},
    "dis": {},
    "brox": {"outer": 3, "inner": 2, "solver": 2},
}
HEIGHT, WIDTH = 48, 64
COUNT = itertools.count()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> type[PretendedRecording]:
    return pretended_graphs(monkeypatch)


def frames_of(count: int, number: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """uint8 [count, height, width], other ones for each number."""
    pairs = [
        moved_texture(height, width, ((1.0, 0.01 * i, 0.4 * i + number), (0.0, 1.0, 0.3 * number - 0.2 * i)))
        for i in range(count)
    ]
    return torch.from_numpy(np.concatenate([pair.current for pair in pairs]))


def torch_estimator(name: str) -> Estimator:
    return estimator(name, backend="torch", device="cpu", **FEW[name])


def plainly(monkeypatch: pytest.MonkeyPatch, name: str) -> Estimator:
    """An estimator without graphs, among those with."""
    chosen = torch_estimator(name)
    with monkeypatch.context() as context:
        context.setattr(graphs, "wanted", lambda device: False)
        assert chosen.kept_bytes_per_pixel == 0
    return chosen


@pytest.mark.parametrize("name", FEW)
@pytest.mark.slow
def test_batches_give_the_same_flow_as_without_graphs(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording], name: str
) -> None:
    """Also a short last one, one longer than the graph, results read late, and pairs instead of frames."""
    replayed, plain = torch_estimator(name), plainly(monkeypatch, name)
    results = []
    for number, count in enumerate((5, 5, 5, 5, 4, 2, 6, 5)):
        frames = frames_of(count, number)
        results.append((replayed.sequence(frames), plain.sequence(frames)))
        results.append((replayed(frames[:-1], frames[1:]), plain(frames[:-1], frames[1:])))
    assert all(torch.equal(one, other) for one, other in results)  # type: ignore[arg-type]
    # The method of pairs is that of frames for all but Farnebäck, and then has its own graph.
    assert recordings.made == (2 if name == "farneback" else 1)
    assert recordings.replays >= 10
    assert replayed.kept_bytes_per_pixel == graphs.KEPT * replayed.bytes_per_pixel


@pytest.mark.slow
def test_of_two_frame_sizes_that_alternate(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording]
) -> None:
    replayed, plain = torch_estimator("dis"), plainly(monkeypatch, "dis")
    for number in range(5):
        for size in ((48, 64), (64, 40)):
            frames = frames_of(4, number, *size)
            assert torch.equal(replayed.sequence(frames), plain.sequence(frames))  # type: ignore[arg-type]
    assert recordings.made == 2


@pytest.mark.slow
def test_camera_compensation_in_batches(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording]
) -> None:
    """Whose flow is changed in place afterwards: bars and cuts become 0."""
    with_graphs, without = (
        MotionEstimator(one) for one in (torch_estimator("farneback"), plainly(monkeypatch, "farneback"))
    )
    for number in range(4):
        frames, pairs = frames_of(5, number), 4
        homographies = np.tile(np.eye(3), (pairs, 1, 1))
        homographies[1:, 0, 2] = 0.5 * number
        chosen = Selection(
            homographies=homographies,
            accepted=np.ones(pairs, bool),
            confidence=np.ones(pairs, np.float32),
            cut=np.array([False, False, number == 2, False]),
            bars=np.array([[4, 0, 0, number]] * pairs, np.int32),
        )
        one, other = (motion(frames, 1, chosen).flow for motion in (with_graphs, without))
        assert torch.equal(one, other)  # type: ignore[arg-type]
    assert recordings.made == 1


@pytest.mark.slow
def test_constants_that_a_graph_reads_outlive_their_cache(recordings: type[PretendedRecording]) -> None:
    """Of many other frame sizes, computed in between."""
    chosen = torch_estimator("dis")
    frames = frames_of(3, 0)
    expected = chosen.sequence(frames)
    chosen.sequence(frames)
    for size in range(70):
        make_order(16 + size, 16, 3, torch.device("cpu"))
        for number in range(4):
            constants_of(16 + 4 * size + number)
    assert torch.equal(chosen.sequence(frames), expected)  # type: ignore[arg-type]
    assert recordings.replays == 3


def constants_of(width: int) -> None:
    """Of another frame size."""
    pixel_grid(3, width, torch.device("cpu"))
    reflected(width, 2, torch.device("cpu"))
    resize_plan(width, 7, width / 7, torch.device("cpu"))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            lambda frames: frames.float() * float(frames.float().mean()),
            "NotPermitted: operation not permitted",
        ),
        (lambda frames: frames.float()[frames[:, 0, 0] >= 0], "NotPermitted: operation not permitted"),
        (lambda frames: frames.float() + torch.tensor([1.0]), "NotPermitted: operation not permitted"),
        (lambda frames: frames.add_(1).float(), "writes into memory"),
        (lambda frames: frames.float() + next(COUNT), "its result differs"),
    ],
    ids=["reads a value", "reads a mask", "copies from the host", "changes its input", "changes by itself"],
)
def test_what_cannot_be_recorded_goes_on_without(
    recordings: type[PretendedRecording],  # noqa: ARG001
    caplog: pytest.LogCaptureFixture,
    wrong: Callable[[Tensor], Tensor],
    why: str,
) -> None:
    run = graphs.Graphs()
    with caplog.at_level(logging.INFO, "m3flow"):
        results = [run(wrong, torch.full((3, 2, 2), 7, dtype=torch.uint8)) for _ in range(4)]
    assert len(results) == 4 and all(result.shape == (3, 2, 2) for result in results)
    (line,) = caplog.messages
    assert why in line and line.startswith("cpu: batches of (3, 2, 2): no CUDA graph: ")


def doubled(frames: Tensor) -> Tensor:
    return 2 * frames.float()


def run_of(count: int, *, run: graphs.Graphs, width: int = 2, function: Any = doubled) -> Tensor:
    result: Tensor = run(function, torch.full((count, 2, width), 7, dtype=torch.uint8))
    return result


def test_a_graph_that_is_no_faster_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recordings, run = pretended_graphs(monkeypatch, seconds=lambda: 1.5), graphs.Graphs()
    with caplog.at_level(logging.INFO, "m3flow"):
        for _ in range(9):
            assert (run_of(3, run=run) == 14).all()
    assert (recordings.made, recordings.replays) == (1, 2)
    assert caplog.messages == ["cpu: batches of (3, 2, 2): no CUDA graph: 1500.00 ms, 1000.00 without"]


def test_the_least_used_graphs_make_room(recordings: type[PretendedRecording]) -> None:
    run = graphs.Graphs()
    for width in range(1, 3 + graphs.KEPT):
        for _ in range(2):
            run_of(3, run=run, width=width)
    assert len(run._graphs) == graphs.KEPT
    assert recordings.made == 2 + graphs.KEPT


def test_frame_sizes_that_take_turns_are_recorded_ever_less_often(
    recordings: type[PretendedRecording],
) -> None:
    run = graphs.Graphs()
    for _ in range(100):
        for width in range(1, 2 + graphs.KEPT):
            run_of(3, run=run, width=width)
    assert recordings.made <= 6 * (1 + graphs.KEPT)


def test_another_setting_is_another_graph(recordings: type[PretendedRecording]) -> None:
    run = graphs.Graphs()
    for _ in range(4):
        for factor in (2, 3):
            result = run(lambda frames, factor: factor * frames.float(), torch.ones(3, 2, 2), factor=factor)
            assert (result == factor).all()
    assert recordings.made == 2


def test_a_batch_of_less_than_half_is_not_padded(recordings: type[PretendedRecording]) -> None:
    run = graphs.Graphs()
    for count in (8, 8, 4, 3, 1):
        assert run_of(count, run=run).shape == (count, 2, 2)
    assert recordings.replays == 2 + 1


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def record(function: Callable[[], Tensor], _device: torch.device) -> Any:
        function()
        raise error

    monkeypatch.setattr(graphs, "Recording", record)


def test_out_of_memory_while_recording_leaves_the_size_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording], caplog: pytest.LogCaptureFixture
) -> None:
    run = graphs.Graphs()
    with monkeypatch.context() as context, caplog.at_level(logging.INFO, "m3flow"):
        failing(context, torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"))
        for _ in range(5):
            assert (run_of(3, run=run) == 14).all()
    assert caplog.messages == [
        "cpu: batches of (3, 2, 2): no CUDA graph: OutOfMemoryError: CUDA out of memory. Tried"
    ]
    for _ in range(3):
        run_of(3, run=run, width=9)
    assert recordings.made == 1


def test_after_another_error_nothing_more_is_recorded(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording]
) -> None:
    run = graphs.Graphs()
    with monkeypatch.context() as context:
        failing(context, RuntimeError("CUDA error: operation failed due to a previous error during capture"))
        for _ in range(3):
            assert (run_of(3, run=run) == 14).all()
    for _ in range(3):
        run_of(3, run=run, width=9)
    assert recordings.made == 0


def test_out_of_memory_frees_the_graphs(recordings: type[PretendedRecording]) -> None:
    """The batch is halved, and later ones need the memory."""
    run, fail = graphs.Graphs(), [False]

    def call(frames: Any) -> Any:
        result = run(doubled, torch.as_tensor(frames))[:-1]
        if len(frames) > 3 and fail[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    batches: Batches[str, Any] = Batches(call)
    done = 0
    for number in range(6):
        fail[0] = number == 3
        frames = np.full((4, 2, 2), number, np.uint8)
        for part in (*batches.add("video", frames, 4), *batches.flush()):
            done += len(part.result)
    assert done == 23 and recordings.made == 1 and not run._graphs


def test_memory_of_graphs_belongs_to_that_of_batches(recordings: type[PretendedRecording]) -> None:  # noqa: ARG001
    assert torch_estimator("dis").kept_bytes_per_pixel == graphs.KEPT * 60
    assert estimator("tvl1", backend="torch", device="cpu").kept_bytes_per_pixel == 0
    assert estimator("dis", backend="opencv").kept_bytes_per_pixel == 0


def test_inside_the_callers_own_graph_there_is_none(
    monkeypatch: pytest.MonkeyPatch, recordings: type[PretendedRecording]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run = graphs.Graphs()
    for _ in range(4):
        run_of(3, run=run)
    assert recordings.made == 0


def test_tensors_are_kept_by_no_other_cache() -> None:
    """Fused kernels read constants too, which the pretended graph does not see."""
    for path in sorted(Path(flow.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "lru_cache" in map(_name, node.decorator_list):
                kept = ast.unparse(node.returns) if node.returns else ""
                assert kept in ("str", "Any", "Kernels"), f"{path.name}: {node.name} returns {kept}"


def _name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.id if isinstance(called, ast.Name) else ""


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(graphs.VARIABLE, raising=False)
    assert not graphs.wanted("cuda:0")
    monkeypatch.setenv(graphs.VARIABLE, "1")
    assert graphs.wanted("cuda:0") and not graphs.wanted("cpu")
    monkeypatch.setenv(graphs.VARIABLE, "yes")
    with pytest.raises(UsageError, match="M3FLOW_CUDA_GRAPHS is 'yes'; choose 0 or 1"):
        graphs.wanted("cuda:0")


def test_the_pretended_graph_finds_freed_memory() -> None:
    held = [torch.ones(3)]
    recording = PretendedRecording(lambda: held[0] + 1, torch.device("cpu"))
    assert recording.result.isnan().all()
    recording.replay()
    assert (recording.result == 2).all()
    held.clear()
    with pytest.raises(NotPermitted, match="has been freed"):
        recording.replay()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The interface of torch.cuda with its own signatures, and no GPU behind it."""
    for name in ("CUDAGraph", "Stream", "current_stream", "graph", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, create_autospec(getattr(torch.cuda, name)))
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    torch.cuda.graph.return_value.__exit__.return_value = None  # type: ignore[attr-defined]
    graphs._recording_stream.cache_clear()
    yield torch.cuda
    graphs._recording_stream.cache_clear()


def test_what_is_asked_of_cuda(cuda: Any) -> None:
    device = torch.device("cuda:1")
    recording = graphs.Recording(lambda: torch.ones(2), device)
    how = cuda.graph.call_args
    assert how.args == (cuda.CUDAGraph.return_value, cuda.graph_pool_handle.return_value)
    assert how.kwargs == {"stream": cuda.Stream.return_value, "capture_error_mode": "thread_local"}
    assert cuda.device.call_args.args == (device,) and cuda.Stream.call_args.args == (device,)
    stream = cuda.current_stream.return_value
    with recording.in_turn():
        recording.replay()
    stream.wait_event.assert_not_called()
    with recording.in_turn():
        recording.replay()
    stream.wait_event.assert_called_once_with(stream.record_event.return_value)
    assert cuda.CUDAGraph.return_value.replay.call_count == 2


@pytest.mark.parametrize("inside", [True, False])
def test_after_a_failed_recording_the_allocator_leaves_it(
    monkeypatch: pytest.MonkeyPatch, cuda: Any, inside: bool
) -> None:
    """Unless torch did so itself: its graph then releases the pool, and twice would end the process."""
    left = []

    def end(number: int, pool: Any) -> None:
        if not inside:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        left.append(("end", number, pool))

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_releasePool", lambda *about: left.append(("release", *about)), raising=False
    )

    def fails() -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.Recording(fails, torch.device("cuda:1"))
    pool = cuda.graph_pool_handle.return_value
    assert left == ([("end", 1, pool), ("release", 1, pool)] if inside else [])
