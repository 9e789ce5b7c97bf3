"""Several decoders ahead: the same frames as from one, in bounded memory, and each costs its own video alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from m3flow.errors import BadInput
from m3flow.videos import decoders as module
from m3flow.videos.decoder import Decoder
from m3flow.videos.decoders import Decoders
from m3flow.videos.limits import Limits
from support.clips import clip

LENGTHS = (30, 1, 12, 100, 25, 7)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(clip(folder / f"{n}.mkv", length, seed=n)) for n, length in enumerate(LENGTHS)]


@pytest.fixture
def three() -> Iterator[Decoders]:
    pool = Decoders(3, Limits(), indexed=True)
    yield pool
    pool.close()
    assert all(decoder._child is None for decoder in pool._all)


def frames_of(decoder: Decoder | Decoders, path: str) -> tuple[np.ndarray, int, object]:
    decoded = decoder.open(path)
    frames = np.concatenate(list(decoded.blocks))
    return frames, decoded.frames, decoded.key_frames


def test_frames_are_those_of_one_decoder(paths: list[str], three: Decoders) -> None:
    for path in paths:
        three.expect(path)
    with Decoder(indexed=True) as one:
        for path in paths:
            expected, found = frames_of(one, path), frames_of(three, path)
            assert np.array_equal(found[0], expected[0])
            assert found[1:] == expected[1:]


def test_a_video_that_was_not_expected_next(paths: list[str], three: Decoders) -> None:
    three.expect(paths[0])
    assert frames_of(three, paths[2])[1] == LENGTHS[2]
    assert frames_of(three, paths[0])[1] == LENGTHS[0]


def test_a_damaged_video_and_one_abandoned_cost_nothing_else(
    paths: list[str], tmp_path: Path, three: Decoders
) -> None:
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(b"no video")
    for path in (paths[3], str(damaged), paths[0]):
        three.expect(path)
    next(three.open(paths[3]).blocks)
    with pytest.raises(BadInput):
        three.open(str(damaged))
    assert frames_of(three, paths[0])[1] == LENGTHS[0]


def test_no_more_than_the_room_is_decoded_ahead(
    paths: list[str], three: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AHEAD_BYTES", 20 * 48 * 64)
    three.expect(paths[3])
    ahead = three._expected[0]
    decoded = three.open(paths[3])
    count = 0
    for block in decoded.blocks:
        assert ahead._bytes <= module.AHEAD_BYTES
        count += len(block)
    assert count == LENGTHS[3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_decoder_that_is_killed_costs_its_video_alone(
    paths: list[str], three: Decoders, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(module, "AHEAD_BYTES", 1)
    three.expect(paths[3])
    decoded = three.open(paths[3])
    next(decoded.blocks)
    # It waits for a reader of its frames, since there is room for few.
    (busy,) = [decoder for decoder in three._all if decoder._is_decoding]
    three.expect(paths[0])
    assert busy._child is not None
    os.kill(busy._child.pid, number)
    what = "crashed \\(SIGSEGV\\)" if number == signal.SIGSEGV else "status -9"
    with pytest.raises((BadInput, RuntimeError), match=what):
        list(decoded.blocks)
    assert frames_of(three, paths[0])[1] == LENGTHS[0]
    three.expect(paths[3])
    monkeypatch.setattr(module, "AHEAD_BYTES", 2**20)
    assert frames_of(three, paths[3])[1] == LENGTHS[3]


def test_a_suspended_decoder_continues_where_it_was(paths: list[str], three: Decoders) -> None:
    three.start()
    for decoder in three._all:
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGSTOP)
    three.expect(paths[0])
    for decoder in three._all:
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGCONT)
    with Decoder() as one:
        assert np.array_equal(frames_of(three, paths[0])[0], frames_of(one, paths[0])[0])


def test_a_decoder_that_hangs_is_given_up(paths: list[str]) -> None:
    pool = Decoders(2, Limits(seconds=1))
    try:
        pool.start()
        for decoder in pool._all:
            assert decoder._child is not None
            os.kill(decoder._child.pid, signal.SIGSTOP)
        pool.expect(paths[0])
        with pytest.raises(BadInput, match="the decoder hangs"):
            pool.open(paths[0])
    finally:
        pool.close()


def test_closing_ends_it_whatever_is_in_progress(paths: list[str]) -> None:
    pool = Decoders(2, Limits())
    for path in paths:
        pool.expect(path)
    next(pool.open(paths[0]).blocks)
    children = [psutil.Process(one._child.pid) for one in pool._all if one._child is not None]
    pool.close()
    assert not any(child.is_running() for child in children)
