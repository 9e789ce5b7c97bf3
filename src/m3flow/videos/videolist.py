"""The videos of a list."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from m3flow.errors import UsageError
from m3flow.layout import conflicting_names, output_name
from m3flow.videos.listfile import Part, read_entries

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
LIST_SUFFIXES = frozenset({".csv", ".list", ".lst", ".tsv", ".txt"})


@dataclass(frozen=True, slots=True)
class Video:
    """One entry of the list.

    Attributes
    ----------
    source: the path of the video file or of the folder of frame images, as it can be opened.
    name: the last parts of its path, joined by "/": what its outputs are called.
    label: what stands behind the path in the list, or "".
    line: its line in the list, from 1.
    """

    source: str
    name: str
    label: str = ""
    line: int = 1


@dataclass(frozen=True)
class VideoList:
    """A list of videos, and how its entries are read.

    Attributes
    ----------
    file: a list file, or one video: a file or a folder of frame images. Looked for in `root` where it is not
        in the working folder.
    root: the folder that relative paths of the list are taken from.
    parts: the number of last parts of a video's path that name its outputs.
    exclude: a table of `m3flow verify --input`, whose rejected videos are left out, or a list of videos, all
        of which are left out.

    Raises
    ------
    UsageError: parts below 1.
    """

    file: Path
    root: Path = Path()
    parts: int = 3
    exclude: Path | None = None

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise UsageError(f"layout.parts is {self.parts}; it must be 1 or more")

    @property
    def name(self) -> str:
        """The file's name, which names the files of its shards."""
        return self.file.name

    @cached_property
    def location(self) -> Path:
        """The list file or the video where it exists.

        Raises UsageError where it does not.
        """
        try:
            location = self.file if self.file.exists() else self.root / self.file
            found = location.exists()
        except OSError as error:
            name = os.fspath(self.file)[:200]
            raise UsageError(f"{name}: no such list file or video ({error.strerror})") from error
        if not found:
            beside = "" if self.file.is_absolute() else f" (also looked in the root {self.root})"
            raise UsageError(f"{self.file}: no such list file or video{beside}")
        return location

    def read(self) -> list[Video]:
        """The videos in the order of the list, without the excluded ones.

        Three forms are read: `path label` lines separated by one space (the label may be absent, more columns
        may follow), a plain list of paths, and a CSV whose header has a column `path` or `video` (paths with
        spaces need this form). Whether the videos exist is not checked: for a large data set on a network
        file system that would take minutes.

        Raises
        ------
        UsageError: every problem of the list, one line each; an exclusion that leaves no video.
        """
        videos = self._listed() if _is_list(self.location) else self._one_video()
        if self.exclude is None:
            return videos
        excluded = self.excluded_names()
        left = [video for video in videos if video.name not in excluded]
        if videos and not left:
            raise UsageError(f"{self.exclude}: leaves none of the {len(videos)} videos of the list")
        return left

    def read_part(self, part: Part) -> list[Video]:
        """The videos of a part of the list file: a job reads its own lines, not the whole list.

        Raises UsageError for lines that cannot be read; clashes between parts are not looked for.
        """
        videos, problems = self._entries(part)
        self._refuse(problems)
        excluded = self.excluded_names()
        return [video for video in videos if video.name not in excluded]

    def excluded_names(self) -> set[str]:
        """The output names that `exclude` leaves out."""
        if self.exclude is None:
            return set()
        rejected = _rejected_in(self.exclude)
        if rejected is not None:
            return rejected
        return {video.name for video in VideoList(self.exclude, parts=self.parts).read()}

    def _one_video(self) -> list[Video]:
        name, problem = output_name(os.fspath(self.file), self.parts)
        if problem:
            raise UsageError(f"{self.file}: {problem}")
        return [Video(os.fspath(self.location), name)]

    def _listed(self) -> list[Video]:
        videos, problems = self._entries()
        problems += _clashes(videos)
        if not videos and not problems:
            raise UsageError(f"{self.location}: the list is empty; it needs one video a line")
        self._refuse(problems)
        return videos

    def _entries(self, part: Part | None = None) -> tuple[list[Video], list[tuple[int, str]]]:
        root = os.fspath(self.root)
        videos: list[Video] = []
        problems: list[tuple[int, str]] = []
        for entry in read_entries(self.location, problems, part):
            name, problem = output_name(entry.path, self.parts)
            if problem:
                problems.append((entry.line, problem))
            else:
                source = os.path.join(root, entry.path)  # noqa: PTH118 (10x faster)
                videos.append(Video(source, name, entry.label, entry.line))
        return videos, problems

    def _refuse(self, problems: list[tuple[int, str]]) -> None:
        if problems:
            raise UsageError("\n".join(f"{self.location}:{line}: {text}" for line, text in sorted(problems)))


def _rejected_in(path: Path) -> set[str] | None:
    """The names that a table of `m3flow verify --input` rejects; None for any other file."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            columns = file.readline().strip().split(",")
            if not {"video", "verdict"} <= set(columns):
                return None
            return {row["video"] for row in csv.DictReader(file, columns) if row["verdict"] == "rejected"}
    except OSError as error:
        raise UsageError(f"{path}: cannot read the list of what to leave out: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{path}: not a table of videos: {error}") from error


def _clashes(videos: list[Video]) -> Iterator[tuple[int, str]]:
    """(line, problem) for every video that is listed twice or would write another one's output."""
    by_name: dict[str, Video] = {}
    for video in videos:
        first = by_name.setdefault(video.name, video)
        if first is video:
            continue
        if os.path.normpath(first.source) == os.path.normpath(video.source):
            yield video.line, f"duplicate video {video.source!r}, first on line {first.line}"
        else:
            yield (
                video.line,
                f"{video.source!r} would write the same output {video.name!r} as line "
                f"{first.line} ({first.source!r}); raise layout.parts",
            )
    for video in videos:
        for other in conflicting_names(video.name):
            if other in by_name:
                line = by_name[other].line
                yield video.line, f"{video.name!r} would write over the outputs of {other!r} (line {line})"


def _is_list(path: Path) -> bool:
    if path.suffix.lower() in LIST_SUFFIXES:
        return True
    if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
        return False
    # What comes through a pipe can be read only once, and is a list.
    return not path.is_file() or not _is_binary(path)


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(4096)
