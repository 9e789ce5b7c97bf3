"""Sampling by a rate: against the times of the frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from m3flow.videos.decoder import Decoder
from m3flow.videos.frame_rate import number_in_video, number_kept, sampled
from m3flow.videos.frames import Frames
from support.clips import moving_texture, write_video

RATES = [
    (Fraction(30), 15),
    (Fraction(25), 8),
    (Fraction(30000, 1001), 12.5),
    (Fraction(30000, 1001), 29),
    (Fraction(24), 0.5),
]


@pytest.mark.parametrize(("video_rate", "rate"), RATES, ids=str)
def test_the_first_frame_at_or_after_each_multiple(video_rate: Fraction, rate: float) -> None:
    times = [number / video_rate for number in range(200)]
    moments = [k / Fraction(rate) for k in range(1000)]
    expected = [
        next(number for number, time in enumerate(times) if time >= moment)
        for moment in moments
        if moment <= times[-1]
    ]
    assert list(sampled(range(200), video_rate, rate)) == expected
    assert [number_in_video(k, video_rate, rate) for k in range(len(expected))] == expected
    for frames in (0, 1, 2, 7, 100, 200):
        assert number_kept(frames, video_rate, rate) == sum(number < frames for number in expected)


@pytest.mark.parametrize("rate", [0, 25, 60])
def test_a_rate_of_the_video_or_more_keeps_all(rate: float) -> None:
    assert list(sampled(range(9), Fraction(25), rate)) == list(range(9))
    assert number_in_video(7, Fraction(25), rate) == 7 and number_kept(9, Fraction(25), rate) == 9


@pytest.mark.parametrize("short_side", [0, 32])
def test_frames_with_their_grey_ones(tmp_path: Path, short_side: int) -> None:
    """The pictures of a video at a rate: every second one, in colour, and the same grey as without colour."""
    from m3flow.videos.resize import Resize

    video = write_video(tmp_path / "a.mkv", moving_texture(9, 48, 64))
    every = list(Frames(video, Resize(short_side)))
    colour = list(Frames(video, Resize(short_side), picture="colour"))
    with Decoder() as decoder:
        decoded = decoder.open(str(video), Resize(short_side), picture="both", rate=12.5)
        both = np.concatenate(list(decoded.blocks))
    assert (decoded.info.rate, decoded.info.video_rate) == (Fraction(25, 2), Fraction(25))
    assert decoded.frames == 5 and decoded.info.claimed in (0, 5)
    assert np.array_equal(both[..., 3], np.stack(every[::2]))
    assert np.array_equal(both[..., :3], np.stack(colour[::2]))
