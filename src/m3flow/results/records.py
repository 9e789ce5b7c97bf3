"""Records: one CSV line per video with its outcome, appended at once, so that it survives a kill of the job."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

from m3flow.errors import Interrupted

STATUSES = ("done", "kept", "rejected", "failed")


def timestamp() -> str:
    """The present time in UTC, in milliseconds: of two attempts within a second the later one must count."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(kw_only=True)
class Record:
    """The line of one video.

    Attributes
    ----------
    video: its output name.
    status: "done" (made now), "kept" (already current), "rejected" (bad input), "failed" (any other error).
    reason: why it was rejected or failed; a remark otherwise.
    frames, claimed: frames that decoded, and frames according to the header.
    width, height: of the flow, in pixels.
    seconds: from its start to its end, including `wait`, the time spent waiting for frames.
    decode, flow, encode, track: seconds of work in each stage (they overlap).
    windows: trajectory windows; outside: share of trajectories that leave the frame.
    reliable: share of trajectories that are reliable to their end; -1 without confidence.
    speed, speed_p95: mean and 95th percentile of the stored motion, in pixels per frame.
    saturated, still: share of pixels at the bound, and without motion.
    camera: share of frame pairs with an accepted homography; -1 if not estimated.
    camera_shift: mean motion of the camera over the frame, in pixels per frame.
    camera_confidence: mean confidence in the camera over pairs that cross no cut; -1 if none was searched for.
    cuts: cuts, across which there is no flow; -1 without cut detection.
    bars: mean share of the frame that letterbox and pillar bars take.
    host, device: the machine and device. time: the time of completion (UTC).
    flow_settings, trajectory_settings: digests of the settings of the requested flow and trajectories (see
        `m3flow.results.provenance`); "" if not requested.
    limits: digest of the decoding limits.
    source: content fingerprint of the video; modified: its size and modification time, which usually avoid
        computing the fingerprint again.
    traceback: of an unexpected failure; for the log, not stored in the line.
    ends_run: whether the failure affects every other video too; not stored either.
    """

    video: str
    status: str
    reason: str = ""
    frames: int = 0
    claimed: int = 0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    decode: float = 0.0
    flow: float = 0.0
    encode: float = 0.0
    track: float = 0.0
    windows: int = 0
    outside: float = 0.0
    reliable: float = -1.0
    speed: float = 0.0
    speed_p95: float = 0.0
    saturated: float = 0.0
    still: float = 0.0
    camera: float = -1.0
    camera_shift: float = 0.0
    camera_confidence: float = -1.0
    cuts: int = -1
    bars: float = 0.0
    host: str = ""
    device: str = ""
    time: str = ""
    flow_settings: str = ""
    trajectory_settings: str = ""
    limits: str = ""
    source: str = ""
    modified: str = ""
    traceback: str = field(default="", metadata={"stored": False}, repr=False)
    ends_run: bool = field(default=False, metadata={"stored": False}, repr=False)

    def set(self, values: Mapping[str, Any]) -> None:
        """Set fields by their names."""
        for name, value in values.items():
            setattr(self, name, value)


COLUMNS = [item.name for item in fields(Record) if item.metadata.get("stored", True)]
TYPES = get_type_hints(Record)
DEFAULTS = {name: str(getattr(Record(video="", status=""), name)) for name in COLUMNS}


class RecordFile:
    """A records file with one line per video; each line is a single write.

    Raises Interrupted if nothing can be written: there must be no results without records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(path)
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size == 0:
            self._write(COLUMNS)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        self._write([_cell(getattr(record, name)) for name in COLUMNS])

    def _write(self, cells: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        line = text.getvalue().encode(errors="surrogateescape")
        try:
            written = self._file.write(line)
        except OSError as error:
            raise Interrupted(f"cannot write {self.path}: {error.strerror}") from error
        if written < len(line):
            raise Interrupted(f"cannot write {self.path}: no space left")


def new_record_path(folder: Path, kind: str) -> Path:
    """A new records file for one run of the command line: <kind>-0001.csv and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob(f"{kind}-*.csv"))) + 1
    while True:
        path = folder / f"{kind}-{number:04d}.csv"
        try:
            # Created exclusively, so that two runs never write to the same file.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            number += 1
        else:
            return path


def record_files(folder: Path) -> list[Path]:
    """The records files of an output folder's `records`, sorted by name."""
    # The folder of a list's shards has the list's name, which may end in .csv too.
    return sorted(path for path in folder.rglob("*.csv") if path.is_file())


def read_records(paths: Iterable[Path]) -> Iterator[Record]:
    """Every complete line of the given files, in order; a line truncated by a kill is skipped."""
    for path in paths:
        for row in read_rows(path):
            yield Record(**{name: TYPES[name](text) for name, text in zip(COLUMNS, row, strict=True)})


def read_rows(path: Path) -> Iterator[list[str]]:
    """Every complete line of a file as strings, one for each of `COLUMNS`.

    Files of other versions may have more columns, which are ignored, or fewer, which get their defaults.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        # Jobs that start simultaneously may each have written the header.
        complete = (row for row in reader if len(row) == len(columns) and row != columns)
        if columns == COLUMNS:
            yield from complete
            return
        for row in complete:
            cells = dict(zip(columns, row, strict=True))
            yield [cells.get(name, DEFAULTS[name]) for name in COLUMNS]


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    # A reason has no line breaks. A name keeps them, quoted by the CSV writer.
    return value


def _end_last_line(path: Path) -> None:
    """Terminate a line truncated by a kill or a full disk, so that the next one does not continue it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        inside_quotes = file.read().count(b'"') % 2
        file.write(b'"\n' if inside_quotes else b"\n")
