"""Verification that the files of a run exist, are complete, and were made with the expected settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.errors import BadInput
from m3flow.layout import Outputs, frames_folder
from m3flow.results.forms import Form, form_in, form_of
from m3flow.results.provenance import same_source
from m3flow.results.records import read_records, record_files
from m3flow.results.stored_frames import check_frames
from m3flow.results.trajectoryfile import Trajectories, load_trajectories
from m3flow.text import one_line
from m3flow.trajectories.tracking import GRID, LARGEST, window_starts
from m3flow.videos.decoder import Decoder, Limits
from m3flow.videos.identity import identity
from m3flow.videos.parallel import decoded_side_by_side
from m3flow.videos.videolist import Video


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The expected files of each video.

    Attributes
    ----------
    outputs: the output folder.
    flow, trajectories: whether flow files, and a trajectory file, are expected.
    length: steps of a trajectory, part of the file's name.
    flow_settings, trajectory_settings: the settings expected in the files' provenance, as in
        `FlowSettings.identity`; absent keys are not compared.
    limits: on decoding a flow file.
    """

    outputs: Outputs
    flow: bool = True
    trajectories: bool = True
    length: int = 6
    flow_settings: dict[str, Any] = field(default_factory=dict)
    trajectory_settings: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


@dataclass
class Verified:
    """The problems of one video's files.

    Attributes
    ----------
    video: its output name.
    problems: one line each; empty if all is well.
    missing: whether missing files are the only problem.
    remove: the files to remove so that the next run makes them again.
    settings: from the files' provenance: `flow` and `trajectories`, if they exist.
    """

    video: str
    problems: list[str] = field(default_factory=list)
    missing: bool = True
    remove: list[Path] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def wrong(self, problem: str, *files: Path) -> None:
        self.problems.append(one_line(problem))
        self.missing = False
        self.remove += [file for file in files if file not in self.remove]


def verify_all(videos: Sequence[Video], wanted: Wanted, workers: int = 0) -> Iterator[Verified]:
    """Check the files of all videos in parallel; results come as they finish."""
    rejected = rejected_before(wanted.outputs)

    def work(decoder: Decoder, video: Video) -> Verified:
        return verify(decoder, video, wanted, rejected.get(video.name, ""))

    yield from decoded_side_by_side(videos, work, limits=wanted.limits, workers=workers)


class Mixture:
    """Counts the settings of videos, to report those that differ."""

    def __init__(self) -> None:
        self._values: dict[str, Counter[str]] = {}

    def add(self, settings: dict[str, dict[str, Any]]) -> None:
        """Count the settings of one video, `Verified.settings`."""
        for section, values in settings.items():
            for key, value in values.items():
                inner = value if isinstance(value, dict) else {"": value}
                for name, one in inner.items():
                    counts = self._values.setdefault(".".join(filter(None, (section, key, name))), Counter())
                    counts[str(one)] += 1

    def lines(self) -> list[str]:
        """Lines such as "flow.estimator: farneback in 3, dis in 2"."""
        return [
            f"{name}: "
            + ", ".join(
                f"{value or '(none)'} in {count}"
                for value, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
            )
            for name, counts in self._values.items()
            if len(counts) > 1
        ]


def rejected_before(outputs: Outputs) -> dict[str, str]:
    """The reasons of the videos that were rejected, and not made since."""
    reasons: dict[str, str] = {}
    for record in read_records(record_files(outputs.records)):
        if record.status in ("done", "kept"):
            reasons.pop(record.video, None)
        if record.status == "rejected":
            # The first has the cause; later ones only report missing inputs.
            reasons.setdefault(record.video, record.reason)
    return reasons


def verify(decoder: Decoder, video: Video, wanted: Wanted, rejected: str = "") -> Verified:
    """Check one video's files; `rejected` is the reason why a run could not make them."""
    found = Verified(video.name)
    source = _source_now(video)
    made: dict[str, Any] = {}
    if wanted.flow:
        made = _verify_flow(decoder, wanted, source, found)
    if wanted.trajectories:
        _verify_trajectories(wanted, source, made, found)
    if rejected and found.missing and found.problems:
        found.problems = [one_line(f"{video.name}: not made, the video was rejected: {rejected}")]
    return found


def _source_now(video: Video) -> dict[str, Any]:
    """The current fingerprint of the video; {} if it was deleted: its results may outlive it."""
    try:
        return identity(video.source)
    except (BadInput, OSError):
        return {}


def _missing(found: Verified, path: Path) -> None:
    found.problems.append(one_line(f"{path}: missing"))


def _verify_flow(decoder: Decoder, wanted: Wanted, source: dict[str, Any], found: Verified) -> dict[str, Any]:
    """Check the stored flow; returns its provenance."""
    folder = wanted.outputs.flow(found.video)
    says = wanted.flow_settings
    form = form_of(says) if "codec" in says or "store" in says else form_in(folder)
    paths = form.files(folder)
    there = [path for path in paths if path.is_file()]
    for path in paths:
        if path not in there:
            _missing(found, path)
    made: list[dict[str, Any]] = []
    for path in there:
        try:
            made.append(_readable_flow(decoder, form, path))
        except BadInput as error:
            found.wrong(str(error), *there)
    if len(made) < len(paths):
        if made and not found.remove:
            # One without the other is useless, and would look like part of a run in progress.
            found.remove += there
        return {}
    first, *others = made
    found.settings["flow"] = first.get("settings", {})
    for other in others:
        if first.get("settings") != other.get("settings") or not same_source(first, other.get("source", {})):
            found.wrong(f"{folder}: x.mp4 and y.mp4 were not made together", *there)
    for problem in _differences(first, wanted.flow_settings, source):
        found.wrong(f"{folder}: {problem}", *there)
    if "frames" in first.get("settings", {}):
        try:
            check_frames(frames_folder(folder), first)
        except BadInput as error:
            found.wrong(str(error), frames_folder(folder))
    return first


def _readable_flow(decoder: Decoder, form: Form, path: Path) -> dict[str, Any]:
    """The provenance of a flow file; raises BadInput unless the content matches it."""
    made = form.made(path)
    if not made:
        raise BadInput(f"{path}: has no provenance")
    about, settings = made.get("source", {}), made.get("settings", {})
    contents = form.check(path, made, decoder)
    expected = about.get("frames", 0) - abs(settings.get("step", 1))
    if contents.frames != expected:
        raise BadInput(f"{path}: damaged ({contents.frames} of {expected} frames decode)")
    size, stated = (contents.width, contents.height), (about.get("width"), about.get("height"))
    if size != stated:
        raise BadInput(f"{path}: frames of {size[0]}x{size[1]} where the video has {stated[0]}x{stated[1]}")
    return made


def _verify_trajectories(
    wanted: Wanted, source: dict[str, Any], flow_made: dict[str, Any], found: Verified
) -> None:
    path = wanted.outputs.trajectories(found.video, wanted.length)
    if not path.is_file():
        _missing(found, path)
        return
    try:
        trajectories = load_trajectories(path)
    except BadInput as error:
        found.wrong(str(error), path)
        return
    made = trajectories.made
    if not made:
        found.wrong(f"{path}: has no provenance", path)
        return
    found.settings["trajectories"] = made.get("settings", {})
    problems = _differences(
        made, wanted.trajectory_settings, {} if "existing" in made.get("flow", {}) else source
    )
    if made.get("flow") and "existing" not in made["flow"]:
        problems += _differences({"settings": made["flow"], "source": source}, wanted.flow_settings, source)
    if flow_made and made.get("flow"):
        if made["flow"] != flow_made.get("settings"):
            problems.append("made from flow with other settings than the stored flow")
        elif not same_source(made, flow_made.get("source", {})):
            problems.append("made from another video than the stored flow")
    feat, inside = trajectories.traj_feat, trajectories.traj_type
    shape = _expected_shape(made)
    if feat.dtype != np.int8 or inside.dtype != np.uint8:
        problems.append(f"has {feat.dtype} and {inside.dtype} instead of int8 and uint8")
    elif feat.shape != shape:
        problems.append(f"traj_feat is {list(feat.shape)} instead of {list(shape)}")
    elif feat.size and (max(-int(feat.min()), int(feat.max())) > LARGEST or int(inside.max()) > 1):
        problems.append("has values out of range")
    problems += _arrays_missing(trajectories)
    for problem in problems:
        found.wrong(f"{path}: {problem}", path)


def _arrays_missing(trajectories: Trajectories) -> list[str]:
    """Arrays that the file's settings require and that are missing or of the wrong type, one line each."""
    settings = trajectories.made.get("settings", {})
    meant = {
        "traj_conf": (trajectories.traj_conf, np.uint8, settings.get("confidence", "none") != "none"),
        "traj_fine": (trajectories.traj_fine, np.int16, settings.get("fine", False)),
    }
    return [
        f"has no {name} of {np.dtype(dtype)}, which its settings require"
        for name, (array, dtype, wanted) in meant.items()
        if wanted and (array is None or array.dtype != dtype)
    ]


def _expected_shape(made: dict[str, Any]) -> tuple[int, int, int, int]:
    """The shape of traj_feat according to the settings and the video in the file's provenance."""
    settings, about = made.get("settings", {}), made.get("source", {})
    length, step = settings.get("length", 0), _step(made)
    # The codec's motion vectors have a window at every frame, like trajs_dense.
    job = "trajs" if settings.get("job") == "trajs" else "trajs_dense"
    windows = len(window_starts(about.get("frames", 0) - step, length, job, step))
    return 2 * length, windows, about.get("height", 0) // GRID, about.get("width", 0) // GRID


def _step(made: dict[str, Any]) -> int:
    """The step of the flow that trajectories were made from; the names of existing flow may state another."""
    return int(made.get("used", {}).get("step", made.get("flow", {}).get("step", 1)))


def _differences(made: dict[str, Any], wanted: dict[str, Any], source: dict[str, Any]) -> list[str]:
    """Differences between a file's provenance and the expected settings and source, one line each."""
    settings = made.get("settings", {})
    problems = []
    for key, value in wanted.items():
        stored = settings.get(key)
        same = (
            value.items() <= stored.items()
            if isinstance(value, dict) and isinstance(stored, dict)
            else stored == value
        )
        if not same:
            problems.append(f"made with {key} {stored!r}, expected {value!r}")
    if source and not same_source(made, source):
        problems.append("made from another video than the current one")
    return problems
