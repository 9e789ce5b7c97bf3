"""Outputs that a video still needs, from comparing its files with the settings and the source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3flow.errors import BadInput
from m3flow.extraction.tasks import CodecTask, FrameTask, StoredFlowTask, VideoTask
from m3flow.extraction.work import Work
from m3flow.layout import frames_folder
from m3flow.packs.store import with_packs
from m3flow.results.forms import form_of
from m3flow.results.provenance import (
    limits_digest,
    same_source,
    settings_digest,
    source_text,
    trajectory_digest,
)
from m3flow.results.stored_flow import stored_flow
from m3flow.results.stored_frames import frames_made
from m3flow.results.trajectoryfile import read_made
from m3flow.settings import BACKWARD, FlowSettings, TrajectorySettings
from m3flow.videos.identity import identity, stamp, stamp_text
from m3flow.videos.videolist import Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator


class Planner:
    """Decides which outputs of each video are still to be made.

    Parameters
    ----------
    work: the requested outputs.
    motion: the estimator for flow from frames; None if the work needs none.
    device: the computing torch device; "cpu" also for NumPy.
    """

    def __init__(self, work: Work, motion: MotionEstimator | None, device: str) -> None:
        self._work, self._motion, self._device = work, motion, device
        self._settings = _digests(work)
        # Results are also read from packs, but written as single files.
        self._stored = with_packs(work.outputs)

    def task(self, video: Video) -> VideoTask:
        """The task of a video; an empty one (status "kept") if all of its outputs are current.

        Its record says with which settings and from which source, for `m3flow.experiment.remaining`. A video
        that cannot be used, or has no stored flow that its trajectories need, gives a task that has failed.
        """
        before = stamp(video.source)
        task = VideoTask(video, self._device)
        with task.attributed():
            task = self._task(video)
        task.record.set(self._settings)
        if self._work.flow is not None or self._work.reads_codec:
            task.record.modified = stamp_text(before)
        return task

    def _task(self, video: Video) -> VideoTask:
        work = self._work
        if work.flow is not None and self._motion is not None:
            return self._from_frames(video, work.flow, self._motion)
        if work.trajectories is not None and work.trajectories.job == "mvs":
            return self._from_codec(video, work.trajectories)
        if work.trajectories is not None:
            return self._from_stored_flow(video, work.trajectories)
        return VideoTask(video, self._device)

    def _from_frames(self, video: Video, flow: FlowSettings, motion: MotionEstimator) -> VideoTask:
        """Flow from the frames and, if requested, the trajectories in the same pass."""
        settings, outputs, stored = self._work.trajectories, self._work.outputs, self._stored
        before, source = stamp(video.source), identity(video.source)
        make_flow = self._work.keep_flow and not flow_is_current(stored.flow(video.name), flow, source)
        make_trajectories = settings is not None and not trajectories_are_current(
            stored.trajectories(video.name, settings.length), settings, flow.identity(), source
        )
        if not make_flow and not make_trajectories:
            kept = self._work.keep_flow
            made = stored_flow(stored.flow(video.name)).made if kept else {"source": source}
            return self._kept(video, made)
        both_ways = settings is not None and settings.confidence == "forward-backward"
        if settings is not None and self._work.keep_flow and not make_flow and not both_ways:
            # The flow is current and only the trajectory settings differ: do not compute it again.
            return self._from_stored_flow(video, settings)
        task = FrameTask(
            video,
            motion,
            flow,
            flow_to=outputs.flow(video.name) if make_flow else None,
            trajectories=settings,
            trajectories_to=outputs.trajectories(video.name, settings.length)
            if settings is not None and make_trajectories
            else None,
            source=source,
            before=before,
        )
        task.record.source = source_text(source)
        return task

    def _from_stored_flow(self, video: Video, settings: TrajectorySettings) -> VideoTask:
        """Trajectories from the flow files."""
        existing = self._work.existing
        flow = existing.of(video.name) if existing else stored_flow(self._stored.flow(video.name))
        if flow.step < 0:
            raise BadInput(BACKWARD.format(flow.step))
        task: VideoTask
        stored = self._stored.trajectories(video.name, settings.length)
        if trajectories_are_current(stored, settings, flow.settings, flow.source):
            task = self._kept(video, {"source": flow.source})
        else:
            path = self._work.outputs.trajectories(video.name, settings.length)
            task = StoredFlowTask(video, self._device, flow, settings, path)
        flow_digest = settings_digest(flow.settings)
        task.record.trajectory_settings = trajectory_digest(settings.identity(), flow_digest)
        task.record.source = source_text(flow.source)
        return task

    def _from_codec(self, video: Video, settings: TrajectorySettings) -> VideoTask:
        """Trajectories from the motion vectors in the video file itself."""
        before, source = stamp(video.source), identity(video.source)
        stored = self._stored.trajectories(video.name, settings.length)
        if trajectories_are_current(stored, settings, {}, source):
            return self._kept(video, {"source": source})
        path = self._work.outputs.trajectories(video.name, settings.length)
        task = CodecTask(video, self._device, settings, path, source=source, before=before)
        task.record.source = source_text(source)
        return task

    def _kept(self, video: Video, made: dict[str, Any]) -> VideoTask:
        task = VideoTask(video, self._device)
        task.record.status = "kept"
        # A run that was killed may have left the files and no record: the files know its figures.
        about = made["source"]
        task.record.set({name: int(about.get(name, 0)) for name in ("frames", "claimed", "width", "height")})
        task.record.set(made.get("motion", {}))
        task.record.source = source_text(about)
        return task


def _digests(work: Work) -> dict[str, str]:
    """The record's fields `flow_settings`, `trajectory_settings` and `limits`, as far as the work decides them."""
    found = {"limits": limits_digest(work.limits)}
    flow_digest = settings_digest(work.flow.identity()) if work.flow else settings_digest({})
    if work.flow is not None and work.keep_flow:
        found["flow_settings"] = flow_digest
    if work.trajectories is not None and (work.flow is not None or work.reads_codec):
        found["trajectory_settings"] = trajectory_digest(work.trajectories.identity(), flow_digest)
    return found


def flow_is_current(folder: Path, settings: FlowSettings, source: dict[str, Any]) -> bool:
    """Whether the flow files are there, made with these settings from this source."""
    wanted = settings.identity()
    form = form_of(wanted)
    for path in form.files(folder):
        if not path.is_file():
            return False
        try:
            made = form.made(path)
        except BadInput:
            return False
        if made.get("settings") != wanted or not same_source(made, source):
            return False
    return "frames" not in wanted or frames_are_whole(folder, wanted, source)


def frames_are_whole(folder: Path, settings: dict[str, Any], source: dict[str, Any]) -> bool:
    """Whether the frames next to the flow are there, made with these settings (`FlowSettings.identity`)."""
    try:
        made = frames_made(frames_folder(folder))
    except BadInput:
        return False
    return made.get("settings") == settings and same_source(made, source)


def trajectories_are_current(
    path: Path, settings: TrajectorySettings, flow: dict[str, Any], source: dict[str, Any]
) -> bool:
    """Whether the file exists and was made with these settings from this flow ({} for none) of this source."""
    if not path.is_file():
        return False
    try:
        made = read_made(path)
    except BadInput:
        return False
    return (
        made.get("settings") == settings.identity() and made.get("flow") == flow and same_source(made, source)
    )
