"""Sampling of a video's frames by a rate.

Of a video with f frames per second, a rate r < f keeps the frames ⌈k f / r⌉ for k = 0, 1, 2, …: the first frame at or
after each multiple of 1 / r seconds, by the frame rate in the video's header. A rate of 0 or of f and more keeps all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeVar

Frame = TypeVar("Frame")


def as_fraction(rate: float) -> Fraction:
    """A rate of the settings, such as 12.5 frames per second, without the error of a float."""
    return Fraction(rate).limit_denominator(1000)


def sampled(frames: Iterable[Frame], video_rate: Fraction, rate: float) -> Iterator[Frame]:
    """The frames kept of a video of `video_rate` frames per second."""
    if not drops_frames(video_rate, rate):
        yield from frames
        return
    kept, following = 0, 0
    for number, frame in enumerate(frames):
        if number == following:
            yield frame
            kept += 1
            following = number_in_video(kept, video_rate, rate)


def drops_frames(video_rate: Fraction, rate: float) -> bool:
    """Whether the rate keeps fewer than all frames."""
    return 0 < as_fraction(rate) < video_rate


def number_in_video(kept: int, video_rate: Fraction, rate: float) -> int:
    """The number in the video of the kept frame `kept`."""
    return math.ceil(kept * video_rate / as_fraction(rate)) if drops_frames(video_rate, rate) else kept


def number_kept(frames: int, video_rate: Fraction, rate: float) -> int:
    """How many of a video's first `frames` frames are kept."""
    if not frames or not drops_frames(video_rate, rate):
        return frames
    return math.floor((frames - 1) * as_fraction(rate) / video_rate) + 1


def numbers_in_video(
    numbers: Iterable[int], settings: Mapping[str, Any], source: Mapping[str, Any]
) -> list[int]:
    """The numbers in the video of frames of a result, by the settings and the source in the provenance of its flow."""
    video_rate = source.get("video_rate")
    if not video_rate:
        return list(numbers)
    return [number_in_video(number, Fraction(video_rate), settings["rate"]) for number in numbers]
