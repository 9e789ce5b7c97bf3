"""Batches over a video: every pair once, in order, whatever the memory allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.flow import batching
from m3flow.flow.batching import TooLarge, batch_size, run_in_batches

FRAMES = np.arange(23, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(3, 2)


def chunks_of(frames, size):
    return [frames[start : start + size] for start in range(0, len(frames), size)]


class Pairs:
    """In place of an estimator: returns each pair's frame numbers; out of memory beyond `room` pairs."""

    def __init__(self, step, room=10**6):
        self.step, self.room, self.asked = step, room, []

    def __call__(self, frames):
        pairs = len(frames) - self.step
        self.asked.append(pairs)
        if pairs > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")
        numbers = [int(frame[0, 0]) for frame in frames]
        return list(zip(numbers[: -self.step], numbers[self.step :], strict=True))


@pytest.mark.parametrize("chunk", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("batch", [1, 5, 22, 64])
@pytest.mark.parametrize("step", [1, 3])
def test_every_pair_once_and_in_order(chunk, batch, step):
    pairs = Pairs(step)
    result = [
        p for part in run_in_batches(pairs, chunks_of(FRAMES, chunk), step=step, batch=batch) for p in part
    ]
    assert result == [(t, t + step) for t in range(23 - step)]
    assert max(pairs.asked) <= batch


def test_tensors_are_taken_too():
    chunks = chunks_of(torch.from_numpy(FRAMES), 4)
    result = [p for part in run_in_batches(Pairs(1), chunks, batch=5) for p in part]
    assert result == [(t, t + 1) for t in range(22)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_frames_give_nothing(count):
    assert list(run_in_batches(Pairs(2), [FRAMES[:count]], step=2, batch=4)) == []
    assert list(run_in_batches(Pairs(2), [], step=2, batch=4)) == []


def test_out_of_memory_halves_and_stays_there():
    pairs = Pairs(1, room=3)
    result = [p for part in run_in_batches(pairs, chunks_of(FRAMES, 10), batch=8) for p in part]
    assert result == [(t, t + 1) for t in range(22)]
    assert pairs.asked[:3] == [8, 4, 2]  # refused, refused, done
    assert set(pairs.asked[3:]) == {2}


def test_one_pair_too_large_is_said_in_one_line():
    with pytest.raises(TooLarge, match=r"3x2 frames.*20\.00 GiB") as caught:
        list(run_in_batches(Pairs(1, room=0), [FRAMES], batch=8))
    assert "\n" not in str(caught.value)


def test_other_errors_pass_through():
    def broken(_frames):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(run_in_batches(broken, [FRAMES], batch=8))


def test_batch_size_follows_memory_and_size(monkeypatch):
    assert batch_size("cpu", 240, 320, setting=5) == 5
    assert batch_size("cpu", 240, 320) >= 1
    monkeypatch.setattr(batching, "free_memory", lambda _device: 2**30)
    small, large = batch_size("cuda:0", 240, 320), batch_size("cuda:0", 1080, 1920)
    assert small > large >= 1
    assert small * 240 * 320 * batching.BYTES_PER_PIXEL <= 2**30
    monkeypatch.setattr(batching, "free_memory", lambda _device: 10**6)
    assert batch_size("cuda:0", 1080, 1920) == 1
    monkeypatch.setattr(batching, "free_memory", lambda _device: 10**12)
    assert batch_size("cuda:0", 240, 320) * 240 * 320 <= batching.PIXELS_ENOUGH
