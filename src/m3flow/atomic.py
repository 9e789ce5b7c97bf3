"""Atomic writes: a file becomes final by a rename, once it is complete and on disk. No other module does this."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".m3flow-tmp"


@contextmanager
def complete_or_absent(*finals: Path) -> Iterator[list[Path]]:
    """Temporary paths to write to, one for each final path and in the same folder.

    If the block succeeds, they replace the final files. Otherwise they are removed and the final files
    stay untouched. Missing folders are created.
    """
    temporaries = [temporary_for(final) for final in finals]
    try:
        yield temporaries
        for temporary in temporaries:
            _flush_to_disk(temporary)
        for temporary, final in zip(temporaries, finals, strict=True):
            temporary.replace(final)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def replace_file(temporary: Path, final: Path) -> None:
    """Move the file at `temporary_for(final)` to `final`, replacing any file there."""
    _flush_to_disk(temporary)
    temporary.replace(final)


def replace_folder(temporary: Path, final: Path) -> None:
    """Move the folder at `temporary_for(final)` to `final`, replacing any folder there."""
    earlier = temporary_for(final)
    if final.is_dir():
        final.rename(earlier)
    temporary.rename(final)
    remove(earlier)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    """Write a text file atomically."""
    with complete_or_absent(final) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def temporary_for(final: Path) -> Path:
    """A temporary path beside the final one; a missing folder is created."""
    final.parent.mkdir(parents=True, exist_ok=True)
    # Host and process ID identify the owner of a leftover; the random part separates threads. The video's
    # name is left out, because the whole could exceed the length limit of a file name.
    owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(6)}"
    return final.parent / f".{owner}{TEMPORARY_SUFFIX}"


def owner_of(temporary: Path) -> tuple[str, int]:
    """The host and process ID in the name of a temporary file; ("", 0) for a name that is not ours."""
    host, _, rest = (
        temporary.name.removesuffix(TEMPORARY_SUFFIX).removeprefix(".").rpartition("-")[0].rpartition("-")
    )
    return (host, int(rest)) if rest.isdecimal() else ("", 0)


def _flush_to_disk(path: Path) -> None:
    # A network file system reports a write error here at the latest, before the file counts as complete.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class NewFolder:
    """A new folder of files, complete under its name or absent."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._temporary: Path | None = None

    def add(self, name: str, content: bytes) -> None:
        """Write a file of the folder."""
        if self._temporary is None:
            self._temporary = temporary_for(self._final)
            self._temporary.mkdir()
        # Hundreds of small files: each is closed, when a network file system reports failed writes, but not
        # synced; `m3flow verify` compares the contents.
        (self._temporary / name).write_bytes(content)

    def finish(self) -> None:
        """Give the folder its name; it replaces one of that name."""
        assert self._temporary is not None
        replace_folder(self._temporary, self._final)
        self._temporary = None

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        if self._temporary is not None:
            remove(self._temporary)
