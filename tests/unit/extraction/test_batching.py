"""Batches over videos: every pair once, in order, whatever memory is available."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m3flow.errors import Interrupted
from m3flow.extraction import batching, extractor
from m3flow.extraction.batching import Batches, TooLarge, batch_size
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.frame_buffer import FrameBuffer
from m3flow.extraction.work import Work
from m3flow.flow import transfer
from m3flow.layout import Outputs
from m3flow.settings import FlowSettings
from support.limited_memory import LimitedMemory

FRAMES = np.arange(23, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(3, 2)


def chunks_of(frames, size):
    return [frames[start : start + size] for start in range(0, len(frames), size)]


class Pairs:
    """A fake estimator: returns each pair's frame numbers; out of memory beyond `room` pairs."""

    def __init__(self, step, room=10**6):
        self.step, self.room, self.asked = step, room, []

    def __call__(self, frames):
        pairs = len(frames) - self.step
        self.asked.append(pairs)
        if pairs > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")
        numbers = [int(frame[0, 0]) for frame in frames]
        return list(zip(numbers[: -self.step], numbers[self.step :], strict=True))


def through(call, videos, *, batch, step=1, shared=False):
    """Each video's results, {name: results}, and its error, from videos {name: chunks}."""
    batches = Batches(call, step=step, shared=shared)
    results = {name: [] for name in videos}
    errors, ended = {}, []

    def take(parts):
        for part in parts:
            assert part.owner not in ended
            results[part.owner].extend([] if part.result is None else part.result)
            if part.error is not None:
                errors[part.owner] = part.error
            if part.last:
                ended.append(part.owner)

    for name, chunks in videos.items():
        for chunk in chunks:
            if name not in errors:
                take(batches.add(name, chunk, batch))
        if name not in errors:
            take(batches.end(name))
    take(batches.flush())
    assert sorted(ended, key=list(videos).index) == list(videos)
    return results, errors


def alone(call, chunks, *, batch, step=1):
    results, errors = through(call, {"one": chunks}, batch=batch, step=step)
    assert not errors
    return results["one"]


@pytest.mark.parametrize("chunk", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("batch", [1, 5, 22, 64])
@pytest.mark.parametrize("step", [1, 3])
def test_every_pair_once_and_in_order(chunk, batch, step):
    pairs = Pairs(step)
    result = alone(pairs, chunks_of(FRAMES, chunk), step=step, batch=batch)
    assert result == [(t, t + step) for t in range(23 - step)]
    assert max(pairs.asked) <= batch


def test_tensors_are_taken_too():
    chunks = chunks_of(torch.from_numpy(FRAMES), 4)
    assert alone(Pairs(1), chunks, batch=5) == [(t, t + 1) for t in range(22)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_frames_give_nothing(count):
    assert alone(Pairs(2), [FRAMES[:count]], step=2, batch=4) == []
    assert alone(Pairs(2), [], step=2, batch=4) == []


def videos_of(lengths, size=(2, 3)):
    """Videos of the given lengths with consecutively numbered frames."""
    start, videos = 0, {}
    for index, length in enumerate(lengths):
        numbers = np.arange(start, start + length, dtype=np.uint8)[:, None, None]
        videos[index] = chunks_of(np.broadcast_to(numbers, (length, *size)), 3)
        start += length
    return videos


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_short_videos_share_batches(batch, step):
    lengths = [5, 1, 9, 2, 3, 3, 12]
    pairs = Pairs(step)
    results, errors = through(pairs, videos_of(lengths), batch=batch, step=step, shared=True)
    first = 0
    for index, length in enumerate(lengths):
        frames = range(first, first + length)
        assert results[index] == list(zip(frames[:-step], frames[step:], strict=True))
        first += length
    assert not errors
    # As few calls as possible: every batch but the last is full.
    count = sum(max(0, length - step) for length in lengths)
    assert len(pairs.asked) == -(-count // batch)


def test_videos_of_other_sizes_do_not_share():
    small, large = videos_of([4]), videos_of([4], (8, 8))
    pairs = Pairs(1)
    results, _ = through(pairs, {0: small[0], 1: large[0], 2: small[0]}, batch=50, shared=True)
    assert pairs.asked == [3, 3, 3]
    assert results[0] == results[1] == results[2] == [(0, 1), (1, 2), (2, 3)]


def test_an_error_is_that_of_its_video_alone():
    good = Pairs(1)

    def breaks_at_seven(frames):
        if 7 in frames[:, 0, 0]:
            raise RuntimeError("seven")
        return good(frames)

    results, errors = through(breaks_at_seven, videos_of([5, 5, 5]), batch=50, shared=True)
    assert [str(errors[name]) for name in errors] == ["seven"] and list(errors) == [1]
    assert results == {
        0: [(0, 1), (1, 2), (2, 3), (3, 4)],
        1: [],
        2: [(10, 11), (11, 12), (12, 13), (13, 14)],
    }


@pytest.mark.parametrize("shared", [False, True])
def test_out_of_memory_halves_and_stays_there(shared):
    pairs = Pairs(1, room=3)
    results, errors = through(pairs, {"one": chunks_of(FRAMES, 10)}, batch=8, shared=shared)
    assert results["one"] == [(t, t + 1) for t in range(22)] and not errors
    assert pairs.asked[:3] == [8, 4, 2]  # refused, refused, done
    assert set(pairs.asked[3:]) == {2}


def test_out_of_memory_in_a_shared_batch():
    # The memory of the pairs across a seam counts too.
    results, errors = through(Pairs(1, room=3), videos_of([4, 5, 2, 6]), batch=9, shared=True)
    assert [len(results[name]) for name in results] == [3, 4, 1, 5] and not errors


def test_one_pair_too_large_is_said_in_one_line():
    _, errors = through(Pairs(1, room=0), {"one": [FRAMES]}, batch=8)
    error = errors["one"]
    assert isinstance(error, TooLarge) and "3x2 frames" in str(error) and "20.00 GiB" in str(error)
    assert "\n" not in str(error)


def test_other_errors_pass_through():
    def broken(_frames):
        raise RuntimeError("something else")

    _, errors = through(broken, {"one": [FRAMES]}, batch=8)
    assert str(errors["one"]) == "something else"


class OutOfResources(Exception):
    """Named as Triton's."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        OutOfResources("out of resource: shared memory, Required: 300000, Hardware limit: 232448"),
        MemoryError(),
    ],
    ids=str,
)
def test_every_form_of_out_of_memory_halves(error):
    pairs = Pairs(1)

    def call(frames):
        if len(frames) > 4:
            raise error
        return pairs(frames)

    assert alone(call, [FRAMES], batch=8) == [(t, t + 1) for t in range(22)]
    assert set(pairs.asked) == {2}


@pytest.mark.parametrize(
    "message", ["CUDA error: an illegal memory access was encountered", "no kernel image"]
)
def test_other_errors_of_a_gpu_do_not_halve(message):
    def call(_frames):
        raise RuntimeError(message)

    fitting = {}
    batches = Batches(call, fitting=fitting)
    (part,) = [*batches.add("one", FRAMES, 8), *batches.end("one")][:1]
    assert str(part.error) == message and not fitting


def test_no_memory_for_the_frames_halves(monkeypatch):
    """The room for a batch's frames is allocated outside of its computation."""
    allocate = FrameBuffer._allocate

    def limited(self, count, *size):
        if count > 2 * (4 + 1 + len(FRAMES)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return allocate(self, count, *size)

    monkeypatch.setattr(FrameBuffer, "_allocate", limited)
    pairs, fitting = Pairs(1), {}
    batches = Batches(pairs, fitting=fitting)
    parts = [*batches.add("one", FRAMES, 8), *batches.end("one")]
    assert [pair for part in parts for pair in part.result or []] == [(t, t + 1) for t in range(22)]
    assert max(pairs.asked) == 4 and fitting == {(2, 3): 4}


@pytest.mark.parametrize("shared", [False, True])
def test_each_smaller_try_begins_with_the_failed_ones_memory_free(shared):
    """Without Python's garbage collector, which runs at random times: memory must be freed at once."""
    frames = np.random.default_rng(0).integers(0, 255, (33, 64, 64), np.uint8)
    memory, began = LimitedMemory(), []

    def call(part):
        began.append(memory.live)
        values = torch.from_numpy(part).float()
        squares = values[1:] * values[1:]
        return (squares - values[:-1]).mean((1, 2))

    videos = {"one": [frames[:17]], "two": [frames[16:]]} if shared else {"one": [frames]}
    with LimitedMemory():
        call(frames[:2])  # memory that torch allocates in its first call stays
    gc.collect()
    gc.disable()
    try:
        with memory:
            call(frames[:9])
            # Enough memory for 8 pairs, but not for 8 and the leftovers of a failed attempt.
            memory.limit = 1.05 * memory.peak
            results, errors = through(call, videos, batch=32, shared=shared)
    finally:
        gc.enable()
    assert not errors and sum(len(result) for result in results.values()) == 32
    assert max(began) < memory.limit / 20
    expected = frames.astype(np.float64)
    expected = (expected[1:] ** 2 - expected[:-1]).mean((1, 2))
    found = np.concatenate([np.array(result) for result in results.values()])
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_fitted_is_remembered_for_frames_of_that_size():
    fitting = {}
    pairs = Pairs(1, room=3)
    small, large = FRAMES, np.zeros((9, 4, 4), np.uint8)
    for video in (small, large, small, large):
        batches = Batches(pairs, fitting=fitting)
        for parts in (batches.add("one", video, 8), batches.end("one")):
            assert all(part.error is None for part in parts)
    assert fitting == {(2, 3): 2, (4, 4): 2}
    # For each size, only the first video was tried with more.
    assert [asked for asked in pairs.asked if asked > 3] == [8, 4, 8, 4]


def test_frames_go_to_the_device_once_and_lie_there_side_by_side(monkeypatch):
    copied, given = [], []

    def upload(array, target):
        copied.append(len(array))
        target.copy_(torch.from_numpy(array))

    monkeypatch.setattr(transfer, "upload", upload)
    pairs = Pairs(2)

    def call(frames):
        assert isinstance(frames, torch.Tensor) and frames.is_contiguous()
        given.append(frames.data_ptr())
        return pairs(frames)

    batches = Batches(call, step=2, shared=True, device="cpu")
    results = []
    for name in ("one", "two", "three"):
        for chunk in chunks_of(FRAMES, 4):
            results += list(batches.add(name, chunk, 7))
        results += list(batches.end(name))
    results += list(batches.flush())
    for name in ("one", "two", "three"):
        found = [pair for part in results if part.owner == name for pair in part.result or []]
        assert found == [(t, t + 2) for t in range(21)]
    assert sum(copied) == 3 * len(FRAMES)
    assert len(set(given)) < len(given)  # one array, used again


def test_a_run_that_ends_is_no_videos_error():
    def call(_frames):
        raise Interrupted("the GPU is gone")

    with pytest.raises(Interrupted, match="gone"):
        alone(call, [FRAMES], batch=4)


def test_batch_size_follows_memory_and_size(monkeypatch):
    def size(height, width, sharing=1, used=200):
        return batch_size("cuda:0", height, width, bytes_per_pixel=used, sharing=sharing)

    assert batch_size("cpu", 240, 320, bytes_per_pixel=200, setting=5) == 5
    assert batch_size("cpu", 240, 320, bytes_per_pixel=200) >= 1
    memory = {"free": 2**30, "total": 2**30, "cached": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (memory["free"], memory["total"]))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: memory["cached"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    small, large = size(240, 320), size(1080, 1920)
    assert small > large >= 1
    assert small * 240 * 320 * 200 <= 2**30
    # An estimator that holds twice as much, or a second process, halves it.
    assert size(240, 320, used=400) == pytest.approx(small / 2, abs=1)
    assert size(240, 320, sharing=2) == pytest.approx(small / 2, abs=1)
    # Workers that started before have already taken their share: it is not subtracted again.
    memory["free"] = 2**29
    assert size(240, 320, sharing=2) == pytest.approx(small / 2, abs=1)
    memory |= {"free": 0, "cached": 2**29}
    assert size(240, 320, sharing=2) == pytest.approx(small / 2, abs=1)
    memory |= {"free": 10**6, "cached": 0}
    assert size(1080, 1920) == 1
    memory |= {"free": 10**12, "total": 10**12}
    assert size(240, 320) * 240 * 320 <= batching.PIXELS_ENOUGH


@pytest.mark.parametrize(
    ("name", "camera", "expected"),
    [("farneback", "none", 148), ("farneback", "warp", 171), ("dis", "none", 60), ("dis", "warp", 100)],
)
def test_batches_are_sized_by_the_estimator_and_those_beside_it(
    monkeypatch, tmp_path, name, camera, expected
):
    asked = []

    def size(_device, height, width, **how):
        asked.append(how | {"size": (height, width)})
        return 7

    monkeypatch.setattr(extractor, "batch_size", size)
    flow = FlowSettings(estimator=name, camera=camera, cuts=camera != "none")
    work = Work(outputs=Outputs(tmp_path), flow=flow, backend="torch", device="cpu", sharing=3)
    assert Extractor(work)._batch_size(240, 320) == 7
    assert asked == [{"bytes_per_pixel": expected, "sharing": 3, "setting": None, "size": (240, 320)}]


class Copied(TorchDispatchMode):
    """Counts the values that are copied from tensor to tensor."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.startswith(("copy_", "clone")):
            self.values += args[0].numel()
        return func(*args, **(kwargs or {}))


class TestFrameBuffer:
    """Against a plain array that is concatenated and sliced each time."""

    def test_frames_that_are_held_stay_where_they_are(self):
        """A batch is gathered from many blocks of frames."""
        frames, count = np.zeros((8, 2, 3), np.uint8), 0
        batches = Batches(lambda part: list(part[1:]), shared=True, device="cpu")
        with Copied() as copied:
            for name in range(50):
                for _ in range(6):
                    count += frames.size
                    list(batches.add(name, frames, 104))
                list(batches.end(name))
        # Once to the device, and at most once more when its array is full.
        assert count <= copied.values <= 2 * count

    @pytest.mark.parametrize("device", [None, "cpu"])
    def test_any_order_of_operations(self, device):
        random = np.random.default_rng(1)
        buffer, expected = FrameBuffer(device), np.zeros((0, 2, 3), np.uint8)
        for _ in range(300):
            if random.random() < 0.5:
                frames = random.integers(0, 255, (random.integers(0, 9), 2, 3), np.uint8)
                buffer.append(frames, room=int(random.integers(0, 20)))
                expected = np.concatenate([expected, frames])
            elif len(expected):
                start = int(random.integers(0, len(expected))) if random.random() < 0.3 else 0
                stop = int(random.integers(start, len(expected) + 1))
                buffer.drop(start, stop)
                expected = np.concatenate([expected[:start], expected[stop:]])
            assert len(buffer) == len(expected)
            if len(expected):
                assert np.array_equal(np.asarray(buffer.stretch(0, len(buffer))), expected)
        buffer.drop(0, len(buffer))
        buffer.append(np.ones((2, 5, 4), np.uint8))
        assert buffer.frame_size == (5, 4) and len(buffer) == 2
