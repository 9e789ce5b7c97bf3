"""Flow as one array per video: flow.npz (NumPy) and flow.h5 (HDF5).

Both contain `flow`, [T, 2, H, W], channel 0 = x: float16 pixels, or uint8 levels (`m3flow.results.quantisation`) with
their `bound`; and `made`, the provenance as JSON text.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from m3flow.atomic import complete_or_absent
from m3flow.errors import BadInput, UsageError
from m3flow.results.forms.base import (
    PIECE_FRAMES,
    UNREADABLE,
    Contents,
    FlowWriter,
    Form,
    Stream,
    no_such_file,
    remove_other_forms,
)
from m3flow.results.quantisation import Scale

if TYPE_CHECKING:
    from m3flow.videos.decoder import Decoder

# Values are buffered here until their number is known; a long video spills to disk.
SPOOL_BYTES = 64 * 2**20
COMPRESSION = 1
DTYPES: dict[str, Scale] = {"float16": "float16", "uint8": "linear"}


class ArrayForm(Form):
    """A form with one array in one file."""

    def scale(self, settings: dict[str, Any]) -> Scale:
        return DTYPES[settings.get("values", "float16")]

    def writer(self, folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
        return _ArrayWriter(self, folder, np.dtype(settings.get("values", "float16")), stream)

    def made(self, path: Path) -> dict[str, Any]:
        with self.opened(path) as file:
            return _parsed(file.made)

    def frames(self, folder: Path) -> int:
        (path,) = self.files(folder)
        with self.opened(path) as file:
            return file.shape[0]

    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        (path,) = self.files(folder)
        with self.opened(path) as file:
            end = file.shape[0] if stop is None else min(stop, file.shape[0])
            yield from file.pieces(start, end)

    def check(self, path: Path, made: dict[str, Any], decoder: Decoder) -> Contents:
        del decoder
        digest = hashlib.sha256()
        with self.opened(path) as file:
            frames, _, height, width = file.shape
            for piece in file.pieces(0, frames):
                digest.update(np.ascontiguousarray(piece).tobytes())
        if "content" in made and made["content"] != _shown(digest):
            raise BadInput(f"{path}: damaged (its content is not what was written)")
        return Contents(frames, width, height)

    @abstractmethod
    def save(
        self, path: Path, values: Iterator[np.ndarray], shape: tuple[int, ...], about: dict[str, Any]
    ) -> None:
        """Write the file: `values` [n, 2, H, W] form an array of this shape; `about` has the other entries."""

    @contextmanager
    def opened(self, path: Path) -> Iterator[OpenArray]:
        """Open the file for reading; errors of the file inside the block become BadInput."""
        if not path.is_file():
            raise no_such_file(path)
        try:
            with self._open(path) as file:
                if len(file.shape) != 4 or file.shape[1] != 2:
                    raise BadInput(f"{path}: has flow of shape {list(file.shape)}, expected [T, 2, H, W]")
                yield file
        except UNREADABLE as error:
            raise BadInput(f"{path}: not a readable flow file ({error})") from error

    @abstractmethod
    def _open(self, path: Path) -> Any:
        """A context manager of the file's `OpenArray`."""


class OpenArray(ABC):
    """An array file opened for reading.

    Attributes
    ----------
    shape: of the flow. made: the JSON text.
    """

    shape: tuple[int, ...]
    made: str

    @abstractmethod
    def pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The frames from `start` up to, not including, `stop`, at most `PIECE_FRAMES` at a time."""


class _ArrayWriter(FlowWriter):
    def __init__(self, form: ArrayForm, folder: Path, dtype: np.dtype[Any], stream: Stream) -> None:
        self._form, self._folder, self._dtype, self._stream = form, folder, dtype, stream
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 (closed in discard)
        self._digest = hashlib.sha256()
        self._frames = 0

    def write(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, self._dtype).tobytes()
        self._spool.write(data)
        self._digest.update(data)
        self._frames += len(values)

    def close(self, provenance: dict[str, Any]) -> None:
        (path,) = self._form.files(self._folder)
        about: dict[str, Any] = {"made": json.dumps({**provenance, "content": _shown(self._digest)})}
        if self._dtype == np.uint8:
            about["bound"] = provenance.get("settings", {}).get("bound")
        shape = (self._frames, 2, self._stream.height, self._stream.width)
        with complete_or_absent(path) as (temporary,):
            self._form.save(temporary, self._values(), shape, about)
            remove_other_forms(self._folder, self._form.name)

    def _values(self) -> Iterator[np.ndarray]:
        frame = (2, self._stream.height, self._stream.width)
        self._spool.seek(0)
        while data := self._spool.read(PIECE_FRAMES * int(np.prod(frame)) * self._dtype.itemsize):
            yield np.frombuffer(data, self._dtype).reshape(-1, *frame)

    def discard(self) -> None:
        self._spool.close()


class Npz(ArrayForm):
    """flow.npz, readable with `numpy.load`; deflated."""

    def save(
        self, path: Path, values: Iterator[np.ndarray], shape: tuple[int, ...], about: dict[str, Any]
    ) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
            for key, value in about.items():
                with archive.open(_member(key), "w") as member:
                    npy.write_array(member, np.asarray(value), allow_pickle=False)
            with archive.open(_member("flow"), "w", force_zip64=True) as member:
                header = None
                for piece in values:
                    header = header or _write_header(member, piece.dtype, shape)
                    member.write(piece.tobytes())

    @contextmanager
    def _open(self, path: Path) -> Iterator[OpenArray]:
        with zipfile.ZipFile(path) as archive, archive.open("flow.npy") as flow:
            with archive.open("made.npy") as member:
                made = str(npy.read_array(member, allow_pickle=False))
            yield _OpenNpz(flow, made)


def _member(key: str) -> zipfile.ZipInfo:
    """A member without a timestamp: equal content gives equal bytes."""
    info = zipfile.ZipInfo(f"{key}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_header(member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    npy.write_array_header_1_0(
        member, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return True


class _OpenNpz(OpenArray):
    def __init__(self, flow: IO[bytes], made: str) -> None:
        npy.read_magic(flow)
        self.shape, _, self._dtype = npy.read_array_header_1_0(flow)
        self.made, self._flow, self._begin = made, flow, flow.tell()

    def pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        frame = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        self._flow.seek(self._begin + start * frame)
        for first in range(start, stop, PIECE_FRAMES):
            count = min(PIECE_FRAMES, stop - first)
            data = self._flow.read(count * frame)
            if len(data) < count * frame:
                raise EOFError("the array ends early")
            yield np.frombuffer(data, self._dtype).reshape(count, *self.shape[1:])
        if stop == self.shape[0]:
            self._flow.read(1)  # reading the end of the member verifies its checksum


class H5(ArrayForm):
    """flow.h5, with one chunk per frame for partial reads; needs h5py."""

    def save(
        self, path: Path, values: Iterator[np.ndarray], shape: tuple[int, ...], about: dict[str, Any]
    ) -> None:
        with h5py().File(path, "w") as file:
            for key, value in about.items():
                file[key] = value
            flow = None
            done = 0
            for piece in values:
                if flow is None:
                    flow = file.create_dataset(
                        "flow",
                        shape,
                        piece.dtype,
                        chunks=(1, *shape[1:]),
                        compression=COMPRESSION,
                        shuffle=True,
                        fletcher32=True,
                    )
                flow[done : done + len(piece)] = piece
                done += len(piece)

    @contextmanager
    def _open(self, path: Path) -> Iterator[OpenArray]:
        with h5py().File(path, "r") as file:
            yield _OpenH5(file)


class _OpenH5(OpenArray):
    def __init__(self, file: Any) -> None:
        self._flow = file["flow"]
        self.shape = self._flow.shape
        self.made = file["made"].asstr()[()]

    def pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first in range(start, stop, PIECE_FRAMES):
            yield self._flow[first : min(first + PIECE_FRAMES, stop)]


def h5py() -> Any:
    """The module h5py; raises UsageError if it is not installed."""
    try:
        return import_module("h5py")
    except ImportError as error:
        raise UsageError("flow in HDF5 needs h5py: pip install m3flow[h5]") from error


def _parsed(text: str) -> dict[str, Any]:
    made = json.loads(text)
    return made if isinstance(made, dict) else {}


def _shown(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:32]
