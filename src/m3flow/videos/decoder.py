"""Decoding in a process of its own, within limits: a damaged file costs that one video and nothing else."""

from __future__ import annotations

import fcntl
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
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.validation import number, problems_of, refuse
from m3flow.videos.decoder_process import COUNT
from m3flow.videos.frames import VideoInfo

PIPE_BYTES = 2**20
# Signals that a decoder dies of by its own fault; SIGKILL comes from outside (the kernel short of memory).
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one video may cost to decode; more, and it is rejected.

    Attributes
    ----------
    seconds: without a frame.
    frames: in one video.
    megapixels: in one frame.
    memory_gb: of the decoding process, in GiB of address space.
    """

    seconds: float = number(60.0, above=0)
    frames: int = number(2_000_000, least=1)
    megapixels: float = number(40.0, above=0)
    memory_gb: float = number(8.0, above=0)

    def __post_init__(self) -> None:
        refuse(problems_of(self))


def _request(path: str, short_side: int) -> bytes:
    return json.dumps({"path": path, "short_side": short_side}).encode() + b"\n"


def shortfall(frames: int, claimed: int) -> str:
    """What to say of a video whose header claims clearly more frames than decode, else "".

    Headers are often off by a frame or two; a video that stops in the middle is worth a word.
    """
    if claimed and frames < claimed - max(2, claimed // 50):
        return f"{frames} of the {claimed} frames that the header claims decode"
    return ""


@dataclass
class Decoded:
    """A video whose frames are on their way: what it is, its blocks, and, after them, how it ended.

    Attributes
    ----------
    info: see `m3flow.videos.frames.VideoInfo`.
    blocks: uint8 [n, H, W], in order; raises BadInput where the video breaks a limit or kills its decoder.
    frames, seconds: how many frames there were, and the time that decoding them took; set after the blocks.
    """

    info: VideoInfo
    blocks: Generator[np.ndarray] = field(init=False)
    frames: int = 0
    seconds: float = 0.0


class Decoder:
    """A decoding process that stays for many videos; it is replaced when one of them ruins it."""

    def __init__(self, limits: Limits | None = None, threads: int = 1) -> None:
        self.limits = limits or Limits()
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._in_hand = False
        # What the process was told to decode and we have not opened yet.
        self._expected: deque[bytes] = deque()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        child, self._child = self._child, None
        self._in_hand = False
        self._expected.clear()
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        child.wait()

    def start(self) -> None:
        """Start the process now, so that the first video need not wait for it."""
        if self._child is not None and self._child.poll() is None:
            return
        self.close()
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-P",  # a file of the current folder called like a module is none
                "-m",
                "m3flow.videos.decoder_process",
                str(int(self.limits.memory_gb * 2**30)),
                str(self._threads),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Numerical libraries start a thread a core when imported, each with its own stack.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            # An interrupt of the terminal goes to us; the process ends when we close it or end.
            start_new_session=True,
        )
        with suppress(OSError):
            # A larger pipe lets the decoder run ahead; where the system refuses, the usual size works too.
            fcntl.fcntl(self._pipe(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def expect(self, path: str, short_side: int = 0) -> None:
        """Have the process go on with this video as soon as it is done with those before; `open` it then."""
        self.start()
        with suppress(BrokenPipeError):  # `open` will find out
            self._ask_for(path, short_side)

    def open(self, path: str, short_side: int = 0) -> Decoded:
        """Begin to decode a video; see `m3flow.videos.frames.Frames` for what is delivered and what is rejected.

        It ends the video before, if that was left in the middle.
        """
        if self._in_hand or (self._expected and self._expected[0] != _request(path, short_side)):
            self.close()
        self.start()
        try:
            if not self._expected:
                self._ask_for(path, short_side)
            self._expected.popleft()
            answer = self._message()
        except BrokenPipeError:
            self._died(0)
        if "rejected" in answer:
            raise BadInput(answer["rejected"])
        info = VideoInfo(**{**answer["info"], "rate": Fraction(answer["info"]["rate"])})
        if info.width * info.height > self.limits.megapixels * 1e6:
            self.close()
            raise BadInput(
                f"frames of {info.width}x{info.height} are larger than limits.megapixels "
                f"({self.limits.megapixels:g}) allows"
            )
        self._in_hand = True
        decoded = Decoded(info)
        decoded.blocks = self._blocks(decoded)
        return decoded

    def _ask_for(self, path: str, short_side: int) -> None:
        assert self._child is not None and self._child.stdin is not None
        request = _request(path, short_side)
        self._child.stdin.write(request)
        self._expected.append(request)

    def _blocks(self, decoded: Decoded) -> Generator[np.ndarray]:
        shape = (decoded.info.height, decoded.info.width)
        child = self._child
        ended = False
        try:
            while True:
                if self._child is not child:
                    raise RuntimeError("another video was opened before this one was read to its end")
                count = COUNT.unpack(self._read(COUNT.size, decoded.frames))[0]
                if count == 0:
                    break
                block = np.empty((count, *shape), np.uint8)
                self._read_into(block.data.cast("B"), decoded.frames)
                decoded.frames += count
                if decoded.frames > self.limits.frames:
                    raise BadInput(f"more than {self.limits.frames} frames, which limits.frames allows")
                yield block
            ending = self._message(decoded.frames)
            ended = True
            self._in_hand = False
        finally:
            if not ended and self._child is child:
                # Left in the middle: the process still has frames of this video to deliver.
                self.close()
        if "rejected" in ending:
            raise BadInput(ending["rejected"])
        decoded.seconds = ending["end"]["seconds"]

    def _message(self, frames: int = 0) -> dict[str, Any]:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1, frames)
        return json.loads(line)

    def _read(self, size: int, frames: int) -> bytes:
        data = bytearray(size)
        self._read_into(memoryview(data), frames)
        return bytes(data)

    def _read_into(self, target: memoryview, frames: int) -> None:
        pipe = self._pipe()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + self.limits.seconds
        filled = 0
        while filled < len(target):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                self.close()
                raise BadInput(
                    f"the decoder hangs: no frame for {self.limits.seconds:g} s after {frames} frames"
                )
            count = os.readv(pipe, [target[filled:]])
            if count == 0:
                self._died(frames)
            filled += count

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
