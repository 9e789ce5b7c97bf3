"""The videos of a list that have results, with their labels as integers."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from m3flow.errors import UsageError
from m3flow.layout import Outputs
from m3flow.packs.store import Packs, with_packs
from m3flow.videos.videolist import Video, VideoList

LOOKED_FOR = 5  # number of videos whose files must exist before training starts
UNLABELLED = -1
MOST_CLASSES = 100_000  # larger integers count as names, such as a video's number


class LabelledVideos(Dataset[dict[str, Any]]):
    """Base of the datasets: the videos of a list that have results; their labels; the transform of an item.

    A subclass defines the name of its results (`kind`), their path for a video (`result`), whether they are
    usable (`usable`), and the item (`item`).
    """

    kind = "results"

    def __init__(
        self,
        listed: VideoList,
        outputs: Outputs,
        classes: Sequence[str] | None,
        transform: Callable[[dict[str, Any]], Any] | None,
        *,
        needs_videos: bool = True,
    ) -> None:
        self._outputs, self._transform = outputs, transform
        self._packs, self._readable = Packs(outputs), with_packs(outputs)
        videos = listed.read()
        made = self._made(videos)
        self.videos = [video for video in videos if video.name in made]
        self.missing = [video.name for video in videos if video.name not in made]
        if not self.videos:
            raise UsageError(
                f"none of the {len(videos)} videos of {listed.file} has {self.kind} in {outputs.folder}; its first "
                f"is looked for at {self.result(videos[0])}"
            )
        if needs_videos:
            _refuse_wrong_root(self.videos[:LOOKED_FOR], listed.root)
        self.classes = classes_of(videos) if classes is None else list(classes)
        self.labels = labels_of(self.videos, self.classes)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Any:
        return self.draw(index)

    def draw(self, index: int, generator: torch.Generator | None = None) -> Any:
        """An item, drawn at random by `generator`; by torch's global one where none is given."""
        video = self.videos[index]
        item = {**self.item(video, generator), "label": self.labels[index], "name": video.name}
        return item if self._transform is None else self._transform(item)

    @abstractmethod
    def result(self, video: Video) -> Path:
        """The file or folder of a video's results."""

    @abstractmethod
    def is_packed(self, video: Video) -> bool:
        """Whether a pack holds the results of a video."""

    @abstractmethod
    def usable(self, entry: os.DirEntry[str]) -> bool:
        """Whether the results at this entry can give an item, as far as a cheap check can tell."""

    @abstractmethod
    def item(self, video: Video, generator: torch.Generator | None = None) -> dict[str, Any]:
        """An item without its label and name."""

    def _made(self, videos: list[Video]) -> set[str]:
        """The names of the videos with usable results, with one directory listing per folder, not one stat per file."""
        folders: dict[Path, dict[str, str]] = defaultdict(dict)
        for video in videos:
            path = self.result(video)
            folders[path.parent][path.name] = video.name
        found = {video.name for video in videos if self.is_packed(video)}
        for folder, names in folders.items():
            try:
                with os.scandir(folder) as entries:
                    found |= {names[e.name] for e in entries if e.name in names and self.usable(e)}
            except FileNotFoundError:
                continue
        return found


def _refuse_wrong_root(videos: list[Video], root: Path) -> None:
    if not any(Path(video.source).exists() for video in videos):
        raise UsageError(
            f"no such file: {videos[0].source!r}, nor the next {len(videos) - 1} videos of the list; "
            f"root is {os.fspath(root)!r}"
        )


def classes_of(videos: list[Video]) -> list[str]:
    """The labels of a list by number: integers are kept, names are numbered in sorted order."""
    texts = {video.label for video in videos if video.label}
    if all(text.isdecimal() for text in texts):
        largest = max(map(int, texts), default=-1)
        if largest < MOST_CLASSES:
            return [str(number) for number in range(largest + 1)]
    return sorted(texts)


def labels_of(videos: list[Video], classes: list[str]) -> list[int]:
    """The number of each video's label among the classes; -1 for a video without a label.

    Raises UsageError for labels that are not among the classes.
    """
    numbers = {text: number for number, text in enumerate(classes)} | {"": UNLABELLED}
    texts = [str(int(video.label)) if video.label.isdecimal() else video.label for video in videos]
    # A class may be named "007".
    texts = [
        video.label if video.label in numbers else text for video, text in zip(videos, texts, strict=True)
    ]
    unknown = sorted({text for text in texts if text not in numbers})
    if unknown:
        raise UsageError(
            f"{len(unknown)} labels of the list are not among the {len(classes)} classes, such as {unknown[0]!r}"
        )
    return [numbers[text] for text in texts]
