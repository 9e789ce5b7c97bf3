"""Clips for pictures: moments of a video, from stored results or computed on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.camera import camera_flow
from m3flow.camera.selection import Decision, Selection
from m3flow.errors import BadInput
from m3flow.flow.base import is_tensor
from m3flow.layout import Outputs
from m3flow.results.forms import form_in, quantisation_of
from m3flow.results.homographies import camera_of
from m3flow.results.stored_flow import StoredFlow, stored_flow
from m3flow.results.trajectoryfile import Trajectories, load_trajectories
from m3flow.settings import FlowSettings, resize_of
from m3flow.trajectories.confidence import RELIABLE
from m3flow.trajectories.tracking import GRID, track, window_starts
from m3flow.videos.frame_rate import numbers_in_video
from m3flow.videos.frames import DEFAULT_RATE, Frames, Picture, colour_frames
from m3flow.videos.videolist import Video

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator


@dataclass(frozen=True)
class Pair:
    """The motion from frame `number` on: flow float32 [2, H, W] pixels, and the camera's homography [3, 3].

    cut: whether the pair crosses a cut.
    """

    number: int
    flow: np.ndarray | None
    homography: np.ndarray | None = None
    accepted: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Moment:
    """The content of the pictures of one frame.

    Attributes
    ----------
    number: of the frame, from 0.
    frame: uint8 [H, W, 3] RGB; None if the video is not available.
    flow: float32 [2, H, W] pixels, without the camera motion if it was removed; None without flow.
    camera: float32 [2, H, W] pixels, the removed camera motion; None if it was not estimated.
    accepted: whether a homography was accepted for the camera.
    points: float32 [L + 1, H//8, W//8, 2], (x, y) in pixels: the trajectories that start here.
    inside: bool [H//8, W//8], whether they stay inside the frame.
    reliable: bool [H//8, W//8], whether they are reliable to their end; None if their confidence is unknown.
    cut: whether a cut follows the frame.
    """

    number: int
    frame: np.ndarray | None
    flow: np.ndarray | None
    camera: np.ndarray | None
    accepted: bool
    points: np.ndarray
    inside: np.ndarray
    reliable: np.ndarray | None = None
    cut: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.frame is not None:
            return self.frame.shape[:2]
        if self.flow is not None:
            return self.flow.shape[1:]
        return self.inside.shape[0] * GRID, self.inside.shape[1] * GRID


class Clip(ABC):
    """A video with its motion.

    Attributes
    ----------
    video: the video; its source is "" if only the results are available.
    settings: of the flow, as returned by `FlowSettings.identity`; {} for files without settings.
    length: steps of the trajectories.
    source: the provenance of the flow's source, as far as it is stored.
    rate: frames per second. starts: the frames at which trajectories start.
    computed: whether the motion was computed for the picture instead of read from stored results.
    with_camera: whether the trajectories include the camera motion although the flow does not.
    """

    computed = False
    source: Mapping[str, Any] = MappingProxyType({})
    with_camera = False
    rate: Fraction = DEFAULT_RATE
    starts: Sequence[int] = ()

    def __init__(self, video: Video, settings: dict[str, Any], length: int) -> None:
        self.video = video
        self.settings = settings
        step = int(settings.get("step", 1))
        self.step = abs(step)
        # Backward flow starts at the later frame of each pair; there are no trajectories through it.
        self._later = max(0, -step)
        self.length = 1 if self._later else length

    @abstractmethod
    def pairs(self, numbers: Collection[int]) -> Iterator[Pair]:
        """The motion from each of these frames to the next, in order."""

    def window(self, start: int, flows: list[np.ndarray]) -> Trajectories:
        """The window of trajectories that starts at a frame."""
        del start
        features, inside = (np.asarray(a) for a in track(np.stack(flows), length=len(flows)))
        return _of_size(Trajectories(features, inside, len(flows)), *flows[0].shape[1:])

    def spread(self, count: int) -> list[int]:
        """Up to `count` start frames, spread evenly over the video; raises BadInput if there are none."""
        if not self.starts:
            raise BadInput(f"{self.video.name}: too short for a trajectory of {self.length} steps")
        return sorted({self.starts[int((i + 0.5) * len(self.starts) / count)] for i in range(count)})

    def moments(self, starts: Sequence[int]) -> Iterator[Moment]:
        """The moments at these start frames, given in ascending order."""
        frames = self._frames(starts)
        reach = range(0, self.length * self.step, self.step)
        waiting = deque(starts)
        held: dict[int, Pair] = {}
        for pair in self.pairs({start + ahead for start in starts for ahead in reach}):
            held[pair.number] = pair
            while waiting and pair.number >= waiting[0] + reach[-1]:
                yield self._moment(waiting.popleft(), held, next(frames, None))
                held = {number: pair for number, pair in held.items() if waiting and number >= waiting[0]}
        # A video shorter than a trajectory shows as many steps as it has.
        while waiting and waiting[0] in held:
            yield self._moment(waiting.popleft(), held, next(frames, None))

    def _moment(self, start: int, held: dict[int, Pair], frame: np.ndarray | None) -> Moment:
        chain = [held[n] for n in range(start, start + self.length * self.step, self.step) if n in held]
        first = chain[0]
        window = self.window(start, [pair.flow for pair in chain if pair.flow is not None])
        camera = None
        if first.flow is not None and first.homography is not None:
            camera = camera_flow(first.homography, *first.flow.shape[1:])
        points, inside = window.positions()[:, 0], window.traj_type[0] > 0
        reliable = None if window.traj_conf is None else window.traj_conf[-1, 0] >= RELIABLE
        return Moment(start, frame, first.flow, camera, first.accepted, points, inside, reliable, first.cut)

    def _frames(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """These frames in colour; none if the video is not available."""
        if not self.video.source:
            return
        kept = [number + self._later for number in numbers]
        shown = numbers_in_video(kept, self.settings, self.source)
        yield from colour_frames(self.video.source, shown, resize_of(self.settings))


class StoredClip(Clip):
    """A video with stored flow and, if they exist, stored trajectories.

    Raises BadInput if there is no readable flow.
    """

    def __init__(self, video: Video, outputs: Outputs, length: int) -> None:
        self._folder = outputs.flow(video.name)
        self._flow = stored_flow(self._folder)
        super().__init__(video, self._flow.settings, length)
        self.source = self._flow.source
        self.rate = Fraction(self.source.get("rate", DEFAULT_RATE))
        path = outputs.trajectories(video.name, length)
        self._stored = load_trajectories(path) if path.is_file() else None
        count = _flow_frames(self._flow)
        job = "trajs_dense"
        if self._stored is not None:
            settings = self._stored.made.get("settings", {})
            job = settings.get("job", job)
            self.with_camera = settings.get("track") == "pixels"
        if job == "mvs":
            # These trajectories follow the codec's vectors, not the flow shown beside them.
            self._stored, job = None, "trajs_dense"
        self._windows = window_starts(count, length, job, self.step)
        self.starts = self._windows or range(min(count, 1))

    def pairs(self, numbers: Collection[int]) -> Iterator[Pair]:
        camera = camera_of(self._folder)
        cuts = set(camera.cuts or ())
        number = min(numbers, default=0)
        for piece in self._flow.values(number, max(numbers, default=0) + 1):
            for levels in piece:
                if number in numbers:
                    flow = self._flow.quantisation.pixels(levels)
                    cut = number in cuts
                    if camera.homographies is None or camera.accepted is None:
                        yield Pair(number, flow, cut=cut)
                    else:
                        yield Pair(
                            number, flow, camera.homographies[number], bool(camera.accepted[number]), cut
                        )
                number += 1

    def window(self, start: int, flows: list[np.ndarray]) -> Trajectories:
        if self._stored is None or start not in self._windows:
            return super().window(start, flows)
        number = self._windows.index(start)
        if number >= self._stored.traj_type.shape[0]:
            return super().window(start, flows)
        return _of_size(self._stored.window(number), *flows[0].shape[1:])


class TrajectoriesAlone(Clip):
    """A video with stored trajectories but no stored flow: from the codec's vectors, or the flow was not kept."""

    def __init__(self, video: Video, outputs: Outputs, length: int) -> None:
        self._stored = load_trajectories(outputs.trajectories(video.name, length))
        made = self._stored.made
        super().__init__(video, made.get("flow", {}), length)
        self.source = made.get("source", {})
        self.rate = Fraction(self.source.get("rate", DEFAULT_RATE))
        settings = made.get("settings", {})
        self.with_camera = settings.get("track") == "pixels"
        apart = length * self.step if settings.get("job") == "trajs" else 1
        self.starts = range(0, len(self._stored.traj_type) * apart, apart)

    def pairs(self, numbers: Collection[int]) -> Iterator[Pair]:
        return (Pair(number, None) for number in sorted(numbers))

    def window(self, start: int, flows: list[np.ndarray]) -> Trajectories:
        del flows
        return self._stored.window(self.starts.index(start))


class ComputedClip(Clip):
    """A video whose motion is computed on demand, only at the requested frames."""

    computed = True

    def __init__(self, video: Video, motion: MotionEstimator, flow: FlowSettings, length: int) -> None:
        super().__init__(video, flow.identity(), length)
        self._motion, self._flow_settings = motion, flow
        frames = _frames_of(video, motion, flow)
        self.rate = frames.info.rate
        self.source = {"video_rate": str(frames.info.video_rate)} if flow.frames.rate else {}
        # The header's frame count is often wrong.
        decoded, self._decisions = _decisions(motion, frames, flow.distance)
        count = decoded - self.step
        if count < 1:
            raise BadInput(f"{video.source}: only {decoded} frame(s) decode; flow needs more")
        self.starts = window_starts(count, length, "trajs_dense", self.step) or range(1)

    def pairs(self, numbers: Collection[int]) -> Iterator[Pair]:
        flow = self._flow_settings
        earlier: deque[np.ndarray] = deque(maxlen=flow.distance + 1)
        for last, frame in enumerate(_frames_of(self.video, self._motion, flow)):
            earlier.append(frame)
            number = last - flow.distance
            if number not in numbers:
                continue
            selection = Selection.of([self._decisions[number]])
            motion = self._motion(np.stack([earlier[0], frame]), selection=selection)
            # Quantised as if stored, so that saturation and rounding are visible.
            quantisation = quantisation_of(flow.identity())
            levels: Any = quantisation.stored(motion.flow, number)
            pixels = quantisation.pixels(levels.cpu().numpy() if is_tensor(levels) else levels)[0]
            cut = self._decisions[number].cut
            if motion.homographies is None or motion.accepted is None:
                yield Pair(number, pixels, cut=cut)
            else:
                yield Pair(number, pixels, motion.homographies[0], bool(motion.accepted[0]), cut)


def _frames_of(video: Video, motion: MotionEstimator, flow: FlowSettings) -> Frames:
    picture: Picture = "colour" if motion.estimator.colour else "grey"
    return Frames(video.source, flow.resize, picture=picture, rate=flow.frames.rate)


def _decisions(
    motion: MotionEstimator, frames: Iterable[np.ndarray], step: int
) -> tuple[int, list[Decision]]:
    """The number of frames, and the camera of each pair, which the pairs around it decide about too."""
    decisions: list[Decision] = []
    selector, decoded = None, 0
    held: deque[np.ndarray] = deque(maxlen=step + 1)
    for frame in frames:
        decoded += 1
        held.append(frame)
        if len(held) <= step:
            continue
        selector = selector or motion.selector((frame.shape[0], frame.shape[1]), step)
        decisions += selector.push(motion.candidates(np.stack([held[0], frame])))
    return decoded, decisions + (selector.finish() if selector is not None else [])


def stored_clip(video: Video, outputs: Outputs, length: int) -> Clip | None:
    """The stored results of a video; None if there are none.

    Raises BadInput if they cannot be read.
    """
    folder = outputs.flow(video.name)
    if form_in(folder).files(folder)[0].is_file():
        return StoredClip(video, outputs, length)
    if outputs.trajectories(video.name, length).is_file():
        return TrajectoriesAlone(video, outputs, length)
    return None


def _of_size(window: Trajectories, height: int, width: int) -> Trajectories:
    """The trajectories with the frame size in their provenance."""
    return replace(window, made={"source": {"height": height, "width": width}})


def _flow_frames(flow: StoredFlow) -> int:
    if "frames" in flow.source:
        return int(flow.source["frames"]) - abs(flow.step)
    return sum(len(piece) for piece in flow.values())
