"""How far a list is: each video's state from the records and the files, without looking at files one by one."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m3flow.experiment.config import Experiment
from m3flow.results.records import record_files
from m3flow.videos.videolist import Video

State = Literal["done", "rejected", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "rejected", "failed", "missing")
NOT_BEGUN = "not begun"
GONE = "was made, but its files are gone: run m3flow verify --repair, then the workflow again"
NO_TRAJECTORIES = "flow is there, trajectories are not yet"
NO_FLOW = "trajectories are there, flow is not"


@dataclass
class Last:
    """What the records say of a video last, of its flow and of its trajectories."""

    flow: str = ""
    flow_reason: str = ""
    trajectories: str = ""
    trajectories_reason: str = ""
    frames: int = 0
    time: str = ""


@dataclass
class Status:
    """The state of every video of a list.

    Attributes
    ----------
    states: by the video's name; reasons: why, of those that are not done.
    frames: of the videos that the records know, by name.
    """

    states: dict[str, State] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[State, int]:
        counted = Counter(self.states.values())
        return {state: counted[state] for state in STATES}

    def why(self) -> list[tuple[State, str, int, str]]:
        """(state, reason, how many, the first such video), the most frequent first."""
        groups: dict[tuple[State, str], list[str]] = {}
        for name, reason in self.reasons.items():
            groups.setdefault((self.states[name], reason), []).append(name)
        order = sorted(groups.items(), key=lambda group: (STATES.index(group[0][0]), -len(group[1])))
        return [(state, reason, len(names), names[0]) for (state, reason), names in order]


def status_of(experiment: Experiment, videos: Sequence[Video] | None = None) -> Status:
    """The state of every video of an experiment.

    A video is done when its files are there; whether they are whole and made with these settings is
    `m3flow verify`'s question. One folder listing for each folder of videos and one reading of the records:
    no call for each video, which on a network file system would take minutes.

    Raises UsageError for a list that cannot be used.
    """
    videos = experiment.videos.read() if videos is None else videos
    outputs = experiment.outputs
    records = last_records(record_files(outputs.records))
    flows = _Listing(outputs.flows)
    trajs = _Listing(outputs.trajs)
    ending = f"_{experiment.trajectories.length}.gz"
    needs_flow = experiment.wants_flow and experiment.keep_flow
    status = Status()
    nothing = Last()
    for video in videos:
        name = video.name
        last = records.get(name, nothing)
        if last.frames:
            status.frames[name] = last.frames
        tracked = name + ending in trajs
        flowed = not needs_flow or name in flows
        if tracked and flowed:
            status.states[name] = "done"
            continue
        state, reason = _why_not(last)
        if state == "missing" and tracked:
            reason = NO_FLOW
        elif state == "missing" and needs_flow and flowed:
            reason = NO_TRAJECTORIES
        status.states[name], status.reasons[name] = state, reason
    return status


def last_records(paths: Iterable[Path]) -> dict[str, Last]:
    """What the records say of each video last; only the few columns that this needs are looked at."""
    found: dict[str, Last] = {}
    seen: dict[tuple[str, bool], str] = {}
    for path in paths:
        of_flow = not path.name.startswith("trajectories")
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            try:
                where = [columns.index(name) for name in ("video", "status", "reason", "frames", "time")]
            except ValueError:
                continue  # another program's table
            for row in reader:
                if len(row) != len(columns):
                    continue  # a line that a kill cut off
                name, status, reason, frames, time = [row[index] for index in where]
                if time < seen.get((name, of_flow), ""):
                    continue
                seen[name, of_flow] = time
                last = found.setdefault(name, Last())
                if of_flow:
                    last.flow, last.flow_reason = status, reason
                else:
                    last.trajectories, last.trajectories_reason = status, reason
                if frames.isdecimal() and frames != "0":
                    last.frames = int(frames)
    return found


def _why_not(last: Last) -> tuple[State, str]:
    """The state of a video whose files are not there. What became of its flow explains its trajectories."""
    for status, reason in ((last.flow, last.flow_reason), (last.trajectories, last.trajectories_reason)):
        if status == "rejected":
            return "rejected", reason
        if status == "failed":
            return "failed", reason
    if last.trajectories in ("done", "kept"):
        return "missing", GONE
    return "missing", NOT_BEGUN


class _Listing:
    """What lies in a tree of results, a listing for each folder that is asked about."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._folders: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        if folder not in self._folders:
            try:
                entries = os.listdir(os.path.join(self._root, folder))  # noqa: PTH118
            except (FileNotFoundError, NotADirectoryError):
                entries = []
            self._folders[folder] = frozenset(entries)
        return last in self._folders[folder]
