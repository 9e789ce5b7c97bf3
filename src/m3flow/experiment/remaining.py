"""The outputs of a list that are still to be made, and why.

Existing results are compared with the settings and the sources: using the records, which a run writes for every
video, and the files themselves where the records are incomplete. Nothing else matters: no modification time of a
result, no other program's metadata.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from m3flow.errors import BadInput
from m3flow.experiment.history import Attempt, History
from m3flow.layout import FRAMES_MADE, Outputs, flow_form, trajectory_suffix
from m3flow.packs.store import Packs, with_packs
from m3flow.results.forms import form_in
from m3flow.results.provenance import limits_digest, settings_digest, source_text, trajectory_digest
from m3flow.results.stored_flow import ExistingFlow, read_provenance
from m3flow.results.trajectoryfile import read_made
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.identity import identity, stamp_text
from m3flow.videos.limits import Limits
from m3flow.videos.videolist import Video

MISSING, OTHER_SETTINGS, OTHER_VIDEO = "missing", "other settings", "another video"
NO_SUCH_FILE = "no such file"
# A stat on a network file system is a round trip; many are in flight at a time.
THREADS, CHUNK = 16, 512


class Remaining(NamedTuple):
    """The outputs of a video that are still to be made.

    Attributes
    ----------
    flow, trajectories: why they are to be made: MISSING, OTHER_SETTINGS (the existing ones have others),
        OTHER_VIDEO (from another source); "" if they are current, or not requested.
    rejected: why the video was rejected, if nothing has changed since: it is not retried.
    """

    flow: str = ""
    trajectories: str = ""
    rejected: str = ""

    @property
    def due(self) -> bool:
        return bool(self.flow or self.trajectories)


NOTHING = Remaining()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The outputs that every video should have.

    Attributes
    ----------
    outputs: the output folder.
    flow: settings of the stored flow; None for none.
    tracked: settings of the flow that the trajectories are of, or where flow of other programs lies; None for
        motion vectors of the codec.
    of_stored_flow: the trajectories are of the flow that is stored, whatever its settings, in place of `tracked`.
    trajectories: settings of the trajectories; None for none.
    limits: decoding limits, which decide whether a rejected video is retried.
    retry: whether rejected videos are retried when they change.
    """

    outputs: Outputs
    flow: FlowSettings | None = None
    tracked: FlowSettings | ExistingFlow | None = None
    of_stored_flow: bool = False
    trajectories: TrajectorySettings | None = None
    limits: Limits = field(default_factory=Limits)
    retry: bool = True


def remaining(
    wanted: Wanted,
    videos: Sequence[Video],
    history: History,
    packs: Packs | None = None,
    *,
    every_file: bool,
) -> list[Remaining]:
    """The outputs of each video that are still to be made.

    Parameters
    ----------
    history: the records of the output folder.
    packs: its packs; read here if not given.
    every_file: check every single file; otherwise one directory listing per folder of videos is used, which on a
        network file system is much faster, but does not notice a flow folder that has lost one of its two
        files.
    """
    packs = Packs(wanted.outputs) if packs is None else packs
    check = _Check(wanted, history, packs, every_file)
    check.look_at([video for video in videos if video.name in history])
    return [check(video) for video in videos]


class _Check:
    def __init__(self, wanted: Wanted, history: History, packs: Packs, every_file: bool) -> None:
        self._wanted, self._history, self._every_file = wanted, history, every_file
        self._flows, self._trajs = Listing(wanted.outputs.flows), Listing(wanted.outputs.trajs)
        self._packs = packs
        self._readable = with_packs(wanted.outputs)
        self._sources: dict[str, os.stat_result] = {}
        self._limits = limits_digest(wanted.limits)
        self._flow = settings_digest(wanted.flow.identity()) if wanted.flow else ""
        self._frames = wanted.flow is not None and wanted.flow.frames.store != "none"
        self._form = flow_form(wanted.flow.identity()) if wanted.flow else ""
        if wanted.trajectories is not None:
            tracked = wanted.tracked.identity() if wanted.tracked else {}
            self._tracked = trajectory_digest(wanted.trajectories.identity(), settings_digest(tracked))
            self._by_flow: dict[str, str] = {}
            self._ending = trajectory_suffix(wanted.trajectories.length)

    def look_at(self, videos: Sequence[Video]) -> None:
        """Stat the source files of videos."""
        chunks = [videos[start : start + CHUNK] for start in range(0, len(videos), CHUNK)]
        with ThreadPoolExecutor(THREADS) as threads:
            for found in threads.map(_look_at, chunks):
                self._sources.update(found)

    def __call__(self, video: Video) -> Remaining:
        past = self._history[video.name]
        flow = self._flow_due(video, past.flow.made) if self._flow else ""
        trajectories = ""
        if self._wanted.trajectories is not None:
            # Trajectories of stored flow depend on the flow, not on the video.
            stored = past.flow.made if self._flow and not flow else None
            trajectories = self._trajectories_due(video, past.trajectories.made, stored)
        if not flow and not trajectories:
            return NOTHING
        last = (past.flow if self._flow else past.trajectories).last
        if last is not None and self._stays_rejected(video, last):
            return Remaining(rejected=last.reason)
        return Remaining(flow, trajectories)

    def _flow_due(self, video: Video, made: Attempt | None) -> str:
        if not self._packs.has_flow(video.name, self._form):
            if video.name not in self._flows:
                return MISSING
            paths = self._wanted.outputs.flow_files(video.name, self._form) if self._every_file else ()
            if paths and self._frames:
                paths += (self._wanted.outputs.frames(video.name) / FRAMES_MADE,)
            if not all(path.is_file() for path in paths):
                folder = self._wanted.outputs.flow(video.name)
                in_another_form = form_in(folder).name != self._form
                return OTHER_SETTINGS if in_another_form and _flow_file(folder) else MISSING
        if made is None or not made.settings:
            made = _flow_file(self._readable.flow(video.name))
        if made is None or made.settings != self._flow:
            return OTHER_SETTINGS if made else MISSING
        return OTHER_VIDEO if self._replaced(video, made) else ""

    def _trajectories_due(self, video: Video, made: Attempt | None, flow: Attempt | None) -> str:
        assert self._wanted.trajectories is not None
        length = self._wanted.trajectories.length
        packed = self._packs.has_trajectories(video.name, length)
        if not packed and video.name + self._ending not in self._trajs:
            return MISSING
        if made is None or not made.settings:
            made = _trajectory_file(self._readable.trajectories(video.name, length))
        if made is None or made.settings != self._trajectory_digest(video):
            return OTHER_SETTINGS if made else MISSING
        if flow is not None and flow.source:
            return OTHER_VIDEO if made.source != flow.source else ""
        if isinstance(self._wanted.tracked, ExistingFlow):
            changed = self._every_file and self._wanted.tracked.source(video.name) != made.source
            return OTHER_VIDEO if changed else ""
        return OTHER_VIDEO if self._replaced(video, made) else ""

    def _trajectory_digest(self, video: Video) -> str:
        if not self._wanted.of_stored_flow or self._wanted.trajectories is None:
            return self._tracked
        flow = self._history[video.name].flow.made
        if flow is None or not flow.settings:
            flow = _flow_file(self._readable.flow(video.name))
        settings = flow.settings if flow else ""
        if settings not in self._by_flow:
            self._by_flow[settings] = trajectory_digest(self._wanted.trajectories.identity(), settings)
        return self._by_flow[settings]

    def _replaced(self, video: Video, then: Attempt) -> bool:
        """Whether the video has been replaced; a deleted one has not: its results remain valid."""
        if not then.source:
            return False
        if video.source not in self._sources:
            self._sources.update(_look_at([video]))
        now = self._sources.get(video.source)
        if now is None:
            return False
        # A folder's modification time does not change when the content of an image changes.
        in_folder = self._every_file and stat.S_ISDIR(now.st_mode)
        if not in_folder and stamp_text((now.st_size, now.st_mtime_ns)) == then.modified:
            return False
        try:
            return source_text(identity(video.source)) != then.source
        except (BadInput, OSError):
            return False

    def _stays_rejected(self, video: Video, last: Attempt) -> bool:
        if last.status != "rejected":
            return False
        if not self._wanted.retry:
            return True
        if last.reason.startswith(NO_SUCH_FILE):
            return video.source not in self._sources
        same = last.settings == (self._flow or self._tracked) and last.limits == self._limits
        return same and bool(last.source) and not self._replaced(video, last)


def _look_at(videos: Iterable[Video]) -> dict[str, os.stat_result]:
    found: dict[str, os.stat_result] = {}
    for video in videos:
        try:
            found[video.source] = os.stat(video.source)  # noqa: PTH116 (10x faster)
        except OSError:
            continue
    return found


def _flow_file(folder: Path) -> Attempt | None:
    """What the flow in a folder says of itself; None where it cannot be read."""
    try:
        made = read_provenance(folder)
    except BadInput:
        return None
    return _made(settings_digest(made.get("settings", {})), made)


def _trajectory_file(path: Path) -> Attempt | None:
    """The provenance of a trajectory file; None if it cannot be read."""
    try:
        made = read_made(path)
    except BadInput:
        return None
    return _made(trajectory_digest(made.get("settings", {}), settings_digest(made.get("flow", {}))), made)


def _made(settings: str, made: dict[str, Any]) -> Attempt:
    return Attempt("done", "", "", "", source_text(made.get("source", {})), "", settings)


def differences(
    wanted: Wanted, videos: Sequence[Video], found: Sequence[Remaining], history: History
) -> dict[str, str]:
    """Differences between the settings of existing results and the requested ones, by video name.

    One file is read for each combination of settings in the records.
    """
    wanted = replace(wanted, outputs=with_packs(wanted.outputs))
    texts: dict[tuple[bool, str], str] = {}
    named: dict[str, str] = {}
    for video, left in zip(videos, found, strict=True):
        of_flow = left.flow == OTHER_SETTINGS
        if not of_flow and left.trajectories != OTHER_SETTINGS:
            continue
        past = history[video.name]
        made = (past.flow if of_flow else past.trajectories).made
        key = (of_flow, made.settings if made and made.settings else video.name)
        if key not in texts:
            texts[key] = _difference(wanted, video.name, of_flow=of_flow)
        named[video.name] = texts[key]
    return named


def _difference(wanted: Wanted, name: str, *, of_flow: bool) -> str:
    try:
        if of_flow and wanted.flow is not None:
            made = read_provenance(wanted.outputs.flow(name))
            return _words(made.get("settings", {}), wanted.flow.identity())
        if wanted.trajectories is not None:
            made = read_made(wanted.outputs.trajectories(name, wanted.trajectories.length))
            flow = wanted.tracked.identity() if wanted.tracked else {}
            if wanted.of_stored_flow:
                flow = read_provenance(wanted.outputs.flow(name)).get("settings", {})
            return _words(made.get("settings", {}), wanted.trajectories.identity()) or _words(
                made.get("flow", {}), flow
            )
    except BadInput:
        pass
    return "unreadable"


def _words(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The difference of settings in words: "dis → farneback", "bound 20.0 → 10.0, step 1 → 2"."""
    for key in ("estimator", "job", "store"):
        if key in wanted and stored.get(key) != wanted[key]:
            return f"{stored.get(key, 'unknown')} → {wanted[key]}"
    if "camera" in wanted and stored.get("camera") != wanted["camera"]:
        # Of two cameras, most other settings differ too.
        return f"camera {stored.get('camera', 'unknown')} → {wanted['camera']}"
    words = []
    for key in stored | wanted:
        # Settings that add an array are omitted if they add none.
        before, value = stored.get(key, "none"), wanted.get(key, "none")
        if isinstance(value, dict) and isinstance(before, dict):
            words.append(_words(before, value))
        elif value != before:
            words.append(f"{key} {before} → {value}")
    return ", ".join(filter(None, words))


class Listing:
    """The names in a tree of results; each folder is listed once, on first use."""

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
