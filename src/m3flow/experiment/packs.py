"""Packing of shards in the workflow: which ones have single files, and the job that packs one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from m3flow.atomic import write_text
from m3flow.errors import BadInput, UsageError
from m3flow.experiment.config import Experiment
from m3flow.experiment.remaining import Listing
from m3flow.experiment.shards import plan_of, shard_videos
from m3flow.extraction.run import log, log_to
from m3flow.layout import trajectory_suffix
from m3flow.packs.archive import pyarrow
from m3flow.packs.packing import pack_shard, to_pack
from m3flow.packs.store import Packs
from m3flow.videos.videolist import Video


def shards_to_pack(
    experiment: Experiment, videos: Sequence[Video], left: Collection[str], shard_of: Callable[[Video], str]
) -> list[str]:
    """The shards with single files, and those of the videos `left`, which will have some; in order.

    One directory is listed per folder of videos, and the files of one video of each shard.

    Raises UsageError if the library for packs is not installed, and for videos that are in a pack of another division
    of the list, where their results would be twice.
    """
    pyarrow()
    outputs, length = experiment.outputs, experiment.trajectories.length
    flows, trajs, packs = Listing(outputs.flows), Listing(outputs.trajs), Packs(outputs)
    ending = trajectory_suffix(length)
    found = set[str]()
    for video in videos:
        shard, (_, packed) = shard_of(video), packs.videos.get(video.name, (None, None))
        made = video.name in flows or video.name + ending in trajs
        if video.name not in left and (
            shard in found or not made or not to_pack(outputs, video.name, length, packed)
        ):
            continue
        packs.require_no_other(video.name, outputs.pack_table(experiment.videos.name, shard))
        found.add(shard)
    return sorted(found)


def pack_results(experiment: Experiment, name: str, log_file: Path, outcome: Path) -> int:
    """Pack the results of a shard and remove the single files; `outcome` is written last.

    After a kill at any moment the next attempt continues.

    Returns the exit status of the job: 0 done, 1 not.
    """
    log_to(log_file)
    outputs, length = experiment.outputs, experiment.trajectories.length
    try:
        videos = shard_videos(experiment, plan_of(experiment, renew=False)[name])
        done = pack_shard(outputs, experiment.videos.name, name, videos, length, remove=True)
    except (BadInput, UsageError, OSError) as error:
        return _failed([str(error)])
    if done.damaged:
        return _failed(done.damaged)
    counts = {"packed": len(done.videos), "removed": done.removed}
    log.info("pack of shard %s: %s", name, counts)
    write_text(outcome, json.dumps({"videos": len(videos), **counts}) + "\n")
    return 0


def _failed(problems: list[str]) -> int:
    for problem in problems:
        log.error("%s", problem)
        print(f"m3flow: {problem}", file=sys.stderr)
    return 1
