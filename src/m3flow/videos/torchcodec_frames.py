"""Frames by their numbers through torchcodec, an alternative to PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import UsageError

if TYPE_CHECKING:
    from m3flow.videos.key_frames import KeyFrames

# The pixel format in which torchcodec's colours are OpenCV's to the bit; of others it makes different ones.
SAME_COLOURS = "yuv420p"
# Tried on real files; of MPEG-4 in AVI files some frames come out wrong after a seek.
EXACT_SEEKS = ("h264", "hevc", "vp8", "vp9")


def video_decoder() -> Any:
    """The class of torchcodec that decodes videos; raises UsageError where it cannot be loaded."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"reader torchcodec: torchcodec cannot be loaded ({reason}); install it for your torch, or use reader pyav"
        ) from error
    return VideoDecoder


def frames_by_torchcodec(path: str, numbers: Sequence[int], key_frames: KeyFrames) -> list[np.ndarray] | None:
    """Frames of a video in ascending order: uint8 [H, W, 3], RGB, bit-identical to OpenCV's.

    None for a video of which torchcodec reads others: of some codecs and pixel formats, and where the number of frames
    is not that of the index (it takes the best video stream of a file, we the first).
    """
    make = video_decoder()
    times = key_frames.times
    even = len({b - a for a, b in pairwise(times)}) <= 1
    try:
        # "approximate" computes a frame's time from its number; "exact" reads all packets first.
        decoder = make(
            path,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="approximate" if even else "exact",
        )
        about = decoder.metadata
        same = about.pixel_format == SAME_COLOURS and about.codec in EXACT_SEEKS
        if not same or len(decoder) != len(times):
            return None
        return list(decoder.get_frames_at(list(numbers)).data.numpy())
    except (RuntimeError, ValueError, IndexError):
        return None
