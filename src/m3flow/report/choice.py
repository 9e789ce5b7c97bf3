"""Selection of videos of a list by conditions on their records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from m3flow.errors import UsageError
from m3flow.report.records_table import read_lines, videos_of
from m3flow.videos.videolist import Video

LISTED = ("path", "label")


def chosen_videos(
    videos: Sequence[Video],
    records: Path,
    *,
    root: Path = Path(),
    where: Sequence[str] = (),
    sort: str = "",
    limit: int = 0,
) -> pd.DataFrame:
    """The videos that satisfy every condition, with their records.

    Parameters
    ----------
    videos: the list; root: the folder to which its relative paths, and those of the result, refer.
    records: the folder of the records.
    where: conditions on the columns of the records in the syntax of `pandas.DataFrame.query`, such as
        "speed > 1 and still < 0.5". Comparisons with a number that was not measured are false.
    sort: the column to sort by, prefixed by "-" for descending order; "" keeps the list's order.
    limit: the maximum number of videos; 0 keeps all.

    Returns
    -------
    A frame with the columns path, label and those of the records (`m3flow.results.records.Record`), without `video`.

    Raises
    ------
    UsageError: an invalid condition, an unknown column, or no records.
    """
    state = videos_of(read_lines(records))
    if state.empty:
        raise UsageError(f"{records}: there are no records; run 'm3flow flow' first")
    listed = pd.DataFrame(
        {"path": [_path(video, root) for video in videos], "label": [video.label for video in videos]},
        index=[video.name for video in videos],
    )
    table = listed.join(state, how="inner")
    for condition in where:
        table = table[_holds(table, condition)]
    if sort:
        column = sort.removeprefix("-")
        if column not in table.columns:
            raise UsageError(f"--sort {sort}: no such column; choose from {', '.join(state.columns)}")
        table = table.sort_values(column, ascending=not sort.startswith("-"), kind="stable")
    return table.head(limit) if limit else table


def _path(video: Video, root: Path) -> str:
    """The video's path relative to `root` if that gives the same output name, else as it can be opened."""
    path = os.path.relpath(video.source, root)
    return path if path.endswith(video.name) else video.source


def _holds(table: pd.DataFrame, condition: str) -> pd.Series:
    """A boolean for each row: whether the condition holds."""
    try:
        holds = table.eval(condition, engine="python", parser="pandas")
    except Exception as error:
        # pandas raises nearly any exception for an invalid condition.
        columns = ", ".join(name for name in table.columns if name not in LISTED)
        raise UsageError(
            f"--where {condition!r} is not a condition ({error}); write it like 'speed > 1 and still < 0.5', with "
            f"the columns {columns}"
        ) from error
    if not isinstance(holds, pd.Series) or holds.dtype != bool:
        raise UsageError(
            f"--where {condition!r} is not a condition; write it like 'speed > 1 and still < 0.5'"
        )
    return holds
