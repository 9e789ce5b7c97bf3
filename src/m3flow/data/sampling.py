"""Sampling of training items: the frames and the crop of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from m3flow.errors import BadInput, UsageError
from m3flow.trajectories.tracking import GRID
from m3flow.videos.frames import resized
from m3flow.videos.key_frames import KeyFrames, Reader, chosen_frames, require_reader
from m3flow.videos.videolist import Video


@dataclass(frozen=True)
class Window:
    """The part of a video in an item.

    Attributes
    ----------
    start: the clip's first frame.
    left, top, width, height: the crop in pixels, all multiples of `grid`.
    flip: whether left and right are exchanged.
    grid: the spacing in pixels of the point grid that the crop must preserve; 1 for every pixel.
    """

    start: int
    left: int
    top: int
    width: int
    height: int
    flip: bool
    grid: int = GRID

    @property
    def first_column(self) -> int:
        """First column of the cropped frames: a flip shifts grid points by one pixel (see `TrajectoryClips`)."""
        return self.left + (self.flip and self.grid > 1)


@dataclass(frozen=True)
class Sampling:
    """Sampling of clips from videos; see `TrajectoryClips` for the parameters.

    Raises UsageError for invalid values.
    """

    frames: int
    stride: int
    crop: tuple[int, int] | None
    flip: float
    random: bool
    grid: int = 1
    reader: Reader = "pyav"

    def __post_init__(self) -> None:
        require_reader(self.reader)
        if self.frames < 1:
            raise UsageError(f"frames is {self.frames}; it must be 1 or more")
        if self.stride < 1:
            raise UsageError(f"stride is {self.stride}; it must be 1 or more")
        if self.crop is not None and any(side < self.grid or side % self.grid for side in self.crop):
            allowed = f"multiples of {self.grid}" if self.grid > 1 else "1 pixel or more"
            raise UsageError(f"crop is {self.crop}; both sides must be {allowed}")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"flip is {self.flip}; it must be a probability")

    def numbers(self, window: Window) -> list[int]:
        """The frame numbers of the clip in the video."""
        return [window.start + self.stride * t for t in range(self.frames)]

    def window(
        self, video: Video, size: tuple[int, int], starts: int, generator: torch.Generator | None = None
    ) -> Window:
        """A window of a video whose frames have `size` (H, W), with its start below `starts`.

        Raises UsageError for a crop larger than the frame.
        """
        grid = self.grid
        height, width = self.crop or (size[0] // grid * grid, size[1] // grid * grid)
        if height > size[0] or width > size[1]:
            raise UsageError(
                f"crop {height}x{width} is larger than the frames of {video.name} ({size[0]}x{size[1]}); "
                "use a smaller crop, or make flow with a larger short_side"
            )
        starts = max(starts, 1)
        if not self.random:
            left, top = ((room // grid) // 2 * grid for room in (size[1] - width, size[0] - height))
            return Window((starts - 1) // 2, left, top, width, height, False, grid)
        flip = bool(torch.rand((), generator=generator) < self.flip)
        # On a grid, a flipped crop starts one pixel further to the right, if there is one.
        shift = flip and grid > 1
        left = grid * _draw(max(size[1] - width - shift, 0) // grid + 1, generator)
        top = grid * _draw((size[0] - height) // grid + 1, generator)
        return Window(_draw(starts, generator), left, top, width, height, flip, grid)


def _draw(count: int, generator: torch.Generator | None) -> int:
    """A random number from 0 to count − 1; of torch's global generator where none is given."""
    return int(torch.randint(count, (), generator=generator))


def read_clip(
    source: str,
    numbers: list[int],
    size: tuple[int, int],
    window: Window,
    key_frames: KeyFrames | None = None,
    reader: Reader = "pyav",
) -> np.ndarray:
    """The window of the frames `numbers` (ascending) of a video or a folder of images: uint8 [T, 3, h, w], RGB.

    Frames are counted as `m3flow.videos.frames` does; with the index of the key frames only those that are needed are
    decoded. They are resized to `size` (H, W), the size at which the motion was computed; a number beyond the end
    repeats the frame before it.

    Raises
    ------
    BadInput: the video is missing, or none of the frames can be decoded.
    """
    height, width = size
    clip = np.empty((len(numbers), 3, window.height, window.width), np.uint8)
    count = 0
    for picture in chosen_frames(source, numbers, key_frames, reader):
        cut(resized(picture, width, height), window, clip[count])
        count += 1
    if not count:
        raise BadInput(f"{source}: frame {numbers[0]} cannot be decoded")
    clip[count:] = clip[count - 1]
    return clip


def cut(picture: np.ndarray, window: Window, planes: np.ndarray) -> None:
    """Write the window of uint8 [H, W, 3], flipped if the window is, into uint8 [3, h, w]."""
    left = window.first_column
    part = picture[window.top : window.top + window.height, left : left + window.width]
    if (missing := window.width - part.shape[1]) > 0:
        part = cv2.copyMakeBorder(part, 0, 0, 0, missing, cv2.BORDER_REPLICATE)
    # OpenCV's split writes into the planes, many times faster than a transposition of the axes.
    cv2.split(part, list(planes))
    if window.flip:
        for plane in planes:
            cv2.flip(plane, 1, plane)
