"""Flow written by other programs, read in place.

images: `flow_x_00001.jpg` and `flow_y_00001.jpg` (denseflow, TSN's dense_flow), or the folders or zip archives `x` and
`y`, `flow_x` and `flow_y`, `u` and `v` with numbered images in them. Levels of the linear scale, like ours. Also
denseflow's colour images `flow_00000.png`, which contain both components and their own bound.
flo: `.flo` files, numbered.
h5, npz: one file per video with `flow` [T, 2, H, W] or [T, H, W, 2], pixels or uint8 levels; or denseflow's HDF5, with
one dataset per frame and component, `flow_x_00000`.

Numbers may start anywhere; a missing one between the first and the last is an error.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from m3flow.errors import BadInput
from m3flow.layout import FLOW_FILES, flow_files
from m3flow.results.forms.arrays import h5py
from m3flow.results.forms.base import PIECE_FRAMES, UNREADABLE, FlowReader
from m3flow.results.forms.images import decode, decode_image
from m3flow.results.quantisation import Scale
from m3flow.videos.folder import IMAGE_SUFFIXES
from m3flow.videos.identity import identity

# Names of the frame files of flow with both components in one folder.
IN_ONE_FOLDER = re.compile(r"(?:flow_)?(?P<component>[xy])(?:_(?P<step>[pm]\d+))?_(?P<number>\d+)\.\w+")
BOTH_IN_ONE = re.compile(r"flow(?:_(?P<step>[pm]\d+))?_(?P<number>\d+)\.png")
NUMBERED = re.compile(r".*?(?P<number>\d+)\.\w+")
PAIRS = (("flow_x", "flow_y"), ("x", "y"), ("u", "v"))
H5_FRAME = re.compile(r"flow_(?P<component>[xy])(?:_(?P<step>[pm]\d+))?_(?P<number>\d+)")

Content = Callable[[], bytes]


@dataclass
class Frames:
    """The frames of existing flow.

    Attributes
    ----------
    count: the number of frames. read: the values [2, H, W] of a frame by its index in the sequence.
    levels: whether the values are levels and not pixels. step: from the names; None if they lack it.
    bound: from the files; None if they lack it.
    """

    count: int
    read: Callable[[int], np.ndarray]
    levels: bool
    step: int | None = None
    bound: float | None = None


class Existing(FlowReader):
    """Existing flow of one video, opened; arguments `folder` are ignored."""

    def __init__(self, place: Path, frames: Frames) -> None:
        self.place, self.found = place, frames

    def scale(self, settings: dict[str, Any]) -> Scale:
        del settings
        return "linear" if self.found.levels else "float32"

    def frames(self, folder: Path) -> int:
        del folder
        return self.found.count

    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        del folder
        end = self.found.count if stop is None else min(stop, self.found.count)
        shape: tuple[int, ...] = ()
        for first in range(start, end, PIECE_FRAMES):
            piece = []
            for number in range(first, min(first + PIECE_FRAMES, end)):
                values = self._frame(number)
                shape = shape or values.shape
                if values.shape != shape:
                    raise BadInput(
                        f"{self.place}: frame {number} is {_size(values.shape)} where the others are {_size(shape)}"
                    )
                piece.append(values)
            yield np.stack(piece)

    def _frame(self, number: int) -> np.ndarray:
        try:
            values = self.found.read(number)
        except UNREADABLE as error:
            raise BadInput(f"{self.place}: frame {number} cannot be read ({error})") from error
        return values if self.found.levels else values.astype(np.float32, copy=False)


def existing(root: Path, form: str, name: str) -> Existing:
    """The existing flow of the video `name`, in the folder `root`.

    It is expected under the video's name, with or without its suffix (`class/clip.avi` or `class/clip`).

    Raises BadInput if there is none, or if it has gaps.
    """
    places = list(dict.fromkeys([root / name, root / Path(name).with_suffix("")]))
    if form in ("h5", "npz"):
        places = [
            found
            for place in places
            for found in sorted(place.parent.glob(f"{_escaped(place.name)}*.{form}"))
            if re.fullmatch(rf"{re.escape(place.name)}(_[pm]\d+)?\.{form}", found.name)
        ]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise BadInput(f"no existing flow of {name} in {root}")
    try:
        frames = {"images": _images, "flo": _flo, "h5": _h5, "npz": _npz}[form](place)
    except UNREADABLE as error:
        raise BadInput(f"{place}: not readable flow ({error})") from error
    if frames.count == 0:
        ours = any(path.is_file() for kind in FLOW_FILES for path in flow_files(place, kind))
        hint = "; m3flow's own flow is read without --flow-from" if ours else ""
        raise BadInput(f"{place}: no flow of the form {form}{hint}")
    return Existing(place, frames)


def fingerprint(place: Path) -> dict[str, Any]:
    """Content fingerprint of existing flow, like that of a video (`m3flow.videos.identity.identity`).

    For a folder it covers the names of all files in it, and the fingerprint of each.
    """
    if place.is_file():
        return identity(place)
    digest, size = hashlib.sha256(), 0
    for path in sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")):
        found = identity(path)
        digest.update(f"{path.relative_to(place)}\0{found['sha256']}\0".encode(errors="surrogateescape"))
        size += found["bytes"]
    return {"bytes": size, "sha256": digest.hexdigest()[:32]}


def _images(place: Path) -> Frames:
    names = {path.name: path for path in place.iterdir() if path.is_file()}
    both = _numbered(place, {name: path.read_bytes for name, path in names.items()}, BOTH_IN_ONE)
    if both.contents:
        return Frames(
            len(both.contents), lambda number: _denseflow_png(both.contents[number]()), False, both.step
        )
    for pair in PAIRS:
        parts = [_component(place / name) for name in pair]
        if all(parts):
            x, y = (_numbered(place / name, part, NUMBERED) for name, part in zip(pair, parts, strict=True))
            return _of_components(place, x, y)
    found: dict[str, dict[str, Content]] = {"x": {}, "y": {}}
    for name, path in names.items():
        if (match := IN_ONE_FOLDER.fullmatch(name)) and path.suffix.lower() in IMAGE_SUFFIXES:
            found[match["component"]][name] = path.read_bytes
    x, y = (_numbered(place, found[component], IN_ONE_FOLDER) for component in "xy")
    return _of_components(place, x, y)


def _component(place: Path) -> dict[str, Content]:
    """The images of one component by name, in a folder or a zip archive of that name."""
    if place.is_dir():
        return {
            path.name: path.read_bytes for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        }
    archive = place.with_name(f"{place.name}.zip")
    if not archive.is_file():
        return {}
    opened = zipfile.ZipFile(archive)
    return {
        name: lambda name=name: opened.read(name)  # type: ignore[misc]
        for name in opened.namelist()
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    }


@dataclass
class _Numbered:
    """The contents of numbered files, in order; the first number; the step given by the names."""

    contents: list[Content]
    first: int
    step: int | None


def _numbered(place: Path, files: Mapping[str, Content], pattern: re.Pattern[str]) -> _Numbered:
    """The files whose names match the pattern; raises BadInput if a number is missing or duplicate."""
    numbers: dict[int, str] = {}
    steps = set()
    for name in sorted(files):
        match = pattern.fullmatch(Path(name).name)
        if match is None:
            continue
        number = int(match["number"])
        if number in numbers:
            raise BadInput(f"{place}: {numbers[number]} and {name} have the same number")
        numbers[number] = name
        steps.add(match.groupdict().get("step"))
    if not numbers:
        return _Numbered([], 0, None)
    first, last = min(numbers), max(numbers)
    gaps = sorted(set(range(first, last + 1)) - set(numbers))
    if gaps:
        more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        raise BadInput(
            f"{place}: number {gaps[0]}{more} is missing between {numbers[first]} and {numbers[last]}"
        )
    if len(steps) > 1:
        raise BadInput(f"{place}: files of several steps, such as {numbers[first]} and {numbers[last]}")
    return _Numbered([files[numbers[number]] for number in sorted(numbers)], first, _step(steps.pop()))


def _step(infix: str | None) -> int | None:
    return None if infix is None else int(infix[1:]) * (1 if infix[0] == "p" else -1)


def _of_components(place: Path, x: _Numbered, y: _Numbered) -> Frames:
    if (len(x.contents), x.first, x.step) != (len(y.contents), y.first, y.step):
        raise BadInput(
            f"{place}: {len(x.contents)} images of x and {len(y.contents)} of y do not belong together"
        )

    def read(number: int) -> np.ndarray:
        planes = [decode_image(component.contents[number]()) for component in (x, y)]
        if planes[0].shape != planes[1].shape:
            raise ValueError(f"x is {_size(planes[0].shape)}, y is {_size(planes[1].shape)}")
        return np.stack(planes)

    return Frames(len(x.contents), read, levels=True, step=x.step)


def _denseflow_png(content: bytes) -> np.ndarray:
    """float32 [2, H, W] from denseflow's colour image: blue is x, green is y, red their bounds in its two halves.

    A component is (level − 128) · bound / 128; the bound is four times red, of x in the upper half, of y below.
    """
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise ValueError("no readable image")
    bounds = 4 * np.array([image[0, 0, 2], image[-1, 0, 2]], np.float32)
    return (image[..., :2].transpose(2, 0, 1).astype(np.float32) - 128) * (bounds[:, None, None] / 128)


def _flo(place: Path) -> Frames:
    files = {path.name: path.read_bytes for path in place.iterdir() if path.suffix == ".flo"}
    found = _numbered(place, files, NUMBERED)
    return Frames(len(found.contents), lambda number: decode("flo", [found.contents[number]()]), levels=False)


def _h5(place: Path) -> Frames:
    file = h5py().File(place, "r")
    if "flow" in file:
        return _array(place, file["flow"], file["bound"][()] if "bound" in file else file.attrs.get("bound"))
    parts: dict[str, dict[str, Content]] = {"x": {}, "y": {}}
    for name in file:
        if match := H5_FRAME.fullmatch(name):
            parts[match["component"]][name] = lambda name=name: file[name][()]  # type: ignore[misc]
    x, y = (_numbered(place, parts[component], H5_FRAME) for component in "xy")
    if (len(x.contents), x.first) != (len(y.contents), y.first):
        raise BadInput(
            f"{place}: {len(x.contents)} frames of x and {len(y.contents)} of y do not belong together"
        )
    both: Any = (x.contents, y.contents)
    return Frames(
        len(x.contents), lambda number: np.stack([part[number]() for part in both]), levels=False, step=x.step
    )


def _npz(place: Path) -> Frames:
    with np.load(place, allow_pickle=False) as file:
        if "flow" not in file:
            raise BadInput(f"{place}: no array flow, but {', '.join(file.files)}")
        bound = file["bound"][()] if "bound" in file else None
        return _array(place, file["flow"], bound)


def _array(place: Path, flow: Any, bound: Any) -> Frames:
    """Flow in one array, [T, 2, H, W] or [T, H, W, 2]."""
    shape = tuple(flow.shape)
    if len(shape) != 4 or 2 not in (shape[1], shape[3]):
        raise BadInput(f"{place}: flow of shape {list(shape)}, expected [T, 2, H, W] or [T, H, W, 2]")
    last = shape[1] != 2
    return Frames(
        shape[0],
        lambda number: np.asarray(flow[number]).transpose(2, 0, 1) if last else np.asarray(flow[number]),
        levels=flow.dtype == np.uint8,
        bound=None if bound is None else float(bound),
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}x{shape[-2]}"


def _escaped(name: str) -> str:
    """A name as a glob pattern that matches only itself."""
    return re.sub(r"([\[*?])", r"[\1]", name)
