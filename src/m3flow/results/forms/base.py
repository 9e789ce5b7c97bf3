"""The interface of a form in which flow is stored: a writer and a reader."""

from __future__ import annotations

import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.layout import FLOW_FILES, flow_files
from m3flow.results.quantisation import Scale

if TYPE_CHECKING:
    from m3flow.videos.decoder import Decoder

PIECE_FRAMES = 32
# The errors by which the readers of archives, arrays and images say that a file is damaged.
UNREADABLE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a writer must know of a video: its size in pixels, frames per second, and the step of its flow."""

    width: int
    height: int
    rate: Fraction
    step: int = 1


class FlowWriter(ABC):
    """Writes the flow of a video; its files appear under their names when `close` has succeeded.

    Use as a context manager. Leaving it by an exception, or without `close`, leaves nothing behind.
    """

    def __enter__(self) -> FlowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    @abstractmethod
    def write(self, values: np.ndarray) -> None:
        """Append frames of stored values: [n, 2, H, W], channel 0 = x."""

    @abstractmethod
    def close(self, provenance: dict[str, Any]) -> None:
        """Make the files final, with `provenance` (plain JSON values) in them, in the place of any earlier flow."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what is not final."""


@dataclass(frozen=True)
class Contents:
    """What a stored file holds, as it was found by reading all of it: flow frames, width and height in pixels."""

    frames: int
    width: int
    height: int


class FlowReader(ABC):
    """A reader of the flow of videos."""

    @abstractmethod
    def scale(self, settings: dict[str, Any]) -> Scale:
        """How the values of flow with these settings (`FlowSettings.identity`) are quantised."""

    @abstractmethod
    def frames(self, folder: Path) -> int:
        """How many flow frames are stored; raises BadInput if that cannot be read."""

    @abstractmethod
    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The stored values [up to `PIECE_FRAMES`, 2, H, W] of the frames from `start` on and before `stop`.

        Raises BadInput where a file is missing or damaged.
        """


class Form(FlowReader):
    """A way to store the flow of a video.

    Attributes
    ----------
    name: of the form, a key of `m3flow.layout.FLOW_FILES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def files(self, folder: Path | str) -> tuple[Path, ...]:
        """The files that stand for the flow in a video's folder: it is complete where they are there."""
        return flow_files(folder, self.name)

    @abstractmethod
    def writer(self, folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
        """A writer into a video's folder."""

    @abstractmethod
    def made(self, path: Path) -> dict[str, Any]:
        """What one of `files` says of itself; {} for a file that we did not write.

        Raises BadInput if it cannot be read or is cut off.
        """

    @abstractmethod
    def check(self, path: Path, made: dict[str, Any], decoder: Decoder) -> Contents:
        """Read all of one of `files`; raises BadInput unless it holds what was written."""


def remove_other_forms(folder: Path, kept: str) -> None:
    """Remove the flow that is stored in a video's folder in any other form than `kept`."""
    for name in FLOW_FILES:
        if name != kept:
            for path in flow_files(folder, name):
                path.unlink(missing_ok=True)


def no_such_file(path: Path) -> BadInput:
    return BadInput(f"{path}: no such flow file")
