"""The shards of a list: which videos a job gets, from the list alone, and cheaply for each job.

The list is cut every `size` entries, so appending videos changes the last shard and adds new ones, nothing
else. What was cut is kept in a file of the output folder (`shards/<list>/plan.json`): the list is read and
checked as a whole once, and each job after that reads the few lines that are its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.atomic import write_text
from m3flow.errors import UsageError
from m3flow.experiment.calibration import calibration_of, settings_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.cost import jobs_of, seconds_per_video, shard_size
from m3flow.experiment.sample import sample
from m3flow.layout import LIKE_AN_OUTPUT, output_name
from m3flow.videos.listfile import Part, list_size, read_entries
from m3flow.videos.videolist import Video, VideoList

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """A stretch of the list that one job works on.

    Attributes
    ----------
    videos: how many videos it holds; those that `exclude` names are not counted.
    offset, size, line: where it lies in the list, in bytes, and the number of its first line.
    digest: of the paths of its videos; another one means other videos.
    """

    videos: int
    offset: int
    size: int
    line: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """How a list is cut.

    Attributes
    ----------
    size: entries of the list in a shard; the last one may hold fewer.
    shards: in the order of the list.
    pace: by kind of job, the seconds that a video should take it; empty without a calibration.
    start: seconds from a job's beginning to its first video, by the calibration.
    """

    size: int
    shards: tuple[Shard, ...]
    pace: dict[str, float] = field(default_factory=dict)
    start: float = 0.0

    @property
    def videos(self) -> int:
        return sum(shard.videos for shard in self.shards)

    @property
    def names(self) -> list[str]:
        """The shards' names, in order: 00000, 00001 and so on; empty shards are left out."""
        return [shard_name(number) for number, shard in enumerate(self.shards) if shard.videos]

    def __getitem__(self, name: str) -> Shard:
        return self.shards[int(name)]

    def minutes(self, kind: str, videos: int) -> float | None:
        """How long a job of this kind should take for so many videos; None without a calibration."""
        return (self.start + self.pace[kind] * videos) / 60 if kind in self.pace else None


def shard_name(number: int) -> str:
    return f"{number:05d}"


def make_plan(videos: VideoList, size: int) -> Plan:
    """Read and check the whole list, and cut it.

    Memory: 8 bytes per video beside the shards, so that lists of many millions can be planned.

    Raises UsageError for everything that `VideoList.read` refuses.
    """
    list_file, excluded = videos.location, videos.excluded_names()
    problems: list[tuple[int, str]] = []
    hashes = array("q")
    doubtful = False
    shards: list[Shard] = []
    begun: tuple[int, int] | None = None
    entries = 0
    paths: list[str] = []

    def close(end: int) -> None:
        assert begun is not None
        offset, line = begun
        digest = hashlib.blake2b("\0".join(paths).encode(errors="surrogateescape"), digest_size=12)
        shards.append(Shard(len(paths), offset, end - offset, line, digest.hexdigest()))

    for entry in read_entries(list_file, problems):
        if begun is None or entries == size:
            if begun is not None:
                close(entry.offset)
            begun, entries, paths = (entry.offset, entry.line), 0, []
        entries += 1
        name, problem = output_name(entry.path, videos.parts)
        doubtful = doubtful or bool(problem) or LIKE_AN_OUTPUT.search(name) is not None
        hashes.append(hash(name))
        if name not in excluded:
            paths.append(entry.path)
    if begun is not None:
        close(list_size(list_file))
    if doubtful or problems or not shards or _repeats(hashes):
        # Names whose hashes agree are the same name, or very rarely not: the full check tells, in full.
        replace(videos, exclude=None).read()
    plan = Plan(size, tuple(shards))
    if excluded and not plan.videos:
        raise UsageError(f"{videos.exclude}: leaves none of the videos of the list")
    return plan


def plan_of(experiment: Experiment, *, renew: bool = True) -> Plan:
    """The plan of an experiment: the one in its output folder, or a new one where that does not fit any more.

    A new one is kept there for the next reader, if the folder can be written. Where `shard.videos` is "auto",
    the size that was chosen is kept with it, so that the shards stay as they are while the list grows. Where
    the list is a folder it is searched again, unless `renew` is false: a job takes the list that is there.

    Raises UsageError for a list that cannot be used, and for "auto" without a calibration.
    """
    path = experiment.outputs.shard_plan(experiment.videos.name)
    kept = _read(path)
    basis = _basis(experiment)
    size = experiment.shard.videos
    if not isinstance(size, int):
        size = kept["size"] if kept.get("basis") == basis else shard_size(experiment)
    videos = cut_list(experiment, renew=renew)
    key = [FORMAT, size, videos.parts, _file(videos.location), _file(videos.exclude), basis]
    if kept.get("key") == key:
        shards = tuple(Shard(*values) for values in kept["shards"])
        return Plan(size, shards, kept["pace"], kept["start"])
    plan = make_plan(videos, size)
    calibration = calibration_of(experiment)
    if calibration is not None:
        seen = sample(experiment)
        pace = {kind: seconds_per_video(calibration, seen, kind) for kind in jobs_of(experiment)}
        plan = replace(plan, pace=pace, start=calibration.start)
    values = asdict(plan) | {"key": key, "basis": basis, "shards": [astuple(shard) for shard in plan.shards]}
    # Where the folder cannot be written every reader makes the plan again: slower, not wrong.
    with suppress(OSError):
        write_text(path, json.dumps(values, separators=(",", ":")))
    return plan


def shard_videos(experiment: Experiment, shard: Shard) -> list[Video]:
    """The videos of a shard.

    Raises UsageError where the list is no longer what the shard was cut from.
    """
    part = Part(shard.offset, shard.size, shard.line)
    videos = cut_list(experiment, renew=False).read_part(part)
    if len(videos) != shard.videos:
        raise UsageError(f"{experiment.videos.file}: the list changed while it was used; run again")
    return videos


def cut_list(experiment: Experiment, *, renew: bool = False) -> VideoList:
    """The list file that is cut into shards."""
    videos = experiment.videos
    return videos.in_file(experiment.outputs.shard_list(videos.name), renew=renew)


def _repeats(hashes: array[int]) -> bool:
    values = np.sort(np.frombuffer(hashes, np.int64))
    return bool((values[1:] == values[:-1]).any())


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _file(path: Path | None) -> list[Any] | None:
    """What tells that a file has not changed."""
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise UsageError(f"{path}: cannot read the list: {error.strerror}") from error
    return [path.name, status.st_size, status.st_mtime_ns]


def _basis(experiment: Experiment) -> dict[str, Any]:
    """What `shard.videos: auto` depends on beside the list."""
    calibration = Path(experiment.shard.calibration)
    return {
        "shard": asdict(experiment.shard),
        "settings": settings_of(experiment),
        "calibration": _file(calibration if calibration.is_file() else None),
    }
