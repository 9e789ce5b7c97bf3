"""Shards that count as done though files of theirs are gone: they are made to count as not done again."""

from __future__ import annotations

from collections.abc import Collection

from m3flow.results.records import read_records
from m3flow.videos.videolist import Outputs


def reopen(outputs: Outputs, names: Collection[str]) -> int:
    """Remove what says that a shard is done, of every shard that made one of these videos.

    The next run of the workflow goes over these shards again, and makes what is not there. Returns how many
    files were removed.
    """
    wanted = set(names)
    removed = 0
    for records in outputs.records.glob("*/*-*.csv"):
        kind, _, shard = records.stem.rpartition("-")
        done = outputs.shards / records.parent.name / kind / f"{shard}.json"
        if not done.is_file():
            continue
        last = {record.video: record.status for record in read_records([records]) if record.video in wanted}
        # What was rejected had no files to lose.
        if any(status in ("done", "kept") for status in last.values()):
            done.unlink()
            removed += 1
    return removed
