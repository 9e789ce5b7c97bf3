"""Coded pictures of a video: their types, decoding order, and motion vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3flow.errors import BadInput

WITH_VECTORS = (
    *("h264", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
    *("mpeg1video", "mpeg2video", "h263", "flv"),
)
"""The decoders of FFmpeg that export motion vectors."""

B_VECTORS_ARE_ZERO = ("mpeg4",)
"""Decoders that export 0 for every vector of a B-picture (FFmpeg 8: all of 36,000 on real clips)."""


class Picture(NamedTuple):
    """A decoded picture: its type, FFmpeg's vectors as exported, and its place in the stream."""

    kind: str
    exported: np.ndarray | None
    decoded_as: int
    is_reference: bool


class Coded(NamedTuple):
    """A decoded stream: pictures in display order, their coded size, the rotation that makes them upright."""

    pictures: list[Picture]
    height: int
    width: int
    clockwise: int


def read_pictures(path: Path, on_picture: Callable[[], None] = lambda: None) -> Coded:
    """All pictures of a file's first video stream; `on_picture` is called for each, as a heartbeat.

    Raises
    ------
    BadInput: the file cannot be decoded, has no video or no frame, or its codec has no motion vectors.
    """
    import av

    if path.is_dir():
        raise BadInput("a folder of images has no motion vectors; use job trajs_dense")
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            if not container.streams.video:
                raise BadInput(f"no video in {str(path)!r}")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise BadInput(f"the codec of {str(path)!r} is not known")
            if context.name not in WITH_VECTORS:
                raise BadInput(
                    f"codec {context.name} gives no motion vectors (H.264, MPEG-4 part 2 and older ones do); "
                    "use job trajs_dense"
                )
            context.options = {"flags2": "+export_mvs"}
            context.thread_count = 1
            return _pictures(path, container, stream, on_picture)
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{str(path)!r} cannot be decoded ({error})") from error


def _pictures(path: Path, container: Any, stream: Any, on_picture: Callable[[], None]) -> Coded:
    context = stream.codec_context
    frames: list[tuple[str, np.ndarray | None, int | None]] = []
    size = (0, 0)
    rotation = 0
    packets: dict[int, tuple[int, bool]] = {}
    has_timestamps = True
    for number, packet in enumerate(container.demux(stream)):
        if packet.size:
            has_timestamps &= packet.pts is not None and packet.pts not in packets
            reference = context.name != "h264" or h264_is_reference(bytes(packet), context.extradata)
            packets[packet.pts] = (number, reference)
        for frame in packet.decode():
            on_picture()
            side = frame.side_data.get("MOTION_VECTORS")
            kind = _letter(frame.pict_type)
            if side is None or (kind == "B" and context.name in B_VECTORS_ARE_ZERO):
                exported = None
            else:
                exported = side.to_ndarray().copy()  # the array lies in the frame's own memory
            frames.append((kind, exported, frame.pts))
            size, rotation = (frame.height, frame.width), -int(frame.rotation) % 360
    if not frames:
        raise BadInput(f"no frame of {str(path)!r} decodes")
    order_is_known = context.name == "h264" and has_timestamps and all(pts in packets for *_, pts in frames)
    if order_is_known:
        pictures = [Picture(kind, mvs, *packets[pts]) for kind, mvs, pts in frames]  # type: ignore[index]
    else:
        # If B-pictures are never references, the order follows: each is decoded after the next non-B-picture.
        kinds = [kind for kind, *_ in frames]
        pictures = [
            Picture(kind, mvs, order, kind != "B")
            for (kind, mvs, _), order in zip(frames, decoding_order(kinds), strict=True)
        ]
    return Coded(pictures, *size, rotation)


def decoding_order(kinds: Sequence[str]) -> list[int]:
    """The decoding order of pictures given in display order, if B-pictures are never references."""
    order = [0] * len(kinds)
    number = 0
    waiting: list[int] = []
    for t, kind in enumerate(kinds):
        if kind == "B":
            waiting.append(t)
            continue
        for index in (t, *waiting):
            order[index] = number
            number += 1
        waiting = []
    for index in waiting:
        order[index] = number
        number += 1
    return order


def h264_is_reference(packet: bytes, extradata: bytes | None) -> bool:
    """Whether other pictures may be predicted from this H.264 picture: `nal_ref_idc` of its first slice.

    (ITU-T H.264, 7.3.1 and 7.4.1.) NAL units are preceded by their length in mp4 and mkv, by start codes
    (annex B) in other containers.
    """
    if extradata and extradata[0] == 1:
        length_size = (extradata[4] & 3) + 1
        position = 0
        while position + length_size < len(packet):
            length = int.from_bytes(packet[position : position + length_size], "big")
            header = packet[position + length_size]
            if header & 31 in (1, 2, 5):
                return bool(header >> 5 & 3)
            position += length_size + length
        return True
    position = packet.find(b"\0\0\1")
    while 0 <= position < len(packet) - 3:
        header = packet[position + 3]
        if header & 31 in (1, 2, 5):
            return bool(header >> 5 & 3)
        position = packet.find(b"\0\0\1", position + 3)
    return True


def _letter(picture_type: int) -> str:
    """FFmpeg's AVPictureType as one letter."""
    return {1: "I", 2: "P", 3: "B", 4: "S", 5: "I", 6: "P", 7: "B"}.get(int(picture_type), "I")


def reference_distances(
    kinds: Sequence[str], decoded_as: Sequence[int], is_reference: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Distance of each picture to its nearest reference pictures.

    All three arguments are in display order: the picture's type, its number in decoding order, and whether
    others may be predicted from it. A picture is predicted from reference pictures decoded before it.

    Returns two lists, in frames: the distance to the nearest earlier and to the nearest later reference
    picture; 0 where there is none (always for I-pictures).
    """
    count = len(kinds)

    def distance(t: int, direction: int) -> int:
        if kinds[t] == "I" or (direction > 0 and kinds[t] != "B"):
            return 0
        other = t + direction
        while 0 <= other < count:
            if is_reference[other] and decoded_as[other] < decoded_as[t]:
                return abs(other - t)
            other += direction
        return 0

    return [distance(t, -1) for t in range(count)], [distance(t, 1) for t in range(count)]
