"""Selection of the videos that the page lists, and of the outliers among them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m3flow.report.measures import LISTED as COLUMNS
from m3flow.text import reason_kind
from m3flow.videos.videolist import Video

NAMED = 10  # names under each outlier
STATUSES = ("done", "rejected", "failed")
ROWS = 20_000
ROW_BYTES = 2_370_000
REASONS = 40


@dataclass(frozen=True)
class Outlier:
    """A kind of suspicious result.

    Attributes
    ----------
    key, name, note: its key in the page's code, its title, and its likely causes.
    short: its name in the filter of the list.
    column: the column of the records to test; `threshold`: the smallest value (the largest, if `low`) that counts.
    """

    key: str
    name: str
    short: str
    note: str
    column: str
    threshold: float
    low: bool = False

    def among(self, videos: pd.DataFrame) -> pd.Series:
        values = videos[self.column]
        return values <= self.threshold if self.low else values >= self.threshold


OUTLIERS = (
    Outlier(
        "still",
        "Nothing moves",
        "nothing moves",
        "at least 99.9 % of the pixels are still: a slide show or a frozen picture",
        "still",
        0.999,
    ),
    Outlier(
        "saturated",
        "Motion beyond the bound",
        "beyond the bound",
        "at least 20 % of the pixels have the largest storable motion: cuts, flicker, or too small a bound",
        "saturated",
        0.2,
    ),
    Outlier(
        "camera",
        "Camera not found",
        "camera not found",
        "in at least half of the frame pairs no camera motion was accepted, so none was removed",
        "camera",
        0.5,
        low=True,
    ),
    Outlier(
        "outside",
        "Trajectories leave the frame",
        "leaves the frame",
        "at least half of them do",
        "outside",
        0.5,
    ),
)
REMARK = Outlier(
    "remark",
    "Made, with a remark",
    "with a remark",
    "most often a file with fewer frames than its header claims",
    "",
    0,
)


@dataclass(frozen=True)
class Found:
    """The videos of an outlier: their number, and the names of the first ones with their values."""

    outlier: Outlier
    count: int
    first: list[tuple[str, float | str]]


def outliers(videos: pd.DataFrame) -> list[Found]:
    found = []
    for outlier in OUTLIERS:
        values = videos.loc[outlier.among(videos), outlier.column].sort_values(ascending=outlier.low)
        found.append(Found(outlier, len(values), list(values.head(NAMED).items())))
    remarks = videos.loc[_has_remark(videos), "reason"]
    found.append(Found(REMARK, len(remarks), list(remarks.head(NAMED).items())))
    return [one for one in found if one.count]


def _has_remark(videos: pd.DataFrame) -> pd.Series:
    return (videos["status"] == "done") & (videos["reason"] != "")


@dataclass(frozen=True)
class Reason:
    """Videos rejected or failed for the same kind of reason: their number, and one of them with its full reason."""

    status: str
    kind: str
    count: int
    video: str
    reason: str


def reasons(videos: pd.DataFrame, most: int = REASONS) -> tuple[list[Reason], int]:
    """Reasons of rejected and failed videos, most common first, and the number of further kinds left out."""
    bad = videos[videos["status"] != "done"]
    grouped = bad.groupby(["status", bad["reason"].map(reason_kind)], sort=False)
    found = [
        Reason(group["status"].iloc[0], str(kind), len(group), str(group.index[0]), group["reason"].iloc[0])
        for (_, kind), group in grouped
    ]
    found.sort(key=lambda reason: (reason.status != "failed", -reason.count))
    return found[:most], max(0, len(found) - most)


def classes(names: Sequence[str], videos: Sequence[Video]) -> pd.Series:
    """The class of every video: its label in the list or, if the list has no labels, its folder.

    Numeric labels that correspond to folders are shown with the folder's name.
    """
    folders = {name: name.split("/")[-2] if "/" in name else "" for name in names}
    labels = {video.name: video.label for video in videos if video.label}
    if not labels:
        return pd.Series(folders, dtype=object)
    folders_of: dict[str, set[str]] = {}
    for name, folder in folders.items():
        folders_of.setdefault(labels.get(name, ""), set()).add(folder)
    numbered = all(label.isdecimal() for label in labels.values())
    if numbered and all(len(inside) == 1 for label, inside in folders_of.items() if label):
        return pd.Series(
            {n: f"{folder} ({labels[n]})" if n in labels else "" for n, folder in folders.items()}
        )
    return pd.Series({name: labels.get(name, "") for name in names}, dtype=object)


@dataclass(frozen=True)
class Rows:
    """The rows of the page's list.

    Attributes
    ----------
    rows: JSON; a row is [name, status, reason, flags, class, *numbers]: the status as its index in `STATUSES`, the
        keys of the outliers that the video belongs to, the index of its class in `classes`, and the numbers of
        `m3flow.report.measures.LISTED`.
    classes: all classes, in order. counts: of all videos, by status, by flag and by class.
    """

    rows: str
    classes: list[str]
    counts: dict[str, dict[str, int]]


def rows(videos: pd.DataFrame, class_of: pd.Series, seed: int = 0) -> Rows:
    """The rows of all videos, or of as many as the page can hold.

    If there are too many, failed ones come first, then rejected ones (some of every reason), then outliers,
    then others at random.
    """
    flags = _flags(videos)
    order = _order(videos, flags, seed)
    chosen = videos.iloc[order]
    names = sorted(set(class_of) - {""}, key=_in_natural_order)
    place = {name: index for index, name in enumerate(names)}
    columns = (
        chosen.index.to_list(),
        chosen["status"].map({name: index for index, name in enumerate(STATUSES)}).to_list(),
        chosen["reason"].to_list(),
        flags.iloc[order].to_list(),
        [place.get(name, -1) for name in class_of.iloc[order]],
        *(_values(chosen[column.column], column.share) for column in COLUMNS),
    )
    texts: list[str] = []
    size = 0
    for row in zip(*columns, strict=True):
        text = json.dumps(row, separators=(",", ":"))
        size += len(text)
        if size > ROW_BYTES:
            break
        texts.append(text)
    counts = {
        "status": videos["status"].value_counts().to_dict(),
        "flag": Counter(key for text in flags for key in text.split()),
        "class": class_of.value_counts().to_dict(),
    }
    return Rows(f"[{','.join(texts)}]", names, counts)


def _in_natural_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() and len(name) < 20 else (-1, name)


def _values(numbers: pd.Series, share: bool) -> list[float | None]:
    """Whole numbers unchanged, others rounded to the digits that the page shows."""
    return [None if value != value else _rounded(value, share) for value in numbers.to_list()]


def _rounded(value: float, share: bool) -> float:
    if value == int(value):
        return int(value)
    rounded = round(value, 3) if share or value < 1 else float(f"{value:.3g}")
    return rounded or 0


def _flags(videos: pd.DataFrame) -> pd.Series:
    flags = pd.Series("", index=videos.index)
    for outlier in OUTLIERS:
        flags[outlier.among(videos)] += f" {outlier.key}"
    flags[_has_remark(videos)] += f" {REMARK.key}"
    return flags.str.strip()


def _order(videos: pd.DataFrame, flags: pd.Series, seed: int) -> np.ndarray:
    """The positions of the videos in the list, most important first."""
    if len(videos) <= ROWS:
        return np.arange(len(videos))
    kinds = videos["reason"].map(reason_kind)
    nth_of_kind = kinds.groupby([videos["status"], kinds]).cumcount().to_numpy()
    rank = np.where(videos["status"] == "failed", 0, np.where(videos["status"] == "rejected", 1, 3))
    rank = np.where((rank == 3) & (flags != ""), 2, rank)
    chance = np.random.default_rng(seed).permutation(len(videos))
    return np.lexsort((np.where(rank < 2, nth_of_kind, chance), rank))[:ROWS]
