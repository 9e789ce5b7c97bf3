"""A list of videos, with an output name for each."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from m3flow.atomic import complete_or_absent
from m3flow.errors import UsageError
from m3flow.layout import conflicting_names, output_name
from m3flow.videos import folder
from m3flow.videos.listfile import (
    SPREADSHEET_SUFFIXES,
    VIDEO_SUFFIXES,
    Entry,
    Part,
    read_entries,
    sample_entries,
)

LIST_SUFFIXES = frozenset({".csv", ".list", ".lst", ".tsv", ".txt", ".gz"}) | SPREADSHEET_SUFFIXES
PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Video:
    """One video of the list.

    Attributes
    ----------
    source: the path of the video file or the folder of frame images, as it can be opened.
    name: its output name: the last parts of its path, joined by "/".
    label: the text after the path in the list, or "".
    line: its line number in the list, from 1.
    """

    source: str
    name: str
    label: str = ""
    line: int = 1


@dataclass(frozen=True)
class VideoList:
    """A list of videos and the options for reading it.

    Attributes
    ----------
    file: a list file; a folder, whose videos are listed; or one video: a file or a folder of frame images.
        If it is not found in the working folder, `root` is searched too.
    root: the folder to which relative paths of the list refer.
    parts: the number of trailing parts of a video's path that make up its output name.
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
        """The file's name, used for the files of its shards."""
        return os.path.basename(os.path.abspath(self.file))  # noqa: PTH100, PTH119 (links stay)

    @cached_property
    def location(self) -> Path:
        """The existing path of the list file or the video.

        Raises UsageError if there is none.
        """
        try:
            location = self.file if self.file.exists() else self.root / self.file
            found = location.exists()
        except OSError as error:
            name = os.fspath(self.file)[:200]
            raise UsageError(f"{name}: no such list file or video ({error.strerror})") from error
        if not found:
            beside = "" if self.file.is_absolute() else f" (also looked in the root {self.root})"
            raise UsageError(
                f"{self.file}: no such list file or video{beside}; it is named by LIST, or by videos in config.yaml"
            )
        return location

    @cached_property
    def kind(self) -> Literal["list", "folder", "video"]:
        """Whether `file` is a list file, a folder with videos below it, or one video."""
        if _is_list(self.location):
            return "list"
        return "folder" if self.location.is_dir() and not folder.is_video(self.location) else "video"

    def read(self) -> list[Video]:
        """The videos in the order of the list, without the excluded ones.

        Supported formats, optionally gzip-compressed: `path label` lines separated by one space or a tab (the
        label may be absent, more columns may follow), a plain list of paths, and a CSV, separated by commas,
        semicolons or tabs, whose header has a column `path` or `video`. Empty lines and lines starting with
        `#` are skipped. For a folder, all videos below it are listed, with paths that begin with its name.

        Whether the videos exist is not checked: for a large data set on a network file system that would take
        minutes.

        Raises
        ------
        UsageError: the first problems of the list, one line each; an exclusion that leaves no video.
        """
        videos, problems = self._videos()
        problems += _clashes(videos)
        if not videos and not problems:
            if self.kind == "folder":
                raise UsageError(f"{self.location}: there is no video below this folder")
            raise UsageError(f"{self.location}: the list is empty; it needs one video per line")
        self._refuse(problems)
        if self.exclude is None:
            return videos
        excluded = self.excluded_names()
        left = [video for video in videos if video.name not in excluded]
        if videos and not left:
            raise UsageError(f"{self.exclude}: leaves none of the {len(videos)} videos of the list")
        return left

    def sample(self, count: int) -> list[str]:
        """The sources of about `count` videos spread evenly over the list, without reading all of a list file."""
        if self.kind == "list":
            entries: Sequence[Entry] = sample_entries(self.location, count)
        else:
            whole = list(self._entries([]))
            count = min(count, len(whole))
            entries = [whole[len(whole) * number // count] for number in range(count)]
        return [self._source(entry.path) for entry in entries]

    def in_file(self, file: Path, *, renew: bool = True) -> VideoList:
        """The same videos as a list file, of which jobs read parts: itself, or `file` for a folder or a video.

        If `renew` is false, an existing `file` is used as it is and the folder is not searched again.
        """
        if self.kind == "list":
            return self
        if renew or not file.is_file():
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL)
            writer.writerows([["path"], *([entry.path] for entry in self._entries([]))])
            content = text.getvalue().encode(errors="surrogateescape")
            if not file.is_file() or file.read_bytes() != content:
                with complete_or_absent(file) as (temporary,):
                    temporary.write_bytes(content)
        return replace(self, file=file, root=Path(self._source("")))

    def read_part(self, part: Part) -> list[Video]:
        """The videos of a part of the list file: a job reads its own lines, not the whole list.

        Raises UsageError for invalid lines; name clashes between parts are not detected.
        """
        videos, problems = self._videos(part)
        self._refuse(problems)
        excluded = self.excluded_names()
        return [video for video in videos if video.name not in excluded]

    def excluded_names(self) -> set[str]:
        """The output names to leave out, from `exclude`."""
        if self.exclude is None:
            return set()
        rejected = _rejected_in(self.exclude)
        if rejected is not None:
            return rejected
        return {video.name for video in VideoList(self.exclude, parts=self.parts).read()}

    def _videos(self, part: Part | None = None) -> tuple[list[Video], list[tuple[int, str]]]:
        videos: list[Video] = []
        problems: list[tuple[int, str]] = []
        for entry in self._entries(problems, part):
            name, problem = output_name(entry.path, self.parts)
            if problem:
                problems.append((entry.line, problem))
            else:
                videos.append(Video(self._source(entry.path), name, entry.label, entry.line))
        return videos, problems

    def _entries(self, problems: list[tuple[int, str]], part: Part | None = None) -> Iterator[Entry]:
        if self.kind == "list":
            yield from read_entries(self.location, problems, part)
        elif self.kind == "video":
            yield Entry(1, 0, os.fspath(self.file), "")
        else:
            # Line 1 is the header of the list that `in_file` writes.
            for line, path in enumerate(folder.videos_below(self.location), 2):
                yield Entry(line, 0, f"{self.name}/{path}", "")

    def _source(self, path: str) -> str:
        """The location of the video with this path in the list; for "" the folder to which such paths refer."""
        return os.path.join(self._base, path)  # noqa: PTH118 (10x faster)

    @cached_property
    def _base(self) -> str:
        if self.kind == "list":
            return os.fspath(self.root)
        if self.kind == "video":
            return "" if self.location == self.file else os.fspath(self.root)
        return os.path.dirname(os.path.abspath(self.location))  # noqa: PTH100, PTH120 (links stay)

    def _refuse(self, problems: list[tuple[int, str]]) -> None:
        if problems and self.kind == "video":
            raise UsageError(f"{self.file}: {problems[0][1]}")
        lines = [f"{self.location}:{line}: {text}" for line, text in sorted(problems)]
        if len(lines) > PROBLEMS_SHOWN + 1:
            left = len(lines) - PROBLEMS_SHOWN
            lines[PROBLEMS_SHOWN:] = [
                f"{self.location}: {left:,} more lines have problems; is it a list of videos?"
            ]
        if lines:
            raise UsageError("\n".join(lines))


def _rejected_in(path: Path) -> set[str] | None:
    """The names of the rejected videos in a table of `m3flow verify --input`; None for any other file."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            columns = file.readline().strip().split(",")
            if not {"video", "verdict"} <= set(columns):
                return None
            return {row["video"] for row in csv.DictReader(file, columns) if row["verdict"] == "rejected"}
    except OSError as error:
        raise UsageError(f"{path}: cannot read the list to exclude: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{path}: not a table of videos: {error}") from error


def _clashes(videos: list[Video]) -> Iterator[tuple[int, str]]:
    """(line, problem) for every video that is listed twice or would overwrite another video's outputs."""
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
                f"{first.line} ({first.source!r}); keep more parts of the paths (--parts, layout.parts)",
            )
    for video in videos:
        for other in conflicting_names(video.name):
            if other in by_name:
                line = by_name[other].line
                yield video.line, f"{video.name!r} would overwrite the outputs of {other!r} (line {line})"


def _is_list(path: Path) -> bool:
    if path.suffix.lower() in LIST_SUFFIXES:
        return True
    if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
        return False
    # A pipe can be read only once; it must be a list.
    return not path.is_file() or not _is_binary(path)


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(4096)
