"""Content fingerprint of a source video: its size and a hash of parts of its content, not its path or time."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from m3flow.errors import BadInput
from m3flow.videos.folder import IMAGE_SUFFIXES

# Beginning, middle and end are enough to distinguish videos without reading them in full.
PART_BYTES = 16 * 1024
# A file system that is unavailable, not a bad file: the video is marked failed, and the next run retries it.
SYSTEM_ERRORS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)


def identity(path: str | Path) -> dict[str, Any]:
    """The fingerprint of a video file or a folder of frame images: {"bytes": …, "sha256": …}.

    It is unchanged when the data set is copied. For a file, the hash covers 16 KiB at the beginning, in the
    middle and at the end; for a folder, the names and sizes of its images and these parts of each.

    Raises BadInput if the file is missing or unreadable, OSError if the file system failed.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            size = 0
            for name in image_names(path):
                part = _hash_parts(path / name, digest)
                digest.update(f"{name}\0{part}\0".encode(errors="surrogateescape"))
                size += part
        else:
            size = _hash_parts(path, digest)
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {os.fspath(path)!r}") from error
    except OSError as error:
        if error.errno in SYSTEM_ERRORS:
            raise
        raise BadInput(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    return {"bytes": size, "sha256": digest.hexdigest()[:32]}


def image_names(folder: Path) -> list[str]:
    """The frame images of a folder, sorted by name, without hidden files (such as macOS's "._" files)."""
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    return sorted(name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _hash_parts(path: Path, digest: hashlib._Hash) -> int:
    if not path.is_file():
        path.stat()  # raises the reason if it is missing
        raise OSError(errno.EINVAL, "not a file")  # opening a pipe would wait for a writer
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for start in (0, (size - PART_BYTES) // 2, size - PART_BYTES):
            file.seek(max(0, start))
            digest.update(file.read(PART_BYTES))
    return size


def stamp(path: str) -> tuple[int, int] | None:
    """(size in bytes, modification time in ns) of a file, to detect changes; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def stamp_text(found: tuple[int, int] | None) -> str:
    """A `stamp` as the records hold it; "" where there is no file."""
    return f"{found[0]}:{found[1]}" if found else ""


def file_size(path: str) -> int:
    """The size of a file in bytes; 0 if it does not exist."""
    found = stamp(path)
    return found[0] if found else 0
