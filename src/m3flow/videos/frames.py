"""Frames of a video file or a folder of images, decoded with OpenCV: all in grey, or some in colour."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from m3flow.errors import BadInput
from m3flow.videos.frame_rate import as_fraction, drops_frames, number_kept, sampled
from m3flow.videos.identity import image_names
from m3flow.videos.resize import KEPT, Resize

Picture = Literal["grey", "colour", "both"]
CHANNELS: dict[Picture, tuple[int, ...]] = {"grey": (), "colour": (3,), "both": (4,)}
DEFAULT_RATE = Fraction(25)
# The MPEG-4 time base has 16 bits.
LARGEST_RATE_TERM = 65535


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video that are known before its frames are decoded.

    Attributes
    ----------
    width, height: frame size after rotation and resizing, in pixels.
    rate: frames per second, of the frames that are kept; video_rate: of the video.
    claimed: the number of frames according to the header; 0 if it gives none.
    codec: the codec's four-character code, "images" for a folder.
    rotation: the rotation in the file's metadata in degrees, already applied to the frames.
    """

    width: int
    height: int
    rate: Fraction
    video_rate: Fraction
    claimed: int
    codec: str
    rotation: int


class Frames:
    """The frames of a video, in order: iterate for uint8 [H, W], grey.

    With `picture` "colour" they are [H, W, 3], RGB; with "both" [H, W, 4], RGB and the grey frame. A `rate` samples
    them (`m3flow.videos.frame_rate`). The number of frames is the number that decodes; the header's is
    `info.claimed`.

    Attributes
    ----------
    info: see `VideoInfo`.
    milliseconds: the timestamp of each frame decoded so far from a video file.

    Raises
    ------
    BadInput: the file is missing, is not a video, or none of its frames decodes (when opened).
    """

    def __init__(
        self, path: str | Path, resize: Resize = KEPT, *, picture: Picture = "grey", rate: float = 0
    ) -> None:
        path = os.fspath(path)
        _refuse_missing(path)
        self.milliseconds: list[float] = []
        if Path(path).is_dir():
            frames, video_rate, claimed, codec, rotation = _image_folder(Path(path), picture)
        else:
            frames, video_rate, claimed, codec, rotation = _video_file(path, picture, self.milliseconds)
        first = next(frames, None)
        if first is None:
            raise BadInput(
                f"no frame of {path!r} decodes" + (f" (its header claims {claimed})" if claimed else "")
            )
        self._rest = sampled(chain([first], frames), video_rate, rate)
        self._picture = picture
        height, width = first.shape[:2]
        self._size = resize.of(width, height)
        self._same_size = (height, width)
        kept = as_fraction(rate) if drops_frames(video_rate, rate) else video_rate
        claimed = number_kept(claimed, video_rate, rate)
        self.info = VideoInfo(*self._size, kept, video_rate, claimed, codec, rotation)

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._rest:
            yield self._resize(frame)

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        # A stream may change its frame size; later frames are resized to the size of the first.
        if self._picture != "both":
            return resized(frame, *self._size)
        colour, grey = np.ascontiguousarray(frame[..., :3]), np.ascontiguousarray(frame[..., 3])
        return np.dstack([resized(colour, *self._size), resized(grey, *self._size)])


def colour_frames(path: str | Path, numbers: Collection[int], resize: Resize = KEPT) -> Iterator[np.ndarray]:
    """Some frames of a video in colour, in ascending order: uint8 [H, W, 3], RGB.

    Frames are numbered from 0 as in `Frames`, by decoding from the start: seeking is inaccurate in many
    containers. Other frames are not converted and, in a folder, not read.

    Parameters
    ----------
    numbers: frame numbers; those beyond the end are skipped.
    resize: the size to which frames are resized.

    Raises
    ------
    BadInput: the file is missing or is not a video, or an image cannot be read.
    """
    path = os.fspath(path)
    _refuse_missing(path)
    chosen = sorted(set(numbers))
    pictures = _chosen_images(Path(path), chosen) if Path(path).is_dir() else _chosen_frames(path, chosen)
    for picture in pictures:
        height, width = picture.shape[:2]
        yield resized(picture, *resize.of(width, height))


def resized(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """A frame [H, W] or [H, W, 3] resized to a size in pixels: area averaging to shrink it, else bilinear."""
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = frame.shape[0] > height
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _refuse_missing(path: str) -> None:
    if not Path(path).exists():
        raise BadInput(f"no such file: {path!r}")


def _video_file(
    path: str, picture: Picture, milliseconds: list[float]
) -> tuple[Iterator[np.ndarray], Fraction, int, str, int]:
    capture = _opened(path)
    claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return (
        _frames(capture, picture, milliseconds),
        _rate(capture.get(cv2.CAP_PROP_FPS)),
        int(claimed) if math.isfinite(claimed) and claimed > 0 else 0,
        _fourcc(int(capture.get(cv2.CAP_PROP_FOURCC))),
        int(capture.get(cv2.CAP_PROP_ORIENTATION_META)),
    )


def _opened(path: str, options: Sequence[int] = ()) -> cv2.VideoCapture:
    if not Path(path).is_file():
        raise BadInput(f"not a file: {path!r}")
    if not os.access(path, os.R_OK):
        raise BadInput(f"no permission to read {path!r}")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the name {path!r} is not UTF-8 text, which OpenCV needs; rename it") from error
    # FFmpeg interprets options, protocols and patterns in a file name; an absolute path rules them out.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, options)  # noqa: PTH100
    if not capture.isOpened():
        raise BadInput(f"not a video with a picture: {path!r}")
    return capture


def _frames(capture: cv2.VideoCapture, picture: Picture, milliseconds: list[float]) -> Iterator[np.ndarray]:
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            milliseconds.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            if picture == "colour":
                yield _rgb(frame)
                continue
            grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            yield grey if picture == "grey" else np.dstack([_rgb(frame), grey])
    finally:
        capture.release()


def _chosen_frames(path: str, numbers: list[int]) -> Iterator[np.ndarray]:
    # One decoding thread: training already runs one process per core.
    capture = _opened(path, (cv2.CAP_PROP_N_THREADS, 1))
    try:
        position = 0
        for number in numbers:
            while position <= number:
                if not capture.grab():
                    return
                position += 1
            frame = capture.retrieve()[1]
            yield _rgb(frame)
    finally:
        capture.release()


def _rgb(frame: np.ndarray) -> np.ndarray:
    """A frame as OpenCV decodes it, grey or BGR, in RGB."""
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)


def _image_folder(folder: Path, picture: Picture) -> tuple[Iterator[np.ndarray], Fraction, int, str, int]:
    names = _image_names(folder)
    return (_read_image(folder / name, picture) for name in names), DEFAULT_RATE, len(names), "images", 0


def _read_image(path: Path, picture: Picture) -> np.ndarray:
    if picture == "grey":
        return _image(path, cv2.IMREAD_GRAYSCALE)
    colour = _rgb(_image(path, cv2.IMREAD_COLOR))
    return colour if picture == "colour" else np.dstack([colour, _image(path, cv2.IMREAD_GRAYSCALE)])


def _chosen_images(folder: Path, numbers: list[int]) -> Iterator[np.ndarray]:
    names = _image_names(folder)
    for number in numbers:
        if number >= len(names):
            return
        yield cv2.cvtColor(_image(folder / names[number], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _image_names(folder: Path) -> list[str]:
    names = image_names(folder)
    if not names:
        raise BadInput(f"no frame images in the folder {os.fspath(folder)!r}")
    return names


def _image(path: Path, flags: int) -> np.ndarray:
    # Read by Python, because imread does not accept every file name.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    frame = cv2.imdecode(data, flags) if len(data) else None
    if frame is None:
        raise BadInput(f"not a readable image: {os.fspath(path)!r}")
    return frame


def _rate(value: float) -> Fraction:
    """Frames per second as a fraction whose terms the MPEG-4 time base can hold."""
    if not math.isfinite(value) or not 0.1 <= value <= 1000:
        return DEFAULT_RATE
    # Television (NTSC) rates are multiples of 1000/1001; others are decimal.
    television = Fraction(round(value * 1.001) * 1000, 1001)
    if abs(float(television) - value) < 1e-3 and abs(round(value) - value) > 1e-3:
        return television
    rate = Fraction(value).limit_denominator(1000)
    return rate if rate.numerator <= LARGEST_RATE_TERM else Fraction(round(value))


def _fourcc(code: int) -> str:
    text = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24))
    return text if text.isprintable() else ""
