"""The key frames of a video and the timestamps of its frames: an index to decode frames by number, without starting
at the first one."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal, get_args

import cv2
import numpy as np

from m3flow.errors import UsageError
from m3flow.videos.frames import colour_frames
from m3flow.videos.torchcodec_frames import frames_by_torchcodec, video_decoder

Reader = Literal["pyav", "torchcodec"]

# Beyond this distance from one chosen frame to the key frame of the next, seeking costs less than decoding.
FRAMES_WORTH_A_SEEK = 8
# FFmpeg's decoders that can skip unreferenced pictures without changing the others.
SKIP_UNREFERENCED = frozenset({"h264", "mpeg4"})
# Pixel formats that FFmpeg converts to RGB and to BGR with the same rounding.
SAME_IN_RGB = frozenset({"yuv420p"})
MOST_RUNS = 10_000
MILLISECONDS = 1000


@dataclass(frozen=True)
class KeyFrames:
    """An index of a video.

    Attributes
    ----------
    times: timestamps of all frames, in units of the stream's time base, ascending.
    keys: the numbers of the key frames, ascending, the first 0.
    """

    times: list[int]
    keys: list[int]

    def stored(self) -> dict[str, Any]:
        """Plain JSON values, compact for evenly spaced frames and key frames; `from_stored` reads them back."""
        return {
            "start": self.times[0],
            "spacings": _runs(b - a for a, b in pairwise(self.times)),
            "keys": _runs(b - a for a, b in pairwise(self.keys)),
        }

    @staticmethod
    def from_stored(index: Any) -> KeyFrames | None:
        """The index in the provenance of a result; None if there is none."""
        try:
            times = accumulate(_gaps(index["spacings"]), initial=int(index["start"]))
            return KeyFrames(list(times), list(accumulate(_gaps(index["keys"]), initial=0)))
        except (KeyError, TypeError, ValueError):
            return None

    def segments(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """(key frame to start at, frames to decode from there) for frames in ascending order."""
        key, members = 0, list[int]()
        for number in numbers:
            before = self.keys[bisect_right(self.keys, number) - 1]
            if members and before - members[-1] <= FRAMES_WORTH_A_SEEK:
                members.append(number)
                continue
            if members:
                yield key, members
            key, members = before, [number]
        if members:
            yield key, members


def _runs(gaps: Iterable[int]) -> list[list[int]]:
    return [[gap, sum(1 for _ in group)] for gap, group in groupby(gaps)]


def _gaps(runs: Any) -> Iterator[int]:
    return (int(gap) for gap, count in runs for _ in range(int(count)))


def index_key_frames(path: str, milliseconds: Sequence[float]) -> dict[str, Any] | None:
    """The index, to be stored, of a video whose frames have been decoded from the start; reads its packets again.

    Parameters
    ----------
    milliseconds: the timestamp of each decoded frame, as reported by OpenCV.

    Returns
    -------
    None unless frame numbers and timestamps certainly correspond: not if a frame does not decode, or packets have
    several frames or no timestamp. Such a video is decoded from its start.
    """
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:  # noqa: PTH100
            stream = container.streams.video[0]
            packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
            unit = float(stream.time_base or 0) * MILLISECONDS
    except (av.FFmpegError, OSError, IndexError):
        return None
    times = sorted(time for time, _ in packets if time is not None)
    if not unit or not len(times) == len(packets) == len(milliseconds):
        return None
    decoded = np.subtract(milliseconds, milliseconds[0]) / unit
    if len(set(times)) < len(times) or np.abs(decoded - np.subtract(times, times[0])).max() > 0.01:
        return None
    key_times = {time for time, is_key in packets if is_key}
    keys = [number for number, time in enumerate(times) if time in key_times]
    if not keys or keys[0] != 0:
        return None
    index = KeyFrames(times, keys).stored()
    return index if len(index["spacings"]) + len(index["keys"]) <= MOST_RUNS else None


def require_reader(name: str) -> None:
    """Raises UsageError for an unknown reader, and for torchcodec where it cannot be loaded."""
    if name not in get_args(Reader):
        raise UsageError(f"unknown reader {name!r}; choose from {', '.join(get_args(Reader))}")
    if name == "torchcodec":
        video_decoder()


def chosen_frames(
    path: str, numbers: Collection[int], key_frames: KeyFrames | None, reader: Reader = "pyav"
) -> list[np.ndarray]:
    """Selected frames of a video in colour, in ascending order: uint8 [H, W, 3], RGB; none beyond the end.

    Identical to those of `m3flow.videos.frames.colour_frames`. With an index, decoding starts at the key frame before
    the first of them; without one, or if the video does not match its index, at the start.

    Parameters
    ----------
    reader: the library that decodes with an index; PyAV takes over videos that torchcodec reads otherwise.

    Raises
    ------
    BadInput: the file is missing or is no video, or an image cannot be read.
    """
    pictures = None
    if key_frames is not None:
        sought = [number for number in sorted(set(numbers)) if number < len(key_frames.times)]
        if reader == "torchcodec":
            pictures = frames_by_torchcodec(path, sought, key_frames)
        if pictures is None:
            pictures = _sought(path, sought, key_frames)
    return list(colour_frames(path, numbers)) if pictures is None else pictures


def _sought(path: str, numbers: list[int], key_frames: KeyFrames) -> list[np.ndarray] | None:
    """The frames, by seeking; None if one is not found."""
    try:
        import av
    except ImportError:
        return None
    pictures: dict[int, np.ndarray] = {}
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:  # noqa: PTH100
            for key, members in key_frames.segments(numbers):
                times = {key_frames.times[number] for number in members}
                container.seek(key_frames.times[key], stream=container.streams.video[0])
                pictures.update(_decoded(container, times))
    except (av.FFmpegError, OSError, IndexError):
        return None
    found = [pictures.get(key_frames.times[number]) for number in numbers]
    return None if any(picture is None for picture in found) else found  # type: ignore[return-value]


def _decoded(container: Any, times: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(time, uint8 [H, W, 3]) of the frames at `times`, decoded from the container's current position."""
    from av.video.reformatter import VideoReformatter

    stream = container.streams.video[0]
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
    convert = VideoReformatter()
    waiting, skips = set(times), context.name in SKIP_UNREFERENCED
    skipping = False
    for packet in container.demux(stream):
        if skips and skipping != (packet.pts not in waiting):
            skipping = not skipping
            context.skip_frame = "NONREF" if skipping else "DEFAULT"
        for frame in packet.decode():
            if frame.pts in times and not frame.is_corrupt:
                yield frame.pts, _picture(convert, frame)
        waiting.discard(packet.pts)
        if not waiting:
            break
    # Frames still buffered by the decoder; after draining it, the container can seek again.
    for frame in context.decode(None):
        if frame.pts in times and not frame.is_corrupt:
            yield frame.pts, _picture(convert, frame)
    context.flush_buffers()
    context.skip_frame = "DEFAULT"


def _picture(convert: Any, frame: Any) -> np.ndarray:
    """A frame in RGB, upright: bit-identical to OpenCV's."""
    from av.video.reformatter import Interpolation

    # OpenCV converts to BGR; for more than 8 bits FFmpeg rounds differently in RGB.
    code = "rgb24" if frame.format.name in SAME_IN_RGB else "bgr24"
    bicubic = Interpolation.BICUBIC
    # More threads cost more than they gain on small frames, and would not be there in a forked worker.
    plane = convert.reformat(frame, format=code, interpolation=bicubic, threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    picture = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
    if code == "bgr24":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return np.rot90(picture, int(frame.rotation) // 90) if frame.rotation else picture
