"""Which of very many videos the page names one by one, and what about them is worth a look."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m3flow.report.records_table import reason_kind

LISTED = 10  # names under each outlier
ROWS = 20_000
ROW_BYTES = 2_400_000
REASONS = 40


@dataclass(frozen=True)
class Outlier:
    """A kind of result that is worth a look.

    Attributes
    ----------
    name, note: what it is called, and what may be behind it.
    column: what it is judged by; `threshold`: from which value on (down to which, if `low`).
    """

    key: str
    name: str
    note: str
    column: str
    threshold: float
    low: bool = False

    def among(self, videos: pd.DataFrame) -> pd.Series:
        values = videos[self.column]
        return values <= self.threshold if self.low else values >= self.threshold


OUTLIERS = (
    Outlier("still", "Nothing moves", "at least 99.9 % of the pixels are still: a slide show or a frozen picture",
            "still", 0.999),
    Outlier("saturated", "Motion beyond the bound", "at least 20 % of the pixels move as far as can be stored: "
            "cuts, flicker, or a bound that is too small", "saturated", 0.2),
    Outlier("camera", "Camera not found", "in at least half of the frame pairs no camera motion was accepted, "
            "so that all motion stayed in", "camera", 0.5, low=True),
    Outlier("outside", "Trajectories leave the frame", "at least half of them do", "outside", 0.5),
)  # fmt: skip
REMARK = Outlier("remark", "Made, with a remark", "most often a file that ends before its header says", "", 0)


@dataclass(frozen=True)
class Found:
    """An outlier's videos: how many, and the names of the first ones with their value."""

    outlier: Outlier
    count: int
    first: list[tuple[str, float | str]]


def outliers(videos: pd.DataFrame) -> list[Found]:
    found = []
    for outlier in OUTLIERS:
        values = videos.loc[outlier.among(videos), outlier.column].sort_values(ascending=outlier.low)
        found.append(Found(outlier, len(values), list(values.head(LISTED).items())))
    remarks = videos.loc[_has_remark(videos), "reason"]
    found.append(Found(REMARK, len(remarks), list(remarks.head(LISTED).items())))
    return [one for one in found if one.count]


def _has_remark(videos: pd.DataFrame) -> pd.Series:
    return (videos["status"] == "done") & (videos["reason"] != "")


@dataclass(frozen=True)
class Reason:
    """Videos that ended badly in the same way: how, how many, and one of them with its full reason."""

    status: str
    kind: str
    count: int
    video: str
    reason: str


def reasons(videos: pd.DataFrame) -> tuple[list[Reason], int]:
    """Why videos were rejected or failed, the commonest first, and how many further kinds are left out."""
    bad = videos[videos["status"] != "done"]
    grouped = bad.groupby(["status", bad["reason"].map(reason_kind)], sort=False)
    found = [
        Reason(group["status"].iloc[0], str(kind), len(group), str(group.index[0]), group["reason"].iloc[0])
        for (_, kind), group in grouped
    ]
    found.sort(key=lambda reason: (reason.status != "failed", -reason.count))
    return found[:REASONS], max(0, len(found) - REASONS)


TABLE_COLUMNS = ("frames", "speed", "speed_p95", "saturated", "still", "outside", "camera", "seconds")


def table(videos: pd.DataFrame, seed: int = 0) -> str:
    """The videos that the page's search finds, as JSON: all of them, or as many as it can hold.

    Where there are too many, failed ones come first, then rejected ones (some of every reason), then what is
    worth a look, then others at random. A row is [name, status, reason, flags, *TABLE_COLUMNS]; status is 0 for
    done, 1 for rejected, 2 for failed; flags are the keys of the outliers that it belongs to.
    """
    flags = _flags(videos)
    order = _order(videos, flags, seed)
    rows: list[str] = []
    size = 0
    chosen = videos.iloc[order]
    numbers = chosen[list(TABLE_COLUMNS)].to_numpy(np.float64)
    status = chosen["status"].map({"done": 0, "rejected": 1, "failed": 2}).to_numpy()
    names, why, marks = chosen.index.to_list(), chosen["reason"].to_list(), flags.iloc[order].to_list()
    for index in range(len(chosen)):
        values = [None if np.isnan(value) else float(f"{value:.4g}") for value in numbers[index]]
        row = json.dumps(
            [names[index], int(status[index]), why[index], marks[index], *values], separators=(",", ":")
        )
        size += len(row)
        if size > ROW_BYTES:
            break
        rows.append(row)
    return f"[{','.join(rows)}]"


def _flags(videos: pd.DataFrame) -> pd.Series:
    flags = pd.Series("", index=videos.index)
    for outlier in OUTLIERS:
        flags[outlier.among(videos)] += f" {outlier.key}"
    flags[_has_remark(videos)] += f" {REMARK.key}"
    return flags.str.strip()


def _order(videos: pd.DataFrame, flags: pd.Series, seed: int) -> np.ndarray:
    """The positions of the videos that the table holds, in the order in which they matter."""
    if len(videos) <= ROWS:
        return np.arange(len(videos))
    kinds = videos["reason"].map(reason_kind)
    nth_of_kind = kinds.groupby([videos["status"], kinds]).cumcount().to_numpy()
    rank = np.where(videos["status"] == "failed", 0, np.where(videos["status"] == "rejected", 1, 3))
    rank = np.where((rank == 3) & (flags != ""), 2, rank)
    chance = np.random.default_rng(seed).permutation(len(videos))
    return np.lexsort((np.where(rank < 2, nth_of_kind, chance), rank))[:ROWS]
