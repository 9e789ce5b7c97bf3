"""Videos below a folder that is given in place of a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from m3flow.layout import is_output_folder
from m3flow.videos.listfile import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def is_video(folder: Path) -> bool:
    """Whether a folder is one video stored as frame images: it contains images and no videos."""
    found = {suffix_of(name) for name in os.listdir(folder)}
    return bool(found & IMAGE_SUFFIXES) and not found & VIDEO_SUFFIXES


def videos_below(folder: Path) -> list[str]:
    """Sorted paths, relative to `folder`, of all video files below it; of its folders of images if there are none.

    Hidden files and folders and output folders of m3flow are skipped. Links are followed.
    """
    files: list[str] = []
    image_folders: list[str] = []
    for path, names in _walk(folder):
        below = os.path.relpath(path, folder)
        found = [name for name in names if suffix_of(name) in VIDEO_SUFFIXES]
        files += [os.path.normpath(os.path.join(below, name)) for name in found]  # noqa: PTH118
        if any(suffix_of(name) in IMAGE_SUFFIXES for name in names):
            image_folders.append(below)
    return sorted(files or image_folders)


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (pathlib keeps every name in memory)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(path, file names) of a folder and of those below it, each once however often it is linked."""
    seen: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(path)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen or is_output_folder(folders):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, [name for name in files if not name.startswith(".")]
