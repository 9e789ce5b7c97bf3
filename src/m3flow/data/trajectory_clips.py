"""Clips with their trajectories for training, as a torch Dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3flow.data.labelled_videos import LabelledVideos
from m3flow.data.sampling import Sampling, Window, read_clip
from m3flow.errors import BadInput, UsageError
from m3flow.layout import PACKED_TRAJECTORIES, Outputs
from m3flow.results.stored_trajectories import StoredTrajectories
from m3flow.results.trajectoryfile import Trajectories
from m3flow.trajectories.tracking import GRID
from m3flow.videos.frame_rate import numbers_in_video
from m3flow.videos.frames import colour_frames
from m3flow.videos.key_frames import KeyFrames, Reader
from m3flow.videos.videolist import Video, VideoList

LARGEST_EMPTY = 8192  # bytes; files without windows are smaller
TUBE = 2
"""Frames per token of masked autoencoders: trajectories are given for every second frame of a clip."""


class TrajectoryClips(LabelledVideos):
    """Clips of T frames with the trajectories of every second frame.

    An item is a dict:

    - frames: uint8 [T, 3, h, w], RGB
    - trajectories: int8 [T/2 · L, h//8, w//8, 2], displacements in pixels, (x, y): the L steps of the first
      window, then those of the second, …, one window for the clip's frames 0, 2, 4, …
    - types: uint8 [T/2, h//8, w//8], 1 where the points P_0 … P_{L−1} all lie inside the crop
    - confidence: uint8 [T/2 · L, h//8, w//8], of the points P_1 … P_L of each window, if the video's file has it;
      128 and more is reliable
    - label: int, the number of the video's class in `classes`; -1 for a video without a label
    - name: its output name

    The axis order is that of MME's pre-training (Sun et al., CVPR 2023), which divides by 20.

    Convention
    ----------
    The trajectory at [.., i, j, :] starts at the pixel with x = 4 + 8j, y = 4 + 8i of the item's own frames,
    cropped and flipped. For this, crops are placed in steps of 8 pixels. A flip maps the pixel x of a crop
    of width w to w − 1 − x, and so 4 + 8j to 3 + 8(w/8 − 1 − j), which is not on the grid; therefore the
    frames of a flipped item are cropped one pixel further to the right, and the points fall on the grid exactly.
    Only if the crop has the frame's full width there is no such pixel: the last column is repeated
    instead. A flip changes the sign of the x displacements. L counts the video's own frames, whatever the
    clip's stride: a trajectory spans frames n to n + L.

    Near a video's end, windows beyond it are replaced by the last one, and frames beyond it by
    the last one of the clip, as in MME.

    Parameters
    ----------
    list_file, root, parts: the list of videos, see `m3flow.videos.videolist.VideoList`.
    output: the output folder of `m3flow trajectories` (job trajs_dense or mvs).
    length: L; the files of this length are read.
    frames: T, even.
    stride: the distance between a clip's frames in the video (4 for Kinetics-400, 2 for Something-Something).
    crop: height and width of the crop in pixels, multiples of 8; None: the frame, rounded down to multiples of 8.
    flip: the probability of a flip; set 0 if labels depend on left and right.
    random: draw start, crop and flip at random (from torch's generator, which a DataLoader seeds in
        each worker); otherwise the middle of the video, the middle of the frame, no flip.
    classes: the labels by number. By default from the list: integer labels are kept, names are numbered in
        sorted order. Give the validation set `classes=training_set.classes`.
    transform: applied to every item, a dict, for example to change the colours of its frames. Geometric transforms
        are not allowed: the trajectories would not follow.
    reader: the library that decodes: "pyav", or "torchcodec" where it is installed; the frames are the same.

    Attributes
    ----------
    videos: those that have trajectories; labels: their labels, int.
    classes: the labels by their numbers, list of str.
    missing: the names of those without (rejected, not made yet, or too short for one); they are left out.

    Raises
    ------
    UsageError: an invalid parameter; no video of the list has trajectories of this length; the first videos
        are not in `root`; a label that is not in `classes`; when an item is read: a crop larger than the frame, a
        file of another job.
    BadInput: when an item is read: a damaged trajectory file, a missing or damaged video.
    """

    kind = "trajectories"

    def __init__(
        self,
        list_file: Path | str,
        output: Path | str,
        *,
        root: Path | str = ".",
        parts: int = 3,
        length: int = 6,
        frames: int = 16,
        stride: int = 4,
        crop: tuple[int, int] | None = (224, 224),
        flip: float = 0.5,
        random: bool = True,
        classes: Sequence[str] | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        reader: Reader = "pyav",
    ) -> None:
        if frames < TUBE or frames % TUBE:
            raise UsageError(f"frames is {frames}; it must be even and 2 or more")
        self.length, self.frames, self.stride, self.crop = length, frames, stride, crop
        self._sampling = Sampling(frames, stride, crop, flip, random, GRID, reader)
        super().__init__(
            VideoList(Path(list_file), Path(root), parts), Outputs(Path(output)), classes, transform
        )

    def __repr__(self) -> str:
        return (
            f"TrajectoryClips({len(self.videos)} videos, {len(self.missing)} without trajectories, "
            f"frames={self.frames}, stride={self.stride}, length={self.length}, crop={self.crop})"
        )

    def result(self, video: Video) -> Path:
        return self._outputs.trajectories(video.name, self.length)

    def is_packed(self, video: Video) -> bool:
        return self._packs.has_trajectories(video.name, self.length)

    def usable(self, entry: os.DirEntry[str]) -> bool:
        if entry.stat().st_size > LARGEST_EMPTY:
            return True
        try:
            return StoredTrajectories(entry.path).windows > 0
        except BadInput:
            return True  # reported when it is read

    def item(self, video: Video, generator: torch.Generator | None = None) -> dict[str, Any]:
        stored = self._load(video)
        size = frame_size(stored, video.source)
        window = self._sampling.window(video, size, self._starts(stored), generator)
        numbers = self._sampling.numbers(window)
        chosen = stored.read([min(number, stored.windows - 1) for number in numbers[::TUBE]])
        every = list(range(len(chosen.traj_type)))
        displacements, types = windows_of(chosen, every, window)
        key_frames = KeyFrames.from_stored(stored.made.get("source", {}).get("key_frames"))
        shown = numbers_in_video(numbers, stored.made.get("flow", {}), stored.made.get("source", {}))
        item = {
            "frames": torch.from_numpy(
                read_clip(video.source, shown, size, window, key_frames, self._sampling.reader)
            ),
            "trajectories": torch.from_numpy(displacements),
            "types": torch.from_numpy(types),
        }
        if chosen.traj_conf is not None:
            item["confidence"] = torch.from_numpy(confidence_of(chosen, every, window))
        return item

    def _load(self, video: Video) -> StoredTrajectories:
        path = self.result(video)
        if self.is_packed(video) and not path.is_file():
            tar, row = self._packs.videos[video.name]
            member = row.member(PACKED_TRAJECTORIES)
            assert member is not None
            trajectories = StoredTrajectories(tar, member.offset, member.size)
        else:
            trajectories = StoredTrajectories(path)
        if trajectories.length != self.length:
            raise BadInput(f"{path}: its trajectories have {trajectories.length} steps, not {self.length}")
        if trajectories.made.get("settings", {}).get("job") == "trajs":
            raise UsageError(
                f"{path}: made by job trajs, which has no window at every frame; use trajs_dense"
            )
        return trajectories

    def _starts(self, trajectories: StoredTrajectories) -> int:
        """Number of frames at which a clip can start: its last window and its last frame must exist."""
        windows = trajectories.windows
        return min(
            windows - self.stride * (self.frames - TUBE),
            windows + self.length - self.stride * (self.frames - 1),
        )


def frame_size(trajectories: StoredTrajectories, source: str) -> tuple[int, int]:
    """Height and width in pixels of the frames from which the trajectories were made.

    From the file's provenance, or else the video's own size.
    """
    made = trajectories.made.get("source", {})
    if made.get("width") and made.get("height"):
        return made["height"], made["width"]
    height, width = next(colour_frames(source, [0]), np.empty((0, 0))).shape[:2]
    if (height // GRID, width // GRID) != trajectories.grid:
        raise BadInput(
            f"{source}: frames of {width}x{height} do not fit trajectories on a grid of "
            f"{trajectories.grid[1]}x{trajectories.grid[0]}"
        )
    return height, width


def windows_of(
    trajectories: Trajectories, starts: list[int], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """The windows that start at `starts`, cropped and flipped.

    Returns int8 [t · L, h//8, w//8, 2] and uint8 [t, h//8, w//8]; see `TrajectoryClips`.
    """
    length = trajectories.length
    rows = slice(window.top // GRID, (window.top + window.height) // GRID)
    columns = slice(window.left // GRID, (window.left + window.width) // GRID)
    shape = (len(starts), window.height // GRID, window.width // GRID)
    chosen = [min(start, len(trajectories.traj_type) - 1) for start in starts]
    steps = trajectories.traj_feat[:, chosen, rows, columns].reshape(2, length, *shape)
    types = trajectories.traj_type[chosen, rows, columns]
    if window.flip:
        steps, types = steps[..., ::-1].copy(), types[..., ::-1]
        steps[0] *= -1
    types = types * _stays_inside(steps, window.height, window.width)
    # [2, L, t, i, j] -> [t, L, i, j, 2]
    ordered = steps.transpose(2, 1, 3, 4, 0).reshape(len(starts) * length, *shape[1:], 2)
    return np.ascontiguousarray(ordered, np.int8), types.astype(np.uint8)


def confidence_of(trajectories: Trajectories, starts: list[int], window: Window) -> np.ndarray:
    """The confidence of the windows that start at `starts`, cropped and flipped: uint8 [t · L, h//8, w//8].

    The file must have it.
    """
    assert trajectories.traj_conf is not None
    rows = slice(window.top // GRID, (window.top + window.height) // GRID)
    columns = slice(window.left // GRID, (window.left + window.width) // GRID)
    chosen = [min(start, len(trajectories.traj_type) - 1) for start in starts]
    values = trajectories.traj_conf[:, chosen, rows, columns].swapaxes(0, 1)
    values = values.reshape(-1, *values.shape[2:])
    return np.ascontiguousarray(values[..., ::-1] if window.flip else values, np.uint8)


def _stays_inside(steps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether P_0 … P_{L−1} lie inside the crop: displacements int8 [2, L, t, i, j] -> bool [t, i, j]."""
    inside = np.ones(steps.shape[2:], bool)
    rows, columns = steps.shape[3:]
    for axis, side in ((0, width), (1, height)):
        first = GRID // 2 + GRID * np.arange(columns if axis == 0 else rows)
        position = np.broadcast_to(first if axis == 0 else first[:, None], steps.shape[2:])
        for step in steps[axis, :-1]:
            position = position + step
            inside &= (position >= 0) & (position <= side - 1)
    return inside
