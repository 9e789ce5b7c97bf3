"""Batches over a video: every pair once, in order, whatever the memory allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.extraction import batching
from m3flow.extraction.batching import Batches, TooLarge, batch_size

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


def through(call, videos, *, batch, step=1, shared=False):
    """Each video's results, {name: results}, and its error, from videos {name: chunks}."""
    batches = Batches(call, step=step, shared=shared)
    results = {name: [] for name in videos}
    errors, ended = {}, []

    def take(parts):
        for part in parts:
            assert part.owner not in ended
            results[part.owner].extend(part.result or [])
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
    """Videos of the given lengths whose frames are numbered through."""
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
    # No more calls than it takes to have every batch but the last full.
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
    # What the pairs across a seam take counts too.
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
