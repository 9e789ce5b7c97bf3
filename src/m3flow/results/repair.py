"""Leftover temporary files of killed processes in an output folder."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from m3flow.atomic import TEMPORARY_SUFFIX, owner_of
from m3flow.layout import Outputs

# Processes on other machines cannot be checked; no file is being written for longer than this.
SILENT_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Leftover:
    """A temporary file, and whether the process that wrote it is gone."""

    path: Path
    abandoned: bool


def leftovers(outputs: Outputs) -> Iterator[Leftover]:
    """The temporary files in the folders of the results."""
    now = _time_there(outputs.folder)
    for folder in (outputs.flows, outputs.trajs, outputs.packs):
        for where, folders, names in os.walk(folder):
            for name in (*folders, *names):
                if name.endswith(TEMPORARY_SUFFIX):
                    path = Path(where, name)
                    yield Leftover(path, _abandoned(path, now))


def _time_there(folder: Path) -> float:
    """The current time of the folder's file system, whose clock may differ from this machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        # The folder is not writable, so nothing will be removed either.
        return 0.0


def _abandoned(path: Path, now: float) -> bool:
    host, process = owner_of(path)
    if host == socket.gethostname()[:40]:
        return not psutil.pid_exists(process)
    try:
        return now - path.stat().st_mtime > SILENT_SECONDS
    except FileNotFoundError:
        return False
