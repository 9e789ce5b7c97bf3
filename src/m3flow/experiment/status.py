"""Status of a list: each video's state, from the records and the files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from m3flow.experiment.config import Experiment
from m3flow.experiment.history import History, Past
from m3flow.experiment.remaining import (
    OTHER_VIDEO,
    Remaining,
    Wanted,
    differences,
    remaining,
)
from m3flow.layout import Outputs
from m3flow.packs.store import Packs
from m3flow.results.stored_flow import NO_FLOW_FILE
from m3flow.text import reason_kind
from m3flow.videos.videolist import Video

State = Literal["done", "partial", "rejected", "failed", "outdated", "missing"]
STATES: tuple[State, ...] = ("done", "partial", "rejected", "failed", "outdated", "missing")
TO_DO: tuple[State, ...] = ("partial", "failed", "outdated", "missing")
REASONS_SHOWN = 10
MANY_VIDEOS = 2000
NOT_BEGUN = "not begun"
GONE = "was made, but its files are gone"
NO_TRAJECTORIES = "has flow, but no trajectories yet"
NO_FLOW = "has trajectories, but no flow"
REPLACED = "the video was replaced, will be made again"


@dataclass
class Status:
    """The state of every video of a list.

    Attributes
    ----------
    states: by the video's name: "done"; "rejected" (and not tried again unless it changes); "partial" (one of flow
        and trajectories is there), "failed", "outdated" (made with other settings or from another video) and
        "missing", which the next run makes.
    reasons: of the videos that are not done.
    remaining: the outputs still to be made, by the name of the video.
    frames: number of frames, by name, of the videos with a record.
    damaged_packs: for each damaged pack, what is wrong with it; its videos count as missing.
    """

    states: dict[str, State] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    remaining: dict[str, Remaining] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    damaged_packs: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[State, int]:
        counted = Counter(self.states.values())
        return {state: counted[state] for state in STATES}

    @property
    def to_do(self) -> int:
        return sum(self.counts[state] for state in TO_DO)

    def why(self) -> list[tuple[State, str, int, str]]:
        """(state, reason, number of videos, the first such video), the most frequent first."""
        exact: dict[tuple[State, str], list[str]] = {}
        for name, reason in self.reasons.items():
            exact.setdefault((self.states[name], reason), []).append(name)
        groups: dict[tuple[State, str], list[str]] = {}
        for (state, reason), names in exact.items():
            groups.setdefault((state, reason_kind(reason)), []).extend(names)
        order = sorted(groups.items(), key=lambda group: (STATES.index(group[0][0]), -len(group[1])))
        return [(state, self._reason(kind, names), len(names), names[0]) for (state, kind), names in order]

    def _reason(self, kind: str, names: list[str]) -> str:
        """The reason of a group without paths, where it is the same for all; else also without numbers."""
        reasons = {self.reasons[name] for name in names}
        without_paths = {re.sub(r":? '[^']*/[^']*'", "", reason) for reason in reasons}
        return without_paths.pop() if len(without_paths) == 1 else kind


def nothing_made(outputs: Outputs) -> bool:
    """Whether an output folder has no results and no records yet."""
    made = (outputs.flows, outputs.trajs, outputs.packs, outputs.records)
    return not any(folder.exists() for folder in made)


def wanted_by(experiment: Experiment) -> Wanted:
    """The outputs that an experiment requires of every video."""
    flow = experiment.flow if experiment.wants_flow else None
    return Wanted(
        outputs=experiment.outputs,
        flow=flow if experiment.keep_flow else None,
        tracked=experiment.existing or flow,
        trajectories=experiment.trajectories,
        limits=experiment.limits,
        retry=not experiment.skip_rejected,
    )


def status_of(
    experiment: Experiment, videos: Sequence[Video] | None = None, *, every_file: bool | None = None
) -> Status:
    """The state of every video of an experiment.

    Parameters
    ----------
    every_file: see `m3flow.experiment.remaining.remaining`; by default with one job per video, and for small
        lists.

    Raises UsageError for an unusable list. `m3flow verify` checks whether the files are complete.
    """
    videos = experiment.videos.read() if videos is None else videos
    if every_file is None:
        small = experiment.granularity == "auto" and len(videos) <= MANY_VIDEOS
        every_file = experiment.granularity == "video" or small
    wanted = wanted_by(experiment)
    history = History.of(experiment.outputs.records, experiment.trajectories.length)
    packs = Packs(experiment.outputs)
    found = remaining(wanted, videos, history, packs, every_file=every_file)
    other = differences(wanted, videos, found, history)
    status = Status(damaged_packs=list(packs.damaged.values()))
    for video, left in zip(videos, found, strict=True):
        name, past = video.name, history[video.name]
        if past.frames:
            status.frames[name] = past.frames
        if not left.due and not left.rejected:
            status.states[name] = "done"
            continue
        state, reason = _why_not(left, past, other.get(name, ""))
        status.states[name], status.reasons[name] = state, reason
        if left.due:
            status.remaining[name] = left
    return status


def tried(experiment: Experiment, videos: Sequence[Video]) -> Sequence[Video]:
    """The videos that a run processes: all, or, with `exclude: rejected`, those not rejected before."""
    if not experiment.skip_rejected:
        return videos
    states = status_of(experiment, videos, every_file=False).states
    return [video for video in videos if states[video.name] != "rejected"]


def replaced(experiment: Experiment, kind: str, videos: Sequence[Video]) -> list[str]:
    """Results with other settings that `m3flow flow` or `m3flow trajectories` will overwrite, one line each.

    kind: "flow", or "trajectories" (of the stored flow).
    """
    if kind == "flow":
        wanted = Wanted(outputs=experiment.outputs, flow=experiment.flow)
    else:
        wanted = Wanted(
            outputs=experiment.outputs,
            trajectories=experiment.trajectories,
            tracked=experiment.existing,
            of_stored_flow=experiment.wants_flow,
        )
    history = History.of(experiment.outputs.records, experiment.trajectories.length)
    found = remaining(wanted, videos, history, every_file=False)
    counts = Counter(differences(wanted, videos, found, history).values())
    return [
        f"{count:,} of {len(videos):,} videos have {kind} with other settings ({text}), made again"
        for text, count in counts.most_common(REASONS_SHOWN)
    ]


def _why_not(left: Remaining, past: Past, other: str) -> tuple[State, str]:
    """The state of a video that is not done, and the reason. The fate of its flow explains its trajectories."""
    if left.rejected:
        return "rejected", left.rejected
    if other:
        return "outdated", f"other settings ({other}), will be made again"
    if OTHER_VIDEO in (left.flow, left.trajectories):
        return "outdated", REPLACED
    last = [product.last for product in (past.flow, past.trajectories) if product.last is not None]
    if not left.flow:
        # The flow that was missing then has been made since.
        last = [attempt for attempt in last if not attempt.reason.startswith(NO_FLOW_FILE)]
    for attempt in last:
        if attempt.status == "failed":
            return "failed", attempt.reason
    for attempt in last:
        if attempt.status == "rejected":
            return "missing", f"was rejected ({attempt.reason}), will be tried again"
    if past.trajectories.made is not None and left.trajectories:
        return "missing", GONE
    if left.flow and not left.trajectories:
        return "partial", NO_FLOW
    if left.flow or past.flow.made is None:
        return "missing", NOT_BEGUN
    return "partial", NO_TRAJECTORIES


def summary(experiment: Experiment, status: Status) -> list[str]:
    """A few lines on the status of a list, with the next steps."""
    counts = status.counts
    states = [f"{counts[state]:,} {state}" for state in STATES if counts[state]]
    text = [f"m3flow: {', '.join(states) or 'none'} of {len(status.states):,} videos"]
    reasons = status.why()
    for state, reason, count, name in reasons[:REASONS_SHOWN]:
        text.append(f"  {count:,} {state}: {reason} (such as {name})")
    if len(reasons) > REASONS_SHOWN:
        text.append(f"  and {len(reasons) - REASONS_SHOWN} more reasons; m3flow status has them")
    if counts["rejected"]:
        text.append("  rejected videos are tried again when they change; exclude: rejected leaves them out")
    text += [f"  {line}" for line in damage(status)]
    if counts["failed"]:
        text.append(f"  logs of failed videos: {experiment.outputs.logs}; run again to try them again")
    return text


def damage(status: Status) -> list[str]:
    """A line for each damaged pack, and the next step."""
    lines = [f"damaged pack: {problem}" for problem in status.damaged_packs]
    return [*lines, "m3flow verify --repair keeps the whole files of damaged packs"] if lines else []
