"""The videos of a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
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


def read_list(list_file: Path | str, root: Path | str = ".", parts: int = 3) -> list[Video]:
    """The videos of a list file, in its order.

    Three forms are read: `path label` lines separated by one space (the label may be absent, more columns
    may follow), a plain list of paths, and a CSV whose header has a column `path` or `video` (paths with
    spaces need this form). Relative paths are taken from `root`. Whether the videos exist is not looked
    up: for a large data set on a network file system that would take minutes.

    Raises
    ------
    UsageError: every problem of the list, a line each.
    """
    videos, problems = _videos(Path(list_file), None, root, parts)
    problems += _clashes(videos)
    if not videos and not problems:
        raise UsageError(f"{list_file}: the list is empty; it needs one video a line")
    _refuse(Path(list_file), problems)
    return videos


def read_list_part(list_file: Path, part: Part, root: Path | str = ".", parts: int = 3) -> list[Video]:
    """The videos of a part of a list file: a job pays for its own videos, not for the whole list.

    Raises UsageError for lines that cannot be read; what only the whole list shows is not looked for.
    """
    videos, problems = _videos(list_file, part, root, parts)
    _refuse(list_file, problems)
    return videos


def videos_of(what: Path | str, root: Path | str = ".", parts: int = 3) -> list[Video]:
    """The videos of a list file, or the one video (a file or a folder of frame images) that `what` is."""
    path = Path(what)
    try:
        given = path if path.exists() else Path(root) / path
        found = given.exists()
        is_list = found and _is_list(given)
    except OSError as error:
        raise UsageError(f"{os.fspath(what)[:200]}: no such list file or video ({error.strerror})") from error
    if not found:
        raise UsageError(f"{what}: no such list file or video (also looked in the root {root})")
    if is_list:
        return read_list(given, root, parts)
    name, problem = output_name(os.fspath(path), parts)
    if problem:
        raise UsageError(f"{what}: {problem}")
    return [Video(os.fspath(given), name)]


def _videos(
    list_file: Path, part: Part | None, root: Path | str, parts: int
) -> tuple[list[Video], list[tuple[int, str]]]:
    if parts < 1:
        raise UsageError(f"layout.parts is {parts}; it must be 1 or more")
    root = os.fspath(root)
    videos: list[Video] = []
    problems: list[tuple[int, str]] = []
    for entry in read_entries(list_file, problems, part):
        name, problem = output_name(entry.path, parts)
        if problem:
            problems.append((entry.line, problem))
        else:
            source = os.path.join(root, entry.path)  # noqa: PTH118 (10x faster)
            videos.append(Video(source, name, entry.label, entry.line))
    return videos, problems


def _refuse(list_file: Path, problems: list[tuple[int, str]]) -> None:
    if problems:
        raise UsageError("\n".join(f"{list_file}:{line}: {text}" for line, text in sorted(problems)))


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
