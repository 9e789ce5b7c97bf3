"""Trajectory file: a gzip of a pickle that any NumPy reads, written in pieces and read without executing code."""

from __future__ import annotations

import gzip
import json
import pickle
import pickletools
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from m3flow.atomic import complete_or_absent
from m3flow.errors import BadInput
from m3flow.results import safe_pickle
from m3flow.results.gzip_blocks import BlockedGzip, check, decompress
from m3flow.trajectories.grid import GRID, OFFSET
from m3flow.trajectories.tracking import FINE

COMPRESSION_LEVEL = 1
# Windows per block; a long video has fewer and larger blocks, so that their index fits into the header.
BLOCK_WINDOWS, MOST_BLOCKS = 16, 6000
SPOOL_BYTES = 8 * 2**20
COPY_BYTES = 2**20


@dataclass
class Trajectories:
    """The trajectories of one video.

    Attributes
    ----------
    traj_feat: int8 [2L, N, H//8, W//8], L displacements in x, then L in y, in pixels.
    traj_type: uint8 [N, H//8, W//8], 1 where the points P_0 … P_{L−1} all lie inside the frame.
    length: L.
    made: provenance of the file (settings, source, versions); {} for a file without.
    traj_conf: uint8 [L, N, H//8, W//8], the confidence of P_1 … P_L (`RELIABLE` and more: reliable); None if the
        file has none.
    traj_fine: int16 [2L, N, H//8, W//8], the displacements in 1/16 px; None if the file has none.
    """

    traj_feat: np.ndarray
    traj_type: np.ndarray
    length: int
    made: dict[str, Any] = field(default_factory=dict)
    traj_conf: np.ndarray | None = None
    traj_fine: np.ndarray | None = None

    def window(self, number: int) -> Trajectories:
        """The trajectories of one window."""
        return self.chosen([number])

    def chosen(self, numbers: Sequence[int]) -> Trajectories:
        """The trajectories of only these windows, in this order."""
        chosen = list(numbers)
        return Trajectories(
            self.traj_feat[:, chosen],
            self.traj_type[chosen],
            self.length,
            self.made,
            None if self.traj_conf is None else self.traj_conf[:, chosen],
            None if self.traj_fine is None else self.traj_fine[:, chosen],
        )

    def positions(self) -> np.ndarray:
        """The points P_0 … P_L of every trajectory: float32 [L+1, N, H//8, W//8, 2] in pixels, (x, y).

        From the fine displacements if the file has them, else from the whole pixels.
        A point that leaves the frame continues from the nearest position inside, as in tracking. The frame size
        comes from the file's provenance, or else from the size of the grid.
        If the points followed the pixels of the video (`track: pixels`), the stored displacements are their
        motion without the camera's, and the result is the path of that motion alone.
        """
        fine = self.traj_fine
        displacements = (self.traj_feat if fine is None else fine / np.float32(FINE)).astype(np.float32)
        _, windows, rows, columns = displacements.shape
        source = self.made.get("source", {})
        limits = (
            source.get("width", columns * GRID) - 1,
            source.get("height", rows * GRID) - 1,
        )
        points = np.empty((self.length + 1, windows, rows, columns, 2), np.float32)
        points[0, ..., 0] = OFFSET + GRID * np.arange(columns)
        points[0, ..., 1] = (OFFSET + GRID * np.arange(rows))[:, None]
        for step in range(self.length):
            for axis in (0, 1):
                start = np.clip(points[step, ..., axis], 0, limits[axis])
                points[step + 1, ..., axis] = start + displacements[axis * self.length + step]
        return points

    def __repr__(self) -> str:
        return (
            f"Trajectories(length={self.length}, windows={self.traj_type.shape[0]}, "
            f"grid={self.traj_type.shape[1]}x{self.traj_type.shape[2]})"
        )


class TrajectoryWriter:
    """Collects windows piece by piece and writes them as one file; long videos are spooled to disk.

    Use as a context manager. Leaving it without `close` leaves no file.
    """

    def __init__(
        self,
        path: Path,
        *,
        length: int,
        rows: int,
        columns: int,
        confidence: bool = False,
        fine: bool = False,
    ) -> None:
        self.path, self.length, self._grid = path, length, (rows, columns)
        self._arrays = [_Stored("traj_feat", "int8", 2 * length), _Stored("traj_type", "uint8", None)]
        if confidence:
            self._arrays.append(_Stored("traj_conf", "uint8", length))
        if fine:
            self._arrays.append(_Stored("traj_fine", "<i2", 2 * length))
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 (closed in __exit__)
        self._pieces: list[int] = []

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    @property
    def windows(self) -> int:
        return sum(self._pieces)

    def write(
        self,
        traj_feat: np.ndarray,
        traj_type: np.ndarray,
        traj_conf: np.ndarray | None = None,
        traj_fine: np.ndarray | None = None,
    ) -> None:
        """Append windows: int8 [2L, n, rows, columns], uint8 [n, rows, columns], and, if the file has them,
        uint8 [L, n, rows, columns] and int16 [2L, n, rows, columns]."""
        if len(traj_type) == 0:
            return
        self._pieces.append(len(traj_type))
        given = {
            "traj_feat": traj_feat,
            "traj_type": traj_type,
            "traj_conf": traj_conf,
            "traj_fine": traj_fine,
        }
        for stored in self._arrays:
            self._spool.write(np.ascontiguousarray(given[stored.name], stored.dtype).data)

    def close(self, made: dict[str, Any]) -> None:
        """Write the file, with the provenance `made` (JSON values) inside."""
        block = max(BLOCK_WINDOWS, -(-self.windows * sum(map(_Stored.planes, self._arrays)) // MOST_BLOCKS))
        with complete_or_absent(self.path) as (temporary,), temporary.open("wb") as raw:
            file = BlockedGzip(raw, COMPRESSION_LEVEL)
            pickle_file = _DictPickle(file)
            pickle_file.plain("made", json.dumps(made, separators=(",", ":")))
            pickle_file.plain("length", self.length)
            for stored in self._arrays:
                windows = (self.windows, *self._grid)
                shape = windows if stored.channels is None else (stored.channels, *windows)
                pickle_file.array(stored.name, stored.dtype, shape)
                for channel in range(stored.planes()):
                    file.cut(block * self._grid[0] * self._grid[1] * stored.itemsize)
                    self._copy(stored, channel, file)
                file.cut()
                pickle_file.end_array()
            pickle_file.end()
            file.close(
                {
                    "length": self.length,
                    "windows": self.windows,
                    "grid": self._grid,
                    "block": block,
                    "arrays": [[stored.name, stored.dtype, stored.planes()] for stored in self._arrays],
                }
            )

    def _copy(self, stored: _Stored, channel: int, target: Any) -> None:
        """Copy the bytes of one channel of an array from all pieces, in order."""
        plane = self._grid[0] * self._grid[1]
        sizes = [other.bytes_per_point for other in self._arrays]
        before = sum(sizes[: self._arrays.index(stored)])
        offset = 0
        for windows in self._pieces:
            left = windows * plane * stored.itemsize
            self._spool.seek(offset + before * windows * plane + channel * left)
            while left:
                piece = self._spool.read(min(left, COPY_BYTES))
                left -= len(piece)
                target.write(piece)
            offset += sum(sizes) * windows * plane


@dataclass(frozen=True)
class _Stored:
    """An array of the file: [channels, N, rows, columns], or [N, rows, columns] without channels."""

    name: str
    dtype: str
    channels: int | None

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    def planes(self) -> int:
        """The number of planes [rows, columns] per window."""
        return self.channels or 1

    @property
    def bytes_per_point(self) -> int:
        return self.itemsize * self.planes()


class _DictPickle:
    """Writes the pickle of a dict of plain values and arrays, without holding the arrays in memory.

    An array is stored as the call `numpy.ndarray(shape, dtype, buffer)`: these names are the same in every
    NumPy, while NumPy's own pickles refer to a module of NumPy 2 that older versions cannot import.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        file.write(pickle.PROTO + bytes([5]) + pickle.EMPTY_DICT)

    def plain(self, key: str, value: Any) -> None:
        self._file.write(_body(key) + _body(value) + pickle.SETITEM)

    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Begin an array; write its bytes in C order next, then call `end_array`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._file.write(
            _body(key)
            + pickle.GLOBAL
            + b"numpy\nndarray\n"
            + pickle.MARK
            + _body(shape)
            + _body(dtype)
            + pickle.BYTEARRAY8
            + struct.pack("<Q", size)
        )

    def end_array(self) -> None:
        self._file.write(pickle.TUPLE + pickle.REDUCE + pickle.SETITEM)

    def end(self) -> None:
        self._file.write(pickle.STOP)


def _body(value: Any) -> bytes:
    """The opcodes that push a plain value on the stack: its pickle without protocol and stop."""
    return pickle.dumps(value, protocol=3)[2:-1]


def load_trajectories(path: Path | str) -> Trajectories:
    """Read a trajectory file, ours or the original extractor's, without executing code from it.

    Raises
    ------
    BadInput: the file is missing, damaged, tries to execute code, or has no trajectories.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_trajectories(data, path)


def parse_trajectories(data: bytes, path: Path) -> Trajectories:
    """The trajectories in the bytes of a file; `path` appears in errors, which are those of `load_trajectories`."""
    try:
        check(data)
        content = safe_pickle.load(decompress(data))
    except (pickle.UnpicklingError, zlib.error, EOFError) as error:
        raise BadInput(f"{path}: not a trajectory file ({error})") from error
    except Exception as error:
        # A damaged pickle can make the unpickler raise nearly any exception.
        raise BadInput(f"{path}: not a trajectory file ({type(error).__name__}: {error})") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Trajectories:
    if not isinstance(content, dict) or not {"traj_feat", "traj_type"} <= content.keys():
        raise BadInput(f"{path}: not a trajectory file (no traj_feat and traj_type in it)")
    feat, kind = content["traj_feat"], content["traj_type"]
    conf, fine = content.get("traj_conf"), content.get("traj_fine")
    for name, array, dimensions in (("traj_feat", feat, 4), ("traj_type", kind, 3)):
        if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.dtype.kind not in "iufb":
            raise BadInput(f"{path}: {name} is not an array of numbers with {dimensions} dimensions")
    if feat.shape[0] % 2 or feat.shape[0] == 0 or feat.shape[1:] != kind.shape:
        raise BadInput(f"{path}: traj_feat {feat.shape} and traj_type {kind.shape} do not fit")
    length = feat.shape[0] // 2
    for name, array, shape in (
        ("traj_conf", conf, (length, *kind.shape)),
        ("traj_fine", fine, feat.shape),
    ):
        if array is not None and (
            not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.shape != shape
        ):
            raise BadInput(f"{path}: {name} is not an array of integers {list(shape)}")
    return Trajectories(feat, kind, length, _parse(content.get("made", "")), conf, fine)


def read_made(path: Path | str) -> dict[str, Any]:
    """The provenance of a trajectory file, from its first bytes; {} for a file without.

    Raises BadInput if the file is missing or not a gzip file.
    """
    try:
        with gzip.open(path) as file:
            return made_in(file)
    except (OSError, zlib.error, EOFError) as error:
        raise BadInput(f"{path}: not a trajectory file ({error})") from error


def made_in(file: Any) -> dict[str, Any]:
    """The provenance of a trajectory file, from the beginning of its pickle; {} if it has none."""
    strings = _leading_strings(file)
    return _parse(next(strings, "")) if next(strings, None) == "made" else {}


def _leading_strings(file: Any) -> Iterator[str]:
    try:
        for _, argument, _ in pickletools.genops(file):
            if isinstance(argument, str):
                yield argument
    except ValueError:
        return


def _parse(text: Any) -> dict[str, Any]:
    try:
        made = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}
