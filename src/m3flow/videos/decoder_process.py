"""The decoding process: requests on standard input, answers on standard output, frames in shared memory.

Started by `m3flow.videos.decoder.Decoder`. Whatever a damaged file does to a decoder (a crash, an infinite
loop, memory exhaustion) happens here and costs only that video.

A request is a JSON line. The answer is a JSON line (`info`, or `rejected` with the reason), then for each block in the
shared memory (`m3flow.videos.frame_ring`) its number of frames as 4 bytes, then a number of 0 and a JSON line (`end`,
or `rejected`). A request that is rejected at once has no blocks.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.system import exit_with_parent
from m3flow.videos.frame_ring import FrameWriter, block_frames

if TYPE_CHECKING:
    from m3flow.videos.frames import Frames

INDEXED = "indexed"
COUNT = struct.Struct("<i")
END_OF_BLOCKS = COUNT.pack(0)


def main() -> None:
    exit_with_parent()
    # Slurm sends these to every process of a job; the parent decides whether the current video is finished.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Read by OpenCV when it opens a file: one thread, and no FFmpeg messages on standard error.
    os.environ["OPENCV_FFMPEG_THREADS"] = sys.argv[2]
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    # Loaded here, before the limit.
    import m3flow.videos.frames
    import m3flow.videos.key_frames
    import m3flow.videos.resize  # noqa: F401

    indexed = sys.argv[3] == INDEXED
    if indexed:
        with suppress(ImportError):
            import av  # noqa: F401
    cv2.setNumThreads(1)
    # After the libraries are loaded: the limit is for the memory that a file requires.
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with suppress(BrokenPipeError):  # the parent has closed the pipe
        ring = FrameWriter(*map(int, sys.argv[4:6]))
        for line in sys.stdin.buffer:
            answer(json.loads(line), sys.stdout.fileno(), ring, indexed=indexed)
    # Skip Python's shutdown, which would try to flush undelivered data again.
    os._exit(0)


def answer(request: dict[str, Any], out: int, ring: FrameWriter, *, indexed: bool = False) -> None:
    """Decode the video of a request (`path`, `resize`, `picture`, `rate`), with its index; the answers go to `out`."""
    import cv2

    from m3flow.videos.frames import CHANNELS, Frames
    from m3flow.videos.key_frames import index_key_frames
    from m3flow.videos.resize import Resize

    unusable = (BadInput, cv2.error, MemoryError, OSError)
    began = time.perf_counter()
    try:
        resize, picture = Resize(**request["resize"]), request["picture"]
        frames = Frames(request["path"], resize, picture=picture, rate=request["rate"])
    except unusable as error:
        return _send_message(out, {"rejected": _reason(error)})
    _send_message(
        out,
        {
            "info": asdict(frames.info)
            | {key: str(getattr(frames.info, key)) for key in ("rate", "video_rate")}
        },
    )
    seconds = time.perf_counter() - began
    count = 0
    try:
        shape = (frames.info.height, frames.info.width, *CHANNELS[picture])
        for block, cost in _blocks(frames, block_frames(shape)):
            if count == 0:
                ring.begin(shape)
            count += len(block)
            seconds += cost
            ring.put(block)
            _write(out, COUNT.pack(len(block)))
    except BrokenPipeError:
        raise
    except unusable as error:
        ending: dict[str, Any] = {"rejected": f"{_reason(error)} (after {count} frames)"}
    else:
        index = None
        with suppress(MemoryError):  # a video can be used without an index
            index = index_key_frames(request["path"], frames.milliseconds) if indexed else None
        ending = {"end": {"frames": count, "seconds": seconds, "key_frames": index}}
    _write(out, END_OF_BLOCKS)
    return _send_message(out, ending)


def _blocks(frames: Frames, largest: int) -> Iterator[tuple[list[np.ndarray], float]]:
    """(up to `largest` frames uint8 [H, W] or [H, W, 3 or 4], seconds spent decoding them)."""
    iterator = iter(frames)
    # The first block is a single frame, so that the timeout covers one frame and not a whole block.
    size = 1
    while True:
        began = time.perf_counter()
        block = list(islice(iterator, size))
        if not block:
            return
        yield block, time.perf_counter() - began
        size = largest


def _reason(error: Exception) -> str:
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or "Failed to allocate" in str(error):
        return "decoding needs more memory than the limit allows"
    return " ".join(str(error).split())


def _send_message(out: int, message: dict[str, Any]) -> None:
    _write(out, json.dumps(message).encode() + b"\n")


def _write(out: int, data: bytes) -> None:
    # Not through Python's buffered files: they lose the rest of a partial write, which happens when the
    # process is suspended while the pipe is full (Slurm suspending jobs, Ctrl-Z).
    left = memoryview(data)
    while left:
        left = left[os.write(out, left) :]


if __name__ == "__main__":
    main()
