"""Random access to the windows of a trajectory file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from m3flow.errors import BadInput
from m3flow.results.gzip_blocks import decompress_member, read_directory
from m3flow.results.trajectoryfile import Trajectories, made_in, parse_trajectories


class StoredTrajectories:
    """A trajectory file whose windows are read on demand.

    A file not written in blocks (by an earlier version or another program) is read completely.

    Parameters
    ----------
    path: the file, or the pack that contains it at `offset`, `size` bytes long (None: up to the end).

    Attributes
    ----------
    path: the file, or the pack that contains it.
    length: L. windows: N. grid: rows and columns of points.
    made: the provenance of the file; {} if it has none.

    Raises
    ------
    BadInput: the file is missing or damaged, or does not contain trajectories.
    """

    def __init__(self, path: Path | str, offset: int = 0, size: int | None = None) -> None:
        self.path, self._offset, self._size = Path(path), offset, size
        self._whole: Trajectories | None = None
        try:
            with self.path.open("rb") as file:
                part = self._part(file)
                directory = read_directory(part)
                if directory is not None:
                    self._open(part, directory)
                    return
                part.seek(0)
                data = part.read()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
        except (KeyError, TypeError, ValueError, IndexError, struct.error, zlib.error, EOFError) as error:
            raise BadInput(f"{path}: damaged ({error})") from error
        self._whole = whole = parse_trajectories(data, self.path)
        self.length, self.made = whole.length, whole.made
        self.windows, *grid = whole.traj_type.shape
        self.grid = (grid[0], grid[1])

    def _part(self, file: BinaryIO) -> BinaryIO:
        return file if self._size is None else cast(BinaryIO, _Part(file, self._offset, self._size))

    def _open(self, file: IO[bytes], directory: dict[str, Any]) -> None:
        self.length, self.windows = int(directory["length"]), int(directory["windows"])
        self.grid = (int(directory["grid"][0]), int(directory["grid"][1]))
        self._block = int(directory["block"])
        self._arrays = [
            (str(name), np.dtype(kind), int(planes)) for name, kind, planes in directory["arrays"]
        ]
        lengths = np.array(directory["members"], np.int64)
        self._starts = np.concatenate(([0], lengths.cumsum()))
        file.seek(0)
        self.made = made_in(io.BytesIO(decompress_member(file.read(int(lengths[0])))))

    def read(self, numbers: Sequence[int]) -> Trajectories:
        """Only these windows, in this order.

        Raises BadInput if the file is damaged.
        """
        if self._whole is not None:
            return self._whole.chosen(numbers)
        try:
            with self.path.open("rb") as file:
                arrays = self._read(self._part(file), np.asarray(numbers, np.int64))
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise BadInput(f"{self.path}: damaged ({error})") from error
        except Exception as error:
            raise BadInput(f"{self.path}: damaged ({type(error).__name__}: {error})") from error
        return Trajectories(
            arrays["traj_feat"],
            arrays["traj_type"][0],
            self.length,
            self.made,
            arrays.get("traj_conf"),
            arrays.get("traj_fine"),
        )

    def _read(self, file: IO[bytes], numbers: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {}
        blocks = -(-self.windows // self._block)
        # Of each block that is read: its number, the places of its windows in the result, and in the block.
        of_block, in_block = np.divmod(numbers, self._block)
        chosen = [
            (int(block), places := np.flatnonzero(of_block == block), in_block[places])
            for block in np.unique(of_block)
        ]
        member = 1
        for name, kind, planes in self._arrays:
            part = np.empty((planes, len(numbers), *self.grid), kind)
            for plane in range(planes):
                first = member + plane * blocks
                contents = self._blocks(file, [first + block for block, *_ in chosen])
                for content, (_, places, windows) in zip(contents, chosen, strict=True):
                    part[plane, places] = np.frombuffer(content, kind).reshape(-1, *self.grid)[windows]
            arrays[name] = part
            member += planes * blocks + 1
        return arrays

    def _blocks(self, file: IO[bytes], members: list[int]) -> list[bytes]:
        """The content of members of the file, in ascending order, read at once."""
        begin, end = int(self._starts[members[0]]), int(self._starts[members[-1] + 1])
        file.seek(begin)
        data = memoryview(file.read(end - begin))
        return [
            decompress_member(data[int(self._starts[member]) - begin : int(self._starts[member + 1]) - begin])
            for member in members
        ]


class _Part:
    """A part of a file, read as a file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._position = position + (self._size if whence == io.SEEK_END else 0)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._position
        self._file.seek(self._offset + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data
