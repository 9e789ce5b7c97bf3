"""Motion in the training loop: from a batch of clips to the trajectories that files would contain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from m3flow.camera.backward import backward_flow
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.camera.selection_of_clips import select_clips
from m3flow.errors import UsageError
from m3flow.flow import ESTIMATORS
from m3flow.flow import estimator as make_estimator
from m3flow.flow.transfer import constant, to_device
from m3flow.results.quantisation import Quantisation
from m3flow.settings import BACKWARD, FlowSettings, TrajectorySettings
from m3flow.trajectories.confidence import Evidence, round_trip
from m3flow.trajectories.tracking import Windows, follow, window_starts

if TYPE_CHECKING:
    from m3flow.settings import Confidence, Track, Tracking

# OpenCV's conversion of RGB to grey: weights of 2⁻¹⁵.
GREY_WEIGHTS, GREY_SHIFT = (9798, 19235, 3735), 15


class Targets(NamedTuple):
    """The motion of a batch of clips; the axes of `m3flow.data.TrajectoryClips`.

    Attributes
    ----------
    trajectories: int8 [B, N · L, H//8, W//8, 2], displacements in pixels, (x, y): the L steps of the first window,
        then those of the second, ….
    types: uint8 [B, N, H//8, W//8], 1 where the points P_0 … P_{L−1} all lie inside the frame.
    confidence: uint8 [B, N · L, H//8, W//8], of P_1 … P_L, 128 and more is reliable; None if not requested.
    homographies: float32 [B, T − step, 3, 3], the camera motion removed, from pixels (x, y, 1) of frame t
        to frame t + step, the identity where none was accepted; None with camera "none".
    """

    trajectories: Tensor
    types: Tensor
    confidence: Tensor | None
    homographies: Tensor | None


class MotionTargets(nn.Module):
    """The trajectories of clips, computed where the clips are; a module without weights and without a gradient.

    Of the same frames the results are those of the trajectory files that `m3flow` makes on this device with the same
    settings and lossless flow. Batched over clips: one clip's result does not depend on the others. With camera "none"
    and without cuts the host does not wait for a GPU, except with an estimator that stops pair by pair (tvl1). Cameras
    and cuts are decided on the host, for all clips together, from a few numbers for each pair.

    Convention
    ----------
    The frames of a clip are consecutive: a trajectory spans L · step of them. `stride` is the distance
    between the frames at which windows start; 1 gives the windows of job `trajs_dense`. For a clip that itself
    has every fourth frame of a video, flow and trajectories are those of files made with `step` 4.

    Parameters
    ----------
    estimator, parameters: name and parameters of an estimator with a torch backend (`m3flow.flow.estimator`).
    camera: "warp" removes the camera motion, "none" keeps it. It is found from the clip alone, as if that were
        a whole video.
    cuts: whether cuts are looked for; no flow goes across one.
    length: L, the steps of a trajectory.
    stride: the distance between windows in frames.
    step: the flow goes from frame t to frame t + step.
    quantisation: of the flow, as a flow file would store it (`m3flow.results.quantisation.Quantisation`); by default
        dithered levels of 20 px. A clip's dither is that of a file if it starts at frame 0, 4 step, 8 step, ….
    tracking, track, confidence: as in `m3flow.settings.TrajectorySettings`.

    Raises
    ------
    UsageError: an invalid parameter, or an estimator without a torch backend.
    """

    def __init__(
        self,
        estimator: str = "dis",
        *,
        parameters: dict[str, Any] | None = None,
        camera: str = "none",
        cuts: bool = False,
        length: int = 6,
        stride: int = 1,
        step: int = 1,
        quantisation: Quantisation | None = None,
        tracking: Tracking = "subpixel",
        track: Track = "motion",
        confidence: Confidence = "none",
    ) -> None:
        super().__init__()
        if stride < 1:
            raise UsageError(f"stride is {stride}; it must be 1 or more")
        if step < 1:
            raise UsageError(BACKWARD.format(step))
        self.flow = FlowSettings(
            estimator=estimator,
            parameters=parameters or {},
            camera=camera,  # type: ignore[arg-type]
            cuts=cuts,
            step=step,
        )
        self.quantisation = quantisation or Quantisation(dither=True)
        self.settings = TrajectorySettings(
            length=length, tracking=tracking, track=track, confidence=confidence
        )
        self.stride = stride
        levels = self.quantisation.table
        self._table = None if levels is None else tuple(levels.tolist())
        self._estimators: dict[str, MotionEstimator] = {}
        self._estimator(torch.device("cpu"))

    def extra_repr(self) -> str:
        return (
            f"estimator={self.flow.estimator!r}, camera={self.flow.camera!r}, "
            f"length={self.settings.length}, stride={self.stride}"
        )

    @torch.compiler.disable
    @torch.no_grad()
    def forward(self, frames: Tensor) -> Targets:
        """The motion of clips.

        Parameters
        ----------
        frames: uint8 [B, T, 3, H, W], RGB, or [B, T, H, W], grey; T is more than length · step.

        Raises
        ------
        ValueError: frames of another shape or type, or too few for a window.
        """
        clips = len(frames)
        with torch.autocast(frames.device.type, enabled=False):
            grey = self._grey(frames)
            pictures = grey
            if ESTIMATORS[self.flow.estimator].colour and frames.ndim == 5:
                pictures = frames.permute(1, 0, 3, 4, 2).flatten(0, 1)
            levels, homographies, trips = self._levels(pictures, clips)
            windows = self._track(grey, levels, homographies, trips, clips)
        return self._targets(windows, homographies, clips)

    def _grey(self, frames: Tensor) -> Tensor:
        """The clips' frames interleaved, frame 0 of each clip first: uint8 [T · B, H, W]."""
        needed = self.settings.length * self.flow.step + 1
        colour = frames.ndim == 5 and frames.shape[2] == 3
        if frames.dtype != torch.uint8 or not (colour or frames.ndim == 4):
            raise ValueError(
                "frames must be uint8 [B, T, 3, H, W] or [B, T, H, W]; "
                f"got {frames.dtype} {list(frames.shape)}"
            )
        if len(frames) < 1 or frames.shape[1] < needed:
            raise ValueError(f"clips must have {needed} frames or more; got {list(frames.shape)}")
        if colour:
            red, green, blue = (frames[:, :, channel].to(torch.int32) for channel in range(3))
            weighted = red * GREY_WEIGHTS[0] + green * GREY_WEIGHTS[1] + blue * GREY_WEIGHTS[2]
            frames = ((weighted + (1 << GREY_SHIFT - 1)) >> GREY_SHIFT).to(torch.uint8)
        return frames.transpose(0, 1).flatten(0, 1)

    def _levels(self, frames: Tensor, clips: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Levels uint8 [(T − step) · B, 2, H, W], homographies, round trips; pairs are `clips` · step frames apart."""
        estimator, step = self._estimator(frames.device), clips * self.flow.step
        selection = self._selection(estimator, frames, clips) if estimator.looks_ahead else None
        motion = estimator(frames, step, selection)
        flow: Any = motion.flow
        homographies = None
        if motion.homographies is not None:
            homographies = to_device(motion.homographies, frames.device)
        trips: Any = None
        if self.settings.confidence == "forward-backward":
            back = backward_flow(estimator.estimator, frames, step, homographies)
            trips = round_trip(flow, back)
        quantisation = replace(self.quantisation, step=step)
        return quantisation.stored(flow), homographies, trips  # type: ignore[return-value]

    def _selection(self, estimator: MotionEstimator, frames: Tensor, clips: int) -> Selection:
        """The camera of every pair, each clip a video of its own."""
        candidates = estimator.candidates(frames, clips * self.flow.step)
        return select_clips(
            candidates,
            clips,
            (frames.shape[1], frames.shape[2]),
            step=self.flow.step,
            find_cuts=estimator.cuts,
            threshold=estimator.confidence,
        )

    def _track(
        self, grey: Tensor, levels: Tensor, homographies: Tensor | None, trips: Tensor | None, clips: int
    ) -> Windows:
        """The windows of all clips: the first of each clip, then the second of each, and so on."""
        settings, step = self.settings, self.flow.step
        length = settings.length
        starts = window_starts(len(levels) // clips, length, "trajs_dense", step)[:: self.stride]
        # Only the pairs read by the windows, by step: [L, windows, clips, …]; one step more for frames.
        numbers = tuple(tuple(start + step * ahead for start in starts) for ahead in range(length + 1))

        def read(array: Tensor, steps: int) -> Tensor:
            if self.stride == 1:
                return array
            of_frames = array.unflatten(0, (-1, clips))
            return of_frames[constant(numbers[:steps], array.device, torch.int64)].flatten(0, 2)

        evidence = None
        spacing = clips * (step if self.stride == 1 else len(starts))
        read_homographies = None if homographies is None else read(homographies, length)
        if settings.confidence != "none":
            trips = None if trips is None else read(trips, length)
            evidence = Evidence(read(grey, length + 1), spacing, read_homographies, trips)
        return follow(
            read(levels, length),
            length=length,
            tracking=settings.tracking,
            step=spacing,
            table=None if self._table is None else constant(self._table, levels.device),
            homographies=read_homographies if settings.track == "pixels" else None,
            evidence=evidence,
        )

    def _targets(self, windows: Windows, homographies: Tensor | None, clips: int) -> Targets:
        feat, types, conf, _ = windows.arrays()
        length, (rows, columns) = self.settings.length, types.shape[1:]
        # [2 · L, N · B, …] -> [B, N · L, …, 2]
        steps = feat.view(2, length, -1, clips, rows, columns).permute(3, 2, 1, 4, 5, 0)
        if conf is not None:
            conf = conf.view(length, -1, clips, rows, columns).permute(2, 1, 0, 3, 4).flatten(1, 2)
        if homographies is not None:
            homographies = homographies.unflatten(0, (-1, clips)).transpose(0, 1)
        return Targets(
            steps.flatten(1, 2),
            types.view(-1, clips, rows, columns).transpose(0, 1),
            conf,
            homographies,
        )

    def _estimator(self, device: torch.device) -> MotionEstimator:
        """The estimator of a device: copies of this module (`DataParallel`) run on others."""
        name = str(device)
        if name not in self._estimators:
            made = make_estimator(self.flow.estimator, backend="torch", device=name, **self.flow.parameters)
            self._estimators[name] = MotionEstimator(made, camera=self.flow.camera, cuts=self.flow.cuts)
        return self._estimators[name]
