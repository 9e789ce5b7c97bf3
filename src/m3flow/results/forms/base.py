"""The interface of a storage format for flow: a writer and a reader."""

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

from m3flow.atomic import remove
from m3flow.errors import BadInput
from m3flow.layout import FLOW_FILES, flow_files
from m3flow.results.quantisation import Scale

if TYPE_CHECKING:
    from m3flow.videos.decoder import Decoder

PIECE_FRAMES = 32
# Errors raised for damaged files by the readers of archives, arrays and images.
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
    """Properties of a video needed by a writer: size in pixels, frames per second, and step of its flow."""

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
        """Finish the files, with `provenance` (plain JSON values) in them, replacing any earlier flow."""

    @abstractmethod
    def discard(self) -> None:
        """Remove unfinished files."""


@dataclass(frozen=True)
class Contents:
    """The content of a stored file, determined by reading it completely: flow frames, width and height in pixels."""

    frames: int
    width: int
    height: int


class FlowReader(ABC):
    """A reader of the flow of videos."""

    @abstractmethod
    def scale(self, settings: dict[str, Any]) -> Scale:
        """The quantisation of flow with these settings (`FlowSettings.identity`)."""

    @abstractmethod
    def frames(self, folder: Path) -> int:
        """The number of stored flow frames; raises BadInput if it cannot be read."""

    @abstractmethod
    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The stored values [up to `PIECE_FRAMES`, 2, H, W] of the frames from `start` up to, not including, `stop`.

        Raises BadInput if a file is missing or damaged.
        """


class Form(FlowReader):
    """A storage format for the flow of a video.

    Attributes
    ----------
    name: of the form, a key of `m3flow.layout.FLOW_FILES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def files(self, folder: Path | str) -> tuple[Path, ...]:
        """The files whose existence in a video's folder means that its flow is complete."""
        return flow_files(folder, self.name)

    @abstractmethod
    def writer(self, folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
        """A writer into a video's folder."""

    @abstractmethod
    def made(self, path: Path) -> dict[str, Any]:
        """The provenance of one of `files`; {} for a file that we did not write.

        Raises BadInput if it cannot be read or is truncated.
        """

    @abstractmethod
    def check(self, path: Path, made: dict[str, Any], decoder: Decoder) -> Contents:
        """Read one of `files` completely; raises BadInput if its content differs from that written."""


def remove_other_forms(folder: Path, kept: str) -> None:
    """Remove the flow that is stored in a video's folder in any other form than `kept`."""
    for name, files in FLOW_FILES.items():
        if name != kept:
            for path in flow_files(folder, name):
                path.unlink(missing_ok=True)
                # Of a folder of images, the rest after what stands for it.
                remove(folder / Path(files[0]).parts[0])


def no_such_file(path: Path) -> BadInput:
    return BadInput(f"{path}: no such flow file")
