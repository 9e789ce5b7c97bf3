"""Grey frames of a video file or of a folder of images, decoded with OpenCV."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from m3flow.errors import BadInput
from m3flow.videos.identity import image_names

DEFAULT_RATE = Fraction(25)
# The MPEG-4 time base has 16 bits.
LARGEST_RATE_TERM = 65535


@dataclass(frozen=True)
class VideoInfo:
    """What a video is before its frames are decoded.

    Attributes
    ----------
    width, height: of the frames as they are delivered (after rotation and resizing), in pixels.
    rate: frames a second.
    claimed: the number of frames that the header claims; 0 if it claims none.
    codec: the codec's four-character code, "images" for a folder.
    rotation: the rotation in the file's metadata in degrees, already applied to the frames.
    """

    width: int
    height: int
    rate: Fraction
    claimed: int
    codec: str
    rotation: int


class Frames:
    """The frames of a video, in order: iterate for uint8 [H, W], with `colour` for uint8 [H, W, 3] (RGB).

    The number of frames is the number that decodes; a header's claim is only told (`info.claimed`).

    Raises
    ------
    BadInput: the file is missing, is no video, or none of its frames decodes (when opened).
    """

    def __init__(self, path: str | Path, short_side: int = 0, *, colour: bool = False) -> None:
        path = os.fspath(path)
        if not Path(path).exists():
            raise BadInput(f"no such file: {path!r}")
        self._short_side = short_side
        if Path(path).is_dir():
            frames, rate, claimed, codec, rotation = _image_folder(Path(path), colour)
        else:
            frames, rate, claimed, codec, rotation = _video_file(path, colour)
        self._first = next(frames, None)
        if self._first is None:
            raise BadInput(
                f"no frame of {path!r} decodes" + (f" (its header claims {claimed})" if claimed else "")
            )
        self._rest = frames
        height, width = self._first.shape[:2]
        self._size = _resized(width, height, short_side)
        self._same_size = (height, width)
        self.info = VideoInfo(*self._size, rate, claimed, codec, rotation)

    def __iter__(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, None
        if first is not None:
            yield self._resize(first)
        for frame in self._rest:
            yield self._resize(frame)

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        # A stream may change its size on the way; what follows keeps the size of the first frame.
        if frame.shape[:2] == (self._size[1], self._size[0]):
            return frame
        smaller = frame.shape[0] > self._size[1]
        return cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    if not short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _video_file(path: str, colour: bool) -> tuple[Iterator[np.ndarray], Fraction, int, str, int]:
    if not Path(path).is_file():
        raise BadInput(f"not a file: {path!r}")
    if not os.access(path, os.R_OK):
        raise BadInput(f"no permission to read {path!r}")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the name {path!r} is not UTF-8 text, which OpenCV needs; rename it") from error
    # FFmpeg takes what looks like an option, a protocol or a pattern in a name at its word; an absolute path
    # to a file is none of these.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # noqa: PTH100
    if not capture.isOpened():
        raise BadInput(f"not a video with a picture: {path!r}")
    claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return (
        _captured(capture, colour),
        _rate(capture.get(cv2.CAP_PROP_FPS)),
        int(claimed) if math.isfinite(claimed) and claimed > 0 else 0,
        _fourcc(int(capture.get(cv2.CAP_PROP_FOURCC))),
        int(capture.get(cv2.CAP_PROP_ORIENTATION_META)),
    )


def _captured(capture: cv2.VideoCapture, colour: bool) -> Iterator[np.ndarray]:
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            if colour:
                yield cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)
            else:
                yield frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    finally:
        capture.release()


def _image_folder(folder: Path, colour: bool) -> tuple[Iterator[np.ndarray], Fraction, int, str, int]:
    names = image_names(folder)
    if not names:
        raise BadInput(f"no frame images in the folder {os.fspath(folder)!r}")
    return _images(folder, names, colour), DEFAULT_RATE, len(names), "images", 0


def _images(folder: Path, names: list[str], colour: bool) -> Iterator[np.ndarray]:
    for name in names:
        # Through Python's own reading, because imread does not take every file name.
        data = np.frombuffer((folder / name).read_bytes(), np.uint8)
        frame = (
            cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE) if len(data) else None
        )
        if frame is None:
            raise BadInput(f"not a readable image: {os.fspath(folder / name)!r}")
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if colour else frame


def _rate(value: float) -> Fraction:
    """Frames a second as a fraction whose terms the MPEG-4 time base can hold."""
    if not math.isfinite(value) or not 0.1 <= value <= 1000:
        return DEFAULT_RATE
    # The rates of television are multiples of 1000/1001; others are decimal.
    television = Fraction(round(value * 1.001) * 1000, 1001)
    if abs(float(television) - value) < 1e-3 and abs(round(value) - value) > 1e-3:
        return television
    rate = Fraction(value).limit_denominator(1000)
    return rate if rate.numerator <= LARGEST_RATE_TERM else Fraction(round(value))


def _fourcc(code: int) -> str:
    text = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24))
    return text if text.isprintable() else ""
