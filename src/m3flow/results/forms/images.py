"""Flow as one image or .flo file per frame, in a folder or in a zip archive.

The names are those of denseflow (github.com/open-mmlab/denseflow): `flow_x_00000.jpg` and `flow_y_00000.jpg` hold the
levels of the flow from frame 0 to frame 1; with a step of 2, `flow_x_p2_00000.jpg`; with one of -1,
`flow_x_m1_00001.jpg` from frame 1 to frame 0. A .flo file (Middlebury's format,
float32 pixels) holds both components: `flow_00000.flo`.

`made.json` next to them has the provenance. It is written last.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from m3flow.atomic import NewFolder, remove, replace_file, temporary_for
from m3flow.errors import BadInput
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

MADE = "made.json"
JPG_QUALITY = 95  # OpenCV's default, as in denseflow
JPG_BEGIN, JPG_END = b"\xff\xd8", b"\xff\xd9"
FLO_MAGIC = b"PIEH"


def names_of(suffix: str, number: int, step: int) -> list[str]:
    """The names of the files of flow frame `number`: of x and of y, or of both together."""
    infix = "" if step == 1 else f"_p{step}" if step > 1 else f"_m{-step}"
    # The number is that of the frame at which the flow starts.
    number += max(0, -step)
    components = ("",) if suffix == "flo" else ("_x", "_y")
    return [f"flow{component}{infix}_{number:05d}.{suffix}" for component in components]


def encode(suffix: str, frame: np.ndarray) -> list[bytes]:
    """A frame of stored values [2, H, W] as the contents of its files."""
    if suffix == "flo":
        _, height, width = frame.shape
        size = np.array([width, height], "<i4").tobytes()
        return [FLO_MAGIC + size + np.ascontiguousarray(frame.transpose(1, 2, 0), "<f4").tobytes()]
    options = [cv2.IMWRITE_JPEG_QUALITY, JPG_QUALITY] if suffix == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return [cv2.imencode(f".{suffix}", plane, options)[1].tobytes() for plane in frame]


def decode(suffix: str, contents: list[bytes]) -> np.ndarray:
    """The stored values [2, H, W] of a frame, from the contents of its files; raises ValueError for damaged ones."""
    if suffix != "flo":
        return np.stack([decode_image(content) for content in contents])
    (content,) = contents
    width, height = np.frombuffer(content[4:12], "<i4").tolist() if len(content) >= 12 else (0, 0)
    if content[:4] != FLO_MAGIC or len(content) != 12 + 8 * width * height:
        raise ValueError("no whole .flo file")
    return np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)


def decode_image(content: bytes) -> np.ndarray:
    """uint8 [H, W] of an image's content; raises ValueError for a damaged one."""
    if content[:2] == JPG_BEGIN and JPG_END not in content[-1024:]:
        # The decoder would fill the rest of the picture with grey.
        raise ValueError("the image is truncated")
    plane = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
    if plane is None:
        raise ValueError("no readable image")
    return plane


class Images(Form):
    """A folder `jpg`, `png` or `flo`, or an archive `jpg.zip`, `png.zip` or `flo.zip`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.suffix, _, archive = name.partition(".")
        self._zipped = bool(archive)

    def scale(self, settings: dict[str, Any]) -> Scale:
        del settings
        return "float32" if self.suffix == "flo" else "linear"

    def writer(self, folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
        del settings
        (path,) = self.files(folder)
        target = _ZipTarget(path) if self._zipped else NewFolder(path.parent)
        return _ImageWriter(self, folder, target, stream)

    def made(self, path: Path) -> dict[str, Any]:
        with self._opened(path) as files:
            return files.made

    def frames(self, folder: Path) -> int:
        (path,) = self.files(folder)
        return int(self.made(path)["frames"])

    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        (path,) = self.files(folder)
        with self._opened(path) as files:
            frames = int(files.made["frames"])
            piece: list[np.ndarray] = []
            for number in range(start, frames if stop is None else min(stop, frames)):
                piece.append(files.frame(number))
                if len(piece) == PIECE_FRAMES:
                    yield np.stack(piece)
                    piece = []
            if piece:
                yield np.stack(piece)

    def check(self, path: Path, made: dict[str, Any], decoder: Decoder) -> Contents:
        del decoder
        digest = hashlib.sha256()
        shapes = set()
        with self._opened(path) as files:
            frames = int(made["frames"])
            for number in range(frames):
                shapes.add(files.frame(number, digest).shape)
        if made["content"] != digest.hexdigest()[:32]:
            raise BadInput(f"{path}: damaged (its content is not what was written)")
        height, width = max(shapes)[1:] if shapes else (0, 0)
        return Contents(frames, width, height)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[_Files]:
        if not path.is_file():
            raise no_such_file(path)
        try:
            if self._zipped:
                with zipfile.ZipFile(path) as archive:
                    yield _Files(self.suffix, path, archive)
            else:
                yield _Files(self.suffix, path.parent, None)
        except UNREADABLE as error:
            raise BadInput(f"{path}: not readable flow ({error})") from error


class _Files:
    """The files of a folder or of an archive, for reading."""

    def __init__(self, suffix: str, place: Path, archive: zipfile.ZipFile | None) -> None:
        self._suffix, self._place, self._archive = suffix, place, archive
        made = json.loads(self._content(MADE))
        self.made: dict[str, Any] = made if isinstance(made, dict) else {}
        self._step = int(self.made.get("settings", {}).get("step", 1))

    def frame(self, number: int, digest: Any = None) -> np.ndarray:
        """The stored values [2, H, W] of a frame; adds the files' contents to `digest`."""
        names = names_of(self._suffix, number, self._step)
        try:
            contents = [self._content(name) for name in names]
            if digest is not None:
                for content in contents:
                    digest.update(content)
            return decode(self._suffix, contents)
        except FileNotFoundError as error:
            raise BadInput(f"{error.filename}: no such flow file") from error
        except UNREADABLE as error:
            raise BadInput(f"{self._place}: {', '.join(names)}: {error}") from error

    def _content(self, name: str) -> bytes:
        if self._archive is not None:
            return self._archive.read(name)
        return (self._place / name).read_bytes()


class _ZipTarget:
    """A new archive of files, either complete under its name or absent."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._temporary: Path | None = None
        self._archive: zipfile.ZipFile | None = None

    def add(self, name: str, content: bytes) -> None:
        if self._archive is None:
            self._temporary = temporary_for(self._final)
            # Images are already compressed.
            kind = zipfile.ZIP_DEFLATED if self._final.name == "flo.zip" else zipfile.ZIP_STORED
            self._archive = zipfile.ZipFile(self._temporary, "w", kind, compresslevel=1)
        # Without a timestamp: equal content gives equal bytes.
        info = zipfile.ZipInfo(name)
        info.compress_type = self._archive.compression
        self._archive.writestr(info, content)

    def finish(self) -> None:
        assert self._archive is not None and self._temporary is not None
        self._archive.close()
        replace_file(self._temporary, self._final)

    def discard(self) -> None:
        if self._archive is not None:
            self._archive.close()
        if self._temporary is not None:
            remove(self._temporary)


class _ImageWriter(FlowWriter):
    def __init__(self, form: Images, folder: Path, target: NewFolder | _ZipTarget, stream: Stream) -> None:
        self._form, self._folder, self._target, self._stream = form, folder, target, stream
        self._digest = hashlib.sha256()
        self._frames = 0

    def write(self, values: np.ndarray) -> None:
        for frame in values:
            names = names_of(self._form.suffix, self._frames, self._stream.step)
            for name, content in zip(names, encode(self._form.suffix, frame), strict=True):
                self._target.add(name, content)
                self._digest.update(content)
            self._frames += 1

    def close(self, provenance: dict[str, Any]) -> None:
        about = {**provenance, "frames": self._frames, "content": self._digest.hexdigest()[:32]}
        self._target.add(MADE, json.dumps(about).encode())
        remove_other_forms(self._folder, self._form.name)
        self._target.finish()

    def discard(self) -> None:
        self._target.discard()
