"""Division of a list into shards, one per job.

The list is divided every `size` entries, so appending videos only changes the last shard and adds new ones.
The division is stored in the output folder (`shards/<list>/plan.json`): the whole list is read and checked
once, and after that each job reads only its own lines.
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
    """A section of the list processed by one job.

    Attributes
    ----------
    videos: number of videos, without those in `exclude`.
    offset, size, line: its position in the list, in bytes, and the number of its first line.
    digest: of the paths of its videos, to detect changes.
    """

    videos: int
    offset: int
    size: int
    line: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """The division of a list into shards.

    Attributes
    ----------
    size: entries of the list per shard; the last shard may have fewer.
    shards: in the order of the list.
    pace: by kind of job, the expected seconds per video; empty without a calibration.
    start: seconds from a job's start to its first video, from the calibration.
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
        """The expected time of a job of this kind for `videos` videos; None without a calibration."""
        return (self.start + self.pace[kind] * videos) / 60 if kind in self.pace else None


def shard_name(number: int) -> str:
    return f"{number:05d}"


def make_plan(videos: VideoList, size: int) -> Plan:
    """Read and check the whole list, and divide it.

    Memory: 8 bytes per video in addition to the shards, so that lists of many millions can be planned.

    Raises UsageError in the same cases as `VideoList.read`.
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
        # Equal hashes are nearly always equal names; the full check decides and reports all problems.
        replace(videos, exclude=None).read()
    plan = Plan(size, tuple(shards))
    if excluded and not plan.videos:
        raise UsageError(f"{videos.exclude}: leaves none of the videos of the list")
    return plan


def plan_of(experiment: Experiment, *, renew: bool = True) -> Plan:
    """The plan of an experiment: the stored one in its output folder, or a new one if that is out of date.

    A new plan is stored for the next reader if the folder is writable. If `shard.videos` is "auto", the
    chosen size is stored with it, so that the shards do not change while the list grows. If the list is a
    folder, it is searched again, unless `renew` is false: a job uses the stored list.

    Raises UsageError for an unusable list, and for "auto" without a calibration.
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
    # If the folder is not writable, every reader makes the plan again, which is slower but correct.
    with suppress(OSError):
        write_text(path, json.dumps(values, separators=(",", ":")))
    return plan


def shard_videos(experiment: Experiment, shard: Shard) -> list[Video]:
    """The videos of a shard.

    Raises UsageError if the list has changed since it was divided.
    """
    part = Part(shard.offset, shard.size, shard.line)
    videos = cut_list(experiment, renew=False).read_part(part)
    if len(videos) != shard.videos:
        raise UsageError(f"{experiment.videos.file}: the list changed while it was used; run again")
    return videos


def cut_list(experiment: Experiment, *, renew: bool = False) -> VideoList:
    """The list file that is divided into shards."""
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
    """Name, size and modification time of a file, to detect changes."""
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise UsageError(f"{path}: cannot read the list: {error.strerror}") from error
    return [path.name, status.st_size, status.st_mtime_ns]


def _basis(experiment: Experiment) -> dict[str, Any]:
    """Everything but the list that `shard.videos: auto` depends on."""
    calibration = Path(experiment.shard.calibration)
    return {
        "shard": asdict(experiment.shard),
        "settings": settings_of(experiment),
        "calibration": _file(calibration if calibration.is_file() else None),
    }
