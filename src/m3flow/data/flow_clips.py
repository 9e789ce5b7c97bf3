"""Clips with their flow, for two-stream models."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3flow.data.labelled_videos import LabelledVideos
from m3flow.data.sampling import Sampling, Window, read_clip
from m3flow.errors import BadInput
from m3flow.layout import FLOW_FILES, Outputs
from m3flow.results.forms import form_in, quantisation_of
from m3flow.results.quantisation import Quantisation
from m3flow.videos.frame_rate import numbers_in_video
from m3flow.videos.key_frames import KeyFrames, Reader
from m3flow.videos.videolist import Video, VideoList


class FlowClips(LabelledVideos):
    """Clips of T frames with the stored flow at each of them, for two-stream models.

    An item is a dict:

    - frames: uint8 [T, 3, h, w], RGB; absent with `pictures=False`
    - flow: float32 [T, 2, h, w] in pixels, channel 0 = x (right), channel 1 = y (down)
    - label: int, the number of the video's class in `classes`; -1 for a video without a label
    - name: its output name

    A stack of ten consecutive flow fields, as in Simonyan and Zisserman ("Two-Stream Convolutional Networks for Action
    Recognition in Videos", 2014), is `flow.flatten(0, 1)` with `frames=10, stride=1`: [20, h, w], with alternating
    channels x and y.

    Convention
    ----------
    Flow t is the motion of the pixels of frame t. It goes from that frame to the one `flow.step` frames later,
    whatever the clip's stride. A flip mirrors frames and flow, and changes the sign of the flow in x.

    Frames have the size of the flow (`flow.short_side`). If a clip extends beyond the end of the flow, the last
    frame and its flow are repeated.

    Parameters
    ----------
    list_file, root, parts: the list of videos, see `m3flow.videos.videolist.VideoList`.
    output: the output folder of `m3flow flow`.
    frames: T. stride: the distance between a clip's frames in the video.
    crop: height and width of the crop in pixels; None: the whole frame.
    flip: the probability of a flip; set 0 if labels depend on left and right.
    random: draw start, crop and flip at random (from torch's generator, which a DataLoader seeds in
        each worker); otherwise the middle of the video, the middle of the frame, no flip.
    pictures: whether items have frames; without them the videos are not needed.
    classes, transform, reader: as in `TrajectoryClips`.

    Attributes
    ----------
    videos: those that have flow; labels: their labels, int.
    classes: the labels by their numbers, list of str.
    missing: the names of those without; they are left out.

    Raises
    ------
    UsageError: an invalid parameter; no video of the list has flow; the first videos are not in `root`; a label
        that is not in `classes`; when an item is read: a crop larger than the frame.
    BadInput: when an item is read: a damaged flow file, a missing or damaged video.
    """

    kind = "flow"

    def __init__(
        self,
        list_file: Path | str,
        output: Path | str,
        *,
        root: Path | str = ".",
        parts: int = 3,
        frames: int = 10,
        stride: int = 1,
        crop: tuple[int, int] | None = (224, 224),
        flip: float = 0.5,
        random: bool = True,
        pictures: bool = True,
        classes: Sequence[str] | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        reader: Reader = "pyav",
    ) -> None:
        self.frames, self.stride, self.crop, self.pictures = frames, stride, crop, pictures
        self._sampling = Sampling(frames, stride, crop, flip, random, reader=reader)
        listed, outputs = VideoList(Path(list_file), Path(root), parts), Outputs(Path(output))
        super().__init__(listed, outputs, classes, transform, needs_videos=pictures)

    def __repr__(self) -> str:
        return (
            f"FlowClips({len(self.videos)} videos, {len(self.missing)} without flow, "
            f"frames={self.frames}, stride={self.stride}, crop={self.crop})"
        )

    def result(self, video: Video) -> Path:
        return self._outputs.flow(video.name)

    def is_packed(self, video: Video) -> bool:
        return any(self._packs.has_flow(video.name, form) for form in FLOW_FILES)

    def usable(self, entry: os.DirEntry[str]) -> bool:
        return entry.is_dir()

    def item(self, video: Video, generator: torch.Generator | None = None) -> dict[str, Any]:
        folder = self._readable.flow(video.name)
        form = form_in(folder)
        made = form.made(form.files(folder)[0])
        count = form.frames(folder)
        if count < 1:
            raise BadInput(f"{folder}: the flow files have no frames")
        size = frame_size(made, folder)
        reach = self.stride * (self.frames - 1)
        window = self._sampling.window(video, size, count - reach, generator)
        numbers = self._sampling.numbers(window)
        levels = _levels(folder, numbers, count)
        item = {"flow": torch.from_numpy(cut_flow(levels, window, quantisation_of(made.get("settings", {}))))}
        if self.pictures:
            # Backward flow starts at the later frame of each pair.
            later = max(0, -int(made.get("settings", {}).get("step", 1)))
            existing = [min(number, count - 1) + later for number in numbers]
            key_frames = KeyFrames.from_stored(made.get("source", {}).get("key_frames"))
            existing = numbers_in_video(existing, made.get("settings", {}), made.get("source", {}))
            item["frames"] = torch.from_numpy(
                read_clip(video.source, existing, size, window, key_frames, self._sampling.reader)
            )
        return item


def frame_size(made: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Height and width of the flow in pixels, from the provenance or else from the first frame."""
    source = made.get("source", {})
    if source.get("width") and source.get("height"):
        return source["height"], source["width"]
    height, width = next(form_in(folder).read(folder, 0, 1)).shape[2:]
    return height, width


def cut_flow(levels: np.ndarray, window: Window, quantisation: Quantisation) -> np.ndarray:
    """The window of levels uint8 [T, 2, H, W], flipped if the window is: float32 [T, 2, h, w] pixels."""
    rows = slice(window.top, window.top + window.height)
    flow = quantisation.pixels(levels[..., rows, window.left : window.left + window.width])
    if not window.flip:
        return flow
    return flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]


def _levels(folder: Path, numbers: list[int], count: int) -> np.ndarray:
    """The levels uint8 [T, 2, H, W] at these frames; beyond the end the last one is repeated."""
    existing = [min(number, count - 1) for number in numbers]
    first = existing[0]
    part = np.concatenate(list(form_in(folder).read(folder, first, existing[-1] + 1)))
    return part[[number - first for number in existing]]
