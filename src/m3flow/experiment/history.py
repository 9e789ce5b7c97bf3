"""History of each video in the records of an output folder: the last attempt at its outputs, and the last success."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from m3flow.results.records import record_files

COLUMNS = (
    *("video", "frames", "status", "reason", "time", "limits", "source", "modified"),
    *("flow_settings", "trajectory_settings"),
)
MADE = ("done", "kept")


class Attempt(NamedTuple):
    """An attempt at an output, from a record.

    Attributes
    ----------
    status, reason, time: see `m3flow.results.records.Record`.
    limits, source, modified: digest of the limits, fingerprint of the video, its size and modification time.
    settings: digest of the output's settings; "" in the records of earlier releases.
    """

    status: str
    reason: str
    time: str
    limits: str
    source: str
    modified: str
    settings: str


class Product:
    """One output of a video: the last attempt at it, and the last successful one; None if there is none."""

    __slots__ = ("last", "made")

    def __init__(self) -> None:
        self.last: Attempt | None = None
        self.made: Attempt | None = None

    def add(self, attempt: Attempt) -> None:
        if self.last is None or attempt.time >= self.last.time:
            self.last = attempt
        if attempt.status in MADE and (self.made is None or attempt.time >= self.made.time):
            self.made = attempt


class Past:
    """The records of a video; `frames` is 0 if unknown."""

    __slots__ = ("flow", "frames", "trajectories")

    def __init__(self) -> None:
        self.flow, self.trajectories, self.frames = Product(), Product(), 0


NO_RECORDS = Past()


class History:
    """The records of an output folder, by video.

    Parameters
    ----------
    paths: the records files.
    length: of the trajectories; records of other lengths concern other files.
    """

    def __init__(self, paths: Iterable[Path], length: int) -> None:
        self._videos: dict[str, Past] = {}
        self._length = f"{length}:"
        for path in paths:
            self._read(path)

    @classmethod
    def of(cls, folder: Path, length: int) -> History:
        """All records of a folder, `Outputs.records`."""
        return cls(record_files(folder), length)

    def __getitem__(self, name: str) -> Past:
        return self._videos.get(name, NO_RECORDS)

    def __contains__(self, name: str) -> bool:
        return name in self._videos

    def _read(self, path: Path) -> None:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            if not {"video", "status", "reason", "time"} <= set(columns):
                return  # another program's table
            # Records of earlier releases lack the last columns: the empty text appended to each row replaces them.
            where = [columns.index(name) if name in columns else -1 for name in COLUMNS]
            about_flow, about_trajectories = _kinds(path.name)
            for row in reader:
                if len(row) != len(columns) or row == columns:
                    continue  # a line truncated by a kill, or a second header
                row.append("")
                name, frames, *attempt, flow, trajectories = [row[index] for index in where]
                status = attempt[0]
                past = self._videos.get(name)
                if past is None:
                    past = self._videos[name] = Past()
                if frames.isdecimal() and frames != "0":
                    past.frames = int(frames)
                if flow or (about_flow and (status not in MADE or not trajectories)):
                    past.flow.add(Attempt._make([*attempt, flow]))
                other_length = trajectories and not trajectories.startswith(self._length)
                if (trajectories or about_trajectories) and not other_length:
                    past.trajectories.add(Attempt._make([*attempt, trajectories]))


def _kinds(file_name: str) -> tuple[bool, bool]:
    """Whether the rows of a records file concern flow, and trajectories, from the file's name."""
    kind = file_name.partition("-")[0].partition(".")[0]
    return kind in ("flow", "motion"), kind in ("trajectories", "motion")
