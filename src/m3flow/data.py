"""Clips with their trajectories for training, as a torch Dataset."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.results.trajectoryfile import Trajectories, load_trajectories
from m3flow.trajectories.tracking import GRID
from m3flow.videos.frames import colour_frames, resize
from m3flow.videos.videolist import Video, VideoList

TUBE = 2
"""Frames a token of the masked autoencoders: there are trajectories for every second frame of a clip."""


@dataclass(frozen=True)
class Window:
    """Which part of a video an item shows.

    Attributes
    ----------
    start: the clip's first frame.
    left, top, width, height: the crop in pixels, all multiples of 8.
    flip: whether left and right are exchanged.
    """

    start: int
    left: int
    top: int
    width: int
    height: int
    flip: bool


class TrajectoryClips(Dataset[dict[str, Any]]):
    """Clips of T frames with the trajectories of every second frame.

    An item is a dict:

    - frames: uint8 [T, 3, h, w], RGB
    - trajectories: int8 [T/2 · L, h//8, w//8, 2], displacements in pixels, (x, y): the L steps of the first
      window, then those of the second, …, one window for the clip's frames 0, 2, 4, …
    - types: uint8 [T/2, h//8, w//8], 1 where the points P_0 … P_{L−1} all lie inside the crop
    - label, name: as in the list

    The order of the axes is that of MME's pre-training (Sun et al., CVPR 2023), which divides by 20.

    Convention
    ----------
    The trajectory at [.., i, j, :] starts at the pixel with x = 4 + 8j, y = 4 + 8i of the item's own frames,
    cropped and flipped. A crop is moved in steps of 8 pixels for this. A flip takes the pixel x of a crop
    of width w to w − 1 − x, and so 4 + 8j to 3 + 8(w/8 − 1 − j), which is not on the grid; therefore the
    frames of a flipped item are cut one pixel further to the right, and the points fall on the grid exactly.
    Only where the crop takes the frame's whole width there is no such pixel: the last column stands in
    for it. A flip changes the sign of the x displacements. L counts the video's own frames, whatever the
    clip's stride: a trajectory spans frames n to n + L.

    Near a video's end a window that would go beyond it is replaced by the last one, and frames beyond it by
    the last one of the clip, as in MME. Of a video with no window at all the trajectories and types are 0.

    Parameters
    ----------
    list_file, root, parts: the list of videos, as `m3flow.videos.videolist.VideoList` takes them.
    output: the folder that `m3flow trajectories` wrote into (job trajs_dense or mvs).
    length: L; the files of this length are read.
    frames: T, even.
    stride: the distance of a clip's frames in the video (4 for Kinetics-400, 2 for Something-Something).
    crop: height and width of the crop in pixels, multiples of 8; None: the frame, down to multiples of 8.
    flip: the probability of a flip; set 0 where left and right carry the label.
    random: draw start, crop and flip at random (from torch's generator, which a DataLoader seeds anew in
        each worker); otherwise the middle of the video, the middle of the frame, no flip.

    Attributes
    ----------
    videos: those that have a trajectory file.
    missing: the names of those that have none (rejected, or not made yet); they are left out.

    Raises
    ------
    UsageError: a parameter that cannot be; no video of the list has trajectories of this length; when an
        item is read: a crop larger than the frame, a file of another job.
    BadInput: when an item is read: a damaged trajectory file or video.
    """

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
    ) -> None:
        if frames < TUBE or frames % TUBE:
            raise UsageError(f"frames is {frames}; it must be even and 2 or more")
        if stride < 1:
            raise UsageError(f"stride is {stride}; it must be 1 or more")
        if crop is not None and any(side < GRID or side % GRID for side in crop):
            raise UsageError(f"crop is {crop}; both sides must be multiples of {GRID}")
        if not 0 <= flip <= 1:
            raise UsageError(f"flip is {flip}; it must be a probability")
        self.length, self.frames, self.stride = length, frames, stride
        self.crop, self.flip, self.random = crop, flip, random
        self._outputs = Outputs(Path(output))
        listed = VideoList(Path(list_file), Path(root), parts).read()
        made = self._with_trajectories(listed)
        self.videos = [video for video in listed if video.name in made]
        self.missing = [video.name for video in listed if video.name not in made]
        if not self.videos:
            raise UsageError(
                f"none of the {len(listed)} videos of {list_file} has trajectories in {output}; its first is "
                f"looked for at {self._outputs.trajectories(listed[0].name, length)}"
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = self.videos[index]
        trajectories = self._load(video)
        size = frame_size(trajectories, video.source)
        window = self._window(video, trajectories, size)
        frame_numbers = [window.start + self.stride * t for t in range(self.frames)]
        displacements, types = windows_of(trajectories, frame_numbers[::TUBE], window)
        pictures = read_frames(video.source, frame_numbers, size)
        return {
            "frames": torch.from_numpy(cut(pictures, window)),
            "trajectories": torch.from_numpy(displacements),
            "types": torch.from_numpy(types),
            "label": video.label,
            "name": video.name,
        }

    def __repr__(self) -> str:
        return (
            f"TrajectoryClips({len(self.videos)} videos, {len(self.missing)} without trajectories, "
            f"frames={self.frames}, stride={self.stride}, length={self.length}, crop={self.crop})"
        )

    def _with_trajectories(self, videos: list[Video]) -> set[str]:
        """The names of those that have a trajectory file, by one look into each folder, not one a file."""
        folders: dict[Path, list[Video]] = defaultdict(list)
        for video in videos:
            folders[self._outputs.trajectories(video.name, self.length).parent].append(video)
        found = set()
        for folder, inside in folders.items():
            try:
                names = {path.name for path in folder.iterdir()}
            except FileNotFoundError:
                continue
            for video in inside:
                if self._outputs.trajectories(video.name, self.length).name in names:
                    found.add(video.name)
        return found

    def _load(self, video: Video) -> Trajectories:
        path = self._outputs.trajectories(video.name, self.length)
        trajectories = load_trajectories(path)
        if trajectories.length != self.length:
            raise BadInput(f"{path}: its trajectories have {trajectories.length} steps, not {self.length}")
        if trajectories.made.get("settings", {}).get("job") == "trajs":
            raise UsageError(
                f"{path}: made by job trajs, which has no window at every frame; use trajs_dense"
            )
        return trajectories

    def _window(self, video: Video, trajectories: Trajectories, size: tuple[int, int]) -> Window:
        height, width = self.crop or (size[0] // GRID * GRID, size[1] // GRID * GRID)
        if height > size[0] or width > size[1]:
            raise UsageError(
                f"crop {height}x{width} is larger than the frames of {video.name} ({size[0]}x{size[1]}); "
                "use a smaller crop, or make flow with a larger short_side"
            )
        # The last start for which the clip's last window exists, and its last frame.
        windows = len(trajectories.traj_type)
        last = min(
            windows - self.stride * (self.frames - TUBE),
            windows + self.length - self.stride * (self.frames - 1),
        )
        starts = max(last, 1)
        if not self.random:
            left, top = ((room // GRID) // 2 * GRID for room in (size[1] - width, size[0] - height))
            return Window((starts - 1) // 2, left, top, width, height, flip=False)
        flip = bool(torch.rand(()) < self.flip)
        # A flipped crop is cut one pixel further to the right, where there is one.
        left = GRID * _draw(max(size[1] - width - flip, 0) // GRID + 1)
        top = GRID * _draw((size[0] - height) // GRID + 1)
        return Window(_draw(starts), left, top, width, height, flip)


def _draw(count: int) -> int:
    """A random number from 0 to count − 1, of torch's generator."""
    return int(torch.randint(count, ()))


def frame_size(trajectories: Trajectories, source: str) -> tuple[int, int]:
    """Height and width of the frames that the trajectories were made from, in pixels.

    The file says it; for one that does not, the video's own size is taken.
    """
    made = trajectories.made.get("source", {})
    if made.get("width") and made.get("height"):
        return made["height"], made["width"]
    height, width = next(colour_frames(source, [0]), np.empty((0, 0))).shape[:2]
    if (height // GRID, width // GRID) != trajectories.traj_type.shape[1:]:
        raise BadInput(
            f"{source}: frames of {width}x{height} do not fit trajectories on a grid of "
            f"{trajectories.traj_type.shape[2]}x{trajectories.traj_type.shape[1]}"
        )
    return height, width


def windows_of(
    trajectories: Trajectories, starts: list[int], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """The windows that begin at `starts`, cropped and flipped.

    Returns int8 [t · L, h//8, w//8, 2] and uint8 [t, h//8, w//8]; see `TrajectoryClips`.
    """
    length = trajectories.length
    rows = slice(window.top // GRID, (window.top + window.height) // GRID)
    columns = slice(window.left // GRID, (window.left + window.width) // GRID)
    shape = (len(starts), window.height // GRID, window.width // GRID)
    count = len(trajectories.traj_type)
    if count == 0:
        return np.zeros((len(starts) * length, *shape[1:], 2), np.int8), np.zeros(shape, np.uint8)
    chosen = [min(start, count - 1) for start in starts]
    steps = trajectories.traj_feat[:, chosen, rows, columns].reshape(2, length, *shape)
    types = trajectories.traj_type[chosen, rows, columns]
    if window.flip:
        steps, types = steps[..., ::-1].copy(), types[..., ::-1]
        steps[0] *= -1
    types = types * _stays_inside(steps, window.height, window.width)
    # [2, L, t, i, j] -> [t, L, i, j, 2]
    ordered = steps.transpose(2, 1, 3, 4, 0).reshape(len(starts) * length, *shape[1:], 2)
    return np.ascontiguousarray(ordered, np.int8), types.astype(np.uint8)


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


def cut(pictures: np.ndarray, window: Window) -> np.ndarray:
    """The window's part of uint8 [T, H, W, 3], flipped if it is: uint8 [T, 3, h, w]."""
    rows = slice(window.top, window.top + window.height)
    left = window.left + window.flip
    columns = np.arange(left, left + window.width).clip(max=pictures.shape[2] - 1)
    if window.flip:
        columns = columns[::-1]
    return np.ascontiguousarray(pictures[:, rows, columns].transpose(0, 3, 1, 2))


def read_frames(source: str, numbers: list[int], size: tuple[int, int]) -> np.ndarray:
    """The frames `numbers` (ascending) of a video or a folder of images: uint8 [T, H, W, 3], RGB.

    Frames are counted as `m3flow.videos.frames` does, by decoding from the start. They are resized to `size` (H, W),
    the size that the trajectories were made at; a number beyond the end repeats the frame before it.

    Raises
    ------
    BadInput: the video is missing, or not one of the frames can be decoded.
    """
    height, width = size
    pictures = [resize(picture, width, height) for picture in colour_frames(source, numbers)]
    if not pictures:
        raise BadInput(f"{source}: frame {numbers[0]} cannot be decoded")
    pictures += pictures[-1:] * (len(numbers) - len(pictures))
    return np.stack(pictures)
