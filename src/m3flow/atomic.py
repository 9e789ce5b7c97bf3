"""The one place where a file becomes final: by renaming it, when it is complete and on the disk."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".m3flow-tmp"


@contextmanager
def complete_or_absent(*finals: Path) -> Iterator[list[Path]]:
    """Temporary paths to write, one for each final path and in its folder.

    When the block ends well they replace the final files; when it does not they are removed and the
    final files stay as they were. The folders are made where they do not exist.
    """
    temporaries = [_temporary(final) for final in finals]
    try:
        for final in finals:
            final.parent.mkdir(parents=True, exist_ok=True)
        yield temporaries
        for temporary in temporaries:
            _flush_to_disk(temporary)
        for temporary, final in zip(temporaries, finals, strict=True):
            temporary.replace(final)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    """Write a whole text file, complete or not at all."""
    with complete_or_absent(final) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def _temporary(final: Path) -> Path:
    # Host and process tell whose a left-over is; the random part keeps two threads apart. The video's name
    # is not in it, because together they could be longer than a file name may be.
    owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(6)}"
    return final.parent / f".{owner}{TEMPORARY_SUFFIX}"


def owner_of(temporary: Path) -> tuple[str, int]:
    """The host and the process that a temporary file belongs to; ("", 0) for a name that is not ours."""
    host, _, rest = (
        temporary.name.removesuffix(TEMPORARY_SUFFIX).removeprefix(".").rpartition("-")[0].rpartition("-")
    )
    return (host, int(rest)) if rest.isdecimal() else ("", 0)


def _flush_to_disk(path: Path) -> None:
    # A write error of a network file system shows here at the latest, before the file is called complete.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
