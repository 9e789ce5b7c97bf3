"""Summary of the page: counts, throughput, and time per stage and machine."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from m3flow.atomic import write_text
from m3flow.report.numbers import duration, number, short
from m3flow.report.records_table import busy_seconds
from m3flow.report.selection import reasons
from m3flow.videos.videolist import Video

MACHINES = 64
STAGES = {"decode": "decode", "flow": "flow", "encode": "encode", "track": "track", "wait": "waiting"}


class Tile(NamedTuple):
    """A number, its name, and "good", "warn" or "bad" for its colour."""

    value: str
    name: str
    colour: str = ""


def tiles(table: pd.DataFrame, made: pd.DataFrame, videos: Sequence[Video]) -> list[Tile]:
    """The counts of videos, and the throughput.

    Throughput is the number of frames of done videos divided by the time during which at least one video was in
    progress; each frame counts once, whether its flow and trajectories were made in one run or in two.
    """
    counts = Counter(table["status"])
    found = [
        Tile(number(counts["done"]), "videos done", "good" if counts["done"] else ""),
        Tile(number(counts["rejected"]), "rejected", "warn" if counts["rejected"] else ""),
        Tile(number(counts["failed"]), "failed", "bad" if counts["failed"] else ""),
    ]
    if videos:
        found.append(Tile(number(len({video.name for video in videos} - set(table.index))), "not begun"))
    frames, windows = (float(table[column].sum()) for column in ("frames", "windows"))
    found.append(Tile(short(frames), "frames"))
    if windows:
        found.append(Tile(short(windows), "trajectory windows"))
    if busy := busy_seconds(made):
        found += [Tile(duration(busy), "time busy"), Tile(number(frames / busy), "frames/s")]
    return found


def stages(table: pd.DataFrame) -> dict[str, float]:
    """Seconds of work in each stage, over all videos."""
    return {shown: float(table[name].sum()) for name, shown in STAGES.items()}


def machines(made: pd.DataFrame) -> list[dict[str, Any]]:
    """The work of every host and device, busiest first: video runs, frames, busy seconds, ms per frame."""
    rows = []
    for (host, device), lines in made.groupby(["host", "device"]):
        frames = int(lines["frames"].sum())
        rows.append(
            {
                "host": host,
                "device": device,
                "videos": len(lines),
                "frames": frames,
                "busy": busy_seconds(lines),
                "cost": 1000 * float(lines["seconds"].sum()) / frames if frames else float("nan"),
            }
        )
    return sorted(rows, key=itemgetter("frames"), reverse=True)[:MACHINES]


def write_counts(path: Path, table: pd.DataFrame, videos: Sequence[Video]) -> None:
    """Write the number of videos by outcome as CSV: a row per status and kind of reason, with an example.

    The columns are `status` ("done", "failed", "rejected" or "not begun"), `reason`, `videos` and `example`.
    """
    done = table.index[table["status"] == "done"]
    rows: list[tuple[str, str, int, str]] = [("done", "", len(done), next(iter(done), ""))]
    found, _ = reasons(table, most=len(table))
    rows += [(one.status, one.kind, one.count, one.video) for one in found]
    left = [video.name for video in videos if video.name not in table.index]
    if left:
        rows.append(("not begun", "", len(left), left[0]))
    file = io.StringIO()
    csv.writer(file).writerows([("status", "reason", "videos", "example"), *rows])
    # As in the page, undecodable bytes are written as replacement characters.
    write_text(path, file.getvalue().encode("utf-8", "replace").decode())
