"""All records of an output folder as one table, with a row per video."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from m3flow.report.measures import columns
from m3flow.results.records import COLUMNS, TYPES, read_rows, record_files

NUMBERS = {"run": int, **{name: kind for name, kind in TYPES.items() if kind is not str}}
CHUNK, VIDEO = 20_000, COLUMNS.index("video")
TIMES = ("seconds", "wait", "decode", "flow", "encode", "track")
OF_BOTH = ("claimed", "width", "height", "host", "device", "time")
STATUSES = ("done", "rejected", "failed")


def read_lines(folder: Path, names: Collection[str] = ()) -> pd.DataFrame:
    """Every line of the records in `folder`, in the order of writing.

    Parameters
    ----------
    names: read only the lines on these videos; empty: all lines.

    Returns
    -------
    A frame with the fields of `m3flow.results.records.Record`; `kind`: "flow" for a run that made flow (and perhaps
    trajectories in the same pass), "trajectories" for a run that made only trajectories; `run`: the number of the
    records file.
    """
    rows = _rows(folder, frozenset(names))
    pieces = [_piece([])]
    while chunk := list(islice(rows, CHUNK)):
        pieces.append(_piece(chunk))
    filled = [piece for piece in pieces if len(piece)] or pieces
    return pd.concat(filled, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)


def _rows(folder: Path, names: frozenset[str]) -> Iterator[list[str | int]]:
    """The cells of every line, with its kind and run."""
    for run, path in enumerate(record_files(folder)):
        kind = "trajectories" if path.name.startswith("trajectories") else "flow"
        for row in read_rows(path):
            if not names or row[VIDEO] in names:
                yield [*row, kind, run]


def _piece(rows: list[list[str | int]]) -> pd.DataFrame:
    names = [*COLUMNS, "kind", "run"]
    columns = zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True)
    return pd.DataFrame({name: np.array(cells, NUMBERS.get(name, object)) for name, cells in columns})


def videos_of(lines: pd.DataFrame) -> pd.DataFrame:
    """The state of every video, from its latest lines.

    A video whose flow and trajectories were made by two runs has the worse status of the two. Its numbers come
    from the latest line with status "done": a later line with status "kept" does not change them.

    Returns
    -------
    A frame indexed by the video's name: `status` ("done", "rejected" or "failed"), `reason`, and the other
    fields of `m3flow.results.records.Record`, NaN if not measured. Seconds are summed over both runs.
    """
    lines = _without_superseded(lines)
    by_kind = lines.groupby(["video", "kind"], sort=False)
    latest = lines.loc[by_kind.tail(1).index]
    latest = latest.assign(status=latest["status"].replace("kept", "done"))
    # The worse status first; of two equal ones the flow's, on which the trajectories depend.
    latest = latest.assign(rank=-latest["status"].map({name: rank for rank, name in enumerate(STATUSES)}))
    latest = latest.sort_values(["rank", "kind"], kind="stable")
    state = latest.groupby("video")[["status", "reason"]].first()
    done = pd.concat([_kept_alone(lines), lines[lines["status"] == "done"]])
    done = done.loc[done.groupby(["video", "kind"], sort=False).tail(1).index]
    return state.join(_numbers(done)).sort_index()


def _kept_alone(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines on videos recorded as kept but never as done: the run was killed between the file and the record.

    Their numbers are those of the files; the time to make them is unknown.
    """
    made = (lines["status"] == "done").groupby([lines["video"], lines["kind"]]).transform("any")
    alone = lines[(lines["status"] == "kept") & (lines["frames"] > 0) & ~made]
    return alone.assign(**dict.fromkeys(TIMES, float("nan")))


def _without_superseded(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines without those on trajectories older than a run that made flow and trajectories in one pass."""
    both = lines[(lines["kind"] == "flow") & (lines["status"] == "done") & (lines["windows"] > 0)]
    last = pd.Series(both.index, index=both["video"]).groupby(level=0).max()
    superseded = (lines["kind"] == "trajectories") & (lines.index < lines["video"].map(last).fillna(-1))
    return lines[~superseded]


def _numbers(done: pd.DataFrame) -> pd.DataFrame:
    """A row per video, from its "done" lines."""
    of_flow, of_trajectories = columns("flow"), columns("trajectories")
    numbers = done.copy()
    # Not measured: negative values, the flow's numbers in a run without flow, and likewise the trajectories'.
    for name in (*of_flow, *of_trajectories):
        numbers[name] = done[name].where(done[name] >= 0)
    numbers.loc[done["camera"] < 0, [name for name in of_flow if name.startswith("camera")]] = np.nan
    numbers.loc[(done["speed"] == 0) & (done["still"] == 0), of_flow] = np.nan
    numbers.loc[~(done["windows"] > 0), of_trajectories] = np.nan
    # "flow" sorts before "trajectories"; `first` takes the first value that is not NaN.
    numbers = numbers.sort_values("kind", kind="stable")
    grouped = numbers.groupby("video")
    measured = ["frames", *of_flow, *of_trajectories]
    return grouped[list(TIMES)].sum(min_count=1).join(grouped[[*OF_BOTH, *measured]].first())


def busy_seconds(lines: pd.DataFrame) -> float:
    """The time in seconds during which at least one video was in progress: the union of all lines' intervals.

    Lines have whole seconds: a video is counted to the end of its last second.
    """
    ended = end_seconds(lines)
    begin, end = ended - lines["seconds"].to_numpy(), ended + 1
    order = np.argsort(begin)
    begin, end = begin[order], np.maximum.accumulate(end[order])
    # From each start, or from the latest end so far if that is later, to the end.
    covered = np.maximum(begin, np.concatenate([begin[:1], end[:-1]]))
    return float(np.maximum(end - covered, 0).sum())


def end_seconds(lines: pd.DataFrame) -> np.ndarray:
    """The time of each line, in seconds since 1970."""
    times = pd.to_datetime(lines["time"], utc=True, errors="coerce", format="ISO8601")
    seconds = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return seconds.fillna(0.0).to_numpy()
