"""Decoding in a separate process, within limits: a damaged file costs only its own video."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.videos.decoder_process import COUNT, INDEXED
from m3flow.videos.frame_ring import FrameReader
from m3flow.videos.frames import CHANNELS, Picture, VideoInfo
from m3flow.videos.limits import Limits
from m3flow.videos.resize import KEPT, Resize

# Signals raised by a crash of the decoder itself; SIGKILL comes from outside (the kernel's out-of-memory killer).
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


def _request(path: str, resize: Resize, picture: str, rate: float) -> bytes:
    wanted = {"path": path, "resize": asdict(resize), "picture": picture, "rate": rate}
    return json.dumps(wanted).encode() + b"\n"


def shortfall(frames: int, claimed: int) -> str:
    """A remark on a video whose header claims clearly more frames than decode, else "".

    Headers are often off by a frame or two; a video that stops in the middle deserves a remark.
    """
    if claimed and frames < claimed - max(2, claimed // 50):
        return f"{frames} of the {claimed} frames that the header claims decode"
    return ""


@dataclass
class Decoded:
    """A video that is being decoded.

    Attributes
    ----------
    info: see `m3flow.videos.frames.VideoInfo`.
    picture: "grey", "colour" or "both", see `m3flow.videos.frames.Frames`.
    blocks: uint8 [n, H, W], [n, H, W, 3] or [n, H, W, 4], in order; raises BadInput if the video exceeds a
        limit or crashes the decoder.
    frames, seconds: the number of frames and the time spent decoding them; complete after the last block.
    key_frames: the stored index of the video (`m3flow.videos.key_frames`), from a decoder with `indexed`; set after
        the last block, None for a video without one.
    """

    info: VideoInfo
    picture: Picture = "grey"
    blocks: Generator[np.ndarray] = field(init=False)
    frames: int = 0
    seconds: float = 0.0
    key_frames: dict[str, Any] | None = None


class Decoder:
    """A decoding process for many videos, restarted when a video crashes or hangs it.

    Parameters
    ----------
    limits: per video. threads: of the process.
    indexed: whether to index each video's key frames, which reads its packets again.
    """

    def __init__(self, limits: Limits | None = None, threads: int = 1, *, indexed: bool = False) -> None:
        self.limits = limits or Limits()
        self._threads, self._indexed = threads, indexed
        self._child: subprocess.Popen[bytes] | None = None
        self._ring: FrameReader | None = None
        self._is_decoding = False
        # Requests sent to the process and not opened yet.
        self._requested: deque[bytes] = deque()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        child, self._child = self._child, None
        self._is_decoding = False
        self._requested.clear()
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout, self._ring):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._ring = None
        child.wait()

    def kill(self) -> None:
        """Kill the process; a thread that is reading from it gets an error."""
        child = self._child
        if child is not None:
            child.kill()

    def start(self) -> None:
        """Start the process now, so that the first video does not wait for it."""
        if self._child is not None and self._child.poll() is None:
            return
        self.close()
        ring = FrameReader()
        try:
            self._child = self._started(ring.inherited)
        except BaseException:
            ring.close()
            raise
        finally:
            ring.started()
        self._ring = ring

    def _started(self, inherited: tuple[int, ...]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                "-P",  # files in the current folder must not shadow modules
                "-m",
                "m3flow.videos.decoder_process",
                str(int(self.limits.memory_gb * 2**30)),
                str(self._threads),
                INDEXED if self._indexed else "",
                *map(str, inherited),
            ],
            pass_fds=inherited,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Numerical libraries start one thread per core when imported, each with its own stack.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            # Ctrl-C is for the parent alone; the process ends when the parent closes it or exits.
            start_new_session=True,
        )

    def expect(self, path: str, resize: Resize = KEPT, *, picture: Picture = "grey", rate: float = 0) -> None:
        """Prefetch a video: the process decodes it after the ones before; `open` it next."""
        self.start()
        with suppress(BrokenPipeError):  # `open` reports it
            self._send_request(_request(path, resize, picture, rate))

    def open(
        self, path: str, resize: Resize = KEPT, *, picture: Picture = "grey", rate: float = 0
    ) -> Decoded:
        """Start decoding a video; see `m3flow.videos.frames.Frames` for the frames and the errors.

        A previous video that was not read to its end is abandoned.
        """
        request = _request(path, resize, picture, rate)
        if self._is_decoding or (self._requested and self._requested[0] != request):
            self.close()
        self.start()
        try:
            if not self._requested:
                self._send_request(request)
            self._requested.popleft()
            answer = self._message()
        except BrokenPipeError:
            self._died(0)
        if "rejected" in answer:
            raise BadInput(answer["rejected"])
        rates = {key: Fraction(answer["info"][key]) for key in ("rate", "video_rate")}
        info = VideoInfo(**{**answer["info"], **rates})
        if info.width * info.height > self.limits.megapixels * 1e6:
            self.close()
            raise BadInput(
                f"frames of {info.width}x{info.height} are larger than limits.megapixels "
                f"({self.limits.megapixels:g}) allows"
            )
        self._is_decoding = True
        decoded = Decoded(info, picture)
        decoded.blocks = self._blocks(decoded)
        return decoded

    def _send_request(self, request: bytes) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(request)
        self._requested.append(request)

    def _blocks(self, decoded: Decoded) -> Generator[np.ndarray]:
        shape = (decoded.info.height, decoded.info.width, *CHANNELS[decoded.picture])
        child, ring = self._child, self._ring
        ended = False
        try:
            while True:
                if self._child is not child:
                    raise RuntimeError("another video was opened before this one was read to its end")
                count = COUNT.unpack(self._read(COUNT.size, decoded.frames))[0]
                if count == 0:
                    break
                assert ring is not None
                if decoded.frames == 0:
                    # As the child does: a video without a frame begins no ring.
                    ring.begin(shape)
                block = ring.take(count)
                decoded.frames += count
                if decoded.frames > self.limits.frames:
                    raise BadInput(f"more than {self.limits.frames} frames, which limits.frames allows")
                yield block
            ending = self._message(decoded.frames)
            ended = True
            self._is_decoding = False
        finally:
            if not ended and self._child is child:
                # Abandoned: the process still has frames of this video to deliver.
                self.close()
        if "rejected" in ending:
            raise BadInput(ending["rejected"])
        decoded.seconds, decoded.key_frames = ending["end"]["seconds"], ending["end"]["key_frames"]

    def _message(self, frames: int = 0) -> dict[str, Any]:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1, frames)
        return json.loads(line)

    def _read(self, size: int, frames: int) -> bytes:
        pipe = self._pipe()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + self.limits.seconds
        data = b""
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                self.close()
                raise BadInput(
                    f"the decoder hangs: no frame for {self.limits.seconds:g} s after {frames} frames"
                )
            read = os.read(pipe, size - len(data))
            if not read:
                self._died(frames)
            data += read
        return data

    def _pipe(self) -> int:
        assert self._child is not None and self._child.stdout is not None
        return self._child.stdout.fileno()

    def _died(self, frames: int) -> None:
        assert self._child is not None
        status = self._child.wait()
        self.close()
        if -status in CRASHES:
            raise BadInput(f"the decoder crashed ({signal.Signals(-status).name}) after {frames} frames")
        raise RuntimeError(f"the decoding process ended (status {status}) after {frames} frames")
