"""Motion not explained by the camera, from frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.camera import thresholds
from m3flow.camera.candidates import Candidates
from m3flow.camera.selection import Selection, Selector
from m3flow.errors import UsageError
from m3flow.flow.base import Estimator, check_frames, in_colour, in_grey, is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array

CAMERAS = ("warp", "none")


@dataclass(frozen=True)
class Motion:
    """The motion of B frame pairs.

    Convention
    ----------
    A homography maps a point (x, y, 1) of the previous frame, in pixels, x first, to its position in the
    current frame under the camera motion alone. The flow of the original frames is
    `m3flow.camera.put_camera_back(flow, homographies)`.

    Attributes
    ----------
    flow: float32 [B, 2, H, W] in pixels, channel 0 = x (right), 1 = y (down), at the previous frame's pixels.
        With camera "warp" and an accepted homography the residual H^-1 (p + v(p)) - p, otherwise the whole
        flow v; 0 across a cut and in bars. NumPy from an OpenCV estimator, a tensor on the estimator's device
        from a torch one.
    homographies: float32 [B, 3, 3], the identity where refused or where the camera stands still; None with
        camera "none".
    accepted: bool [B], whether the homography was accepted; None with camera "none".
    schemes: B names of what was done: a scheme ("one-pass", "two-pass"), "still" where the camera does not
        move, "cut" across a cut, "" where the homography was refused or none was wanted.
    confidence: float32 [B], the probability of the homography, 0 across a cut; None with camera "none".
    cut: bool [B], whether the pair crosses a cut; None without cut detection.
    bars: int32 [B, 4], rows and columns at the top, bottom, left and right that are not part of the picture.
    """

    flow: Array
    homographies: np.ndarray | None = None
    accepted: np.ndarray | None = None
    schemes: list[str] = field(default_factory=list)
    confidence: np.ndarray | None = None
    cut: np.ndarray | None = None
    bars: np.ndarray | None = None

    def __getitem__(self, pairs: slice) -> Motion:
        """The motion of some of the pairs."""
        return self._with(lambda values: values[pairs])

    def reversed(self) -> Motion:
        """The pairs in reversed order."""
        return self._with(_reversed)

    def _with(self, chosen: Callable[[Any], Any]) -> Motion:
        """The pairs that `chosen` takes from each of the fields."""

        def of(values: Any) -> Any:
            return None if values is None else chosen(values)

        return Motion(*(of(getattr(self, item.name)) for item in fields(self)))


class MotionEstimator:
    """An estimator with its camera compensation.

    Parameters
    ----------
    estimator: from `m3flow.flow.estimator`.
    camera: "warp" takes the camera's motion out, "none" leaves the flow as it is.
    scheme: how it is taken out. "one-pass" (and "auto"): the estimator runs once, on the previous frame and
        the current one resampled into its view. "two-pass" (Wang and Schmid 2013): it runs on the frames as
        they are first, and again on the resampled ones; the second flow is kept. Where the camera is found
        from tracked corners the result is that of one-pass, at twice the price.
    cuts: whether to detect cuts; no flow crosses one.
    confidence: a homography less probable than this is rejected.
    backward: the motion goes from the later frame of each pair to the earlier one, whose view is resampled.
    seed: of the random choices in the homography search on torch (OpenCV's seed is fixed).

    Raises
    ------
    UsageError: an unknown camera or scheme.
    """

    def __init__(
        self,
        estimator: Estimator,
        *,
        camera: str = "warp",
        scheme: str = "auto",
        cuts: bool = True,
        confidence: float = thresholds.CONFIDENCE,
        backward: bool = False,
        seed: int = 0,
    ) -> None:
        if camera not in CAMERAS:
            raise UsageError(f"unknown camera {camera!r}; choose from {', '.join(CAMERAS)}")
        if scheme not in thresholds.SCHEMES:
            raise UsageError(f"unknown scheme {scheme!r}; choose from {', '.join(thresholds.SCHEMES)}")
        self.estimator = estimator
        self.camera = camera
        self.cuts = cuts
        self.confidence = confidence
        self.backward = backward
        self.seed = seed
        self.scheme = "" if camera == "none" else "one-pass" if scheme == "auto" else scheme

    @property
    def looks_ahead(self) -> bool:
        """Whether a pair's motion depends on its neighbouring pairs."""
        return self.camera != "none" or self.cuts

    def candidates(self, frames: Array, step: int = 1) -> Candidates:
        """The evidence about each pair's camera, from its two frames alone: uint8 [F, H, W] -> F - step pairs.

        Or [F, H, W, 3], RGB, which are looked at in grey.
        """
        if self.backward:
            return self._forward().candidates(_reversed(frames), step)[::-1]
        camera = self.camera != "none"
        if self.estimator.backend == "opencv":
            from m3flow.camera.candidates_opencv import find_candidates

            return find_candidates(in_grey(_as_numpy(frames)), step, camera=camera)
        from m3flow.camera.candidates_torch import find_candidates as find_in_torch
        from m3flow.flow.torch_base import TorchEstimator

        assert isinstance(self.estimator, TorchEstimator)
        return find_in_torch(in_grey(self.estimator.bring(frames)), step, camera=camera, seed=self.seed)

    def selector(self, size: tuple[int, int], step: int = 1) -> Selector:
        """A fresh selector for the frames of one video of that height and width."""
        return Selector(size, step=step, find_cuts=self.cuts, threshold=self.confidence)

    def select(self, frames: Array, step: int = 1) -> Selection:
        """The camera of each pair of a whole video."""
        selector = self.selector((frames.shape[1], frames.shape[2]), step)
        return Selection.of(selector.push(self.candidates(frames, step)) + selector.finish())

    def __call__(self, frames: Array, step: int = 1, selection: Selection | None = None) -> Motion:
        """The motion from frame t to frame t + step for all t: uint8 [F, H, W] -> F - step pairs.

        Frames are [F, H, W, 3], RGB, for an estimator of colour frames; grey ones are taken too.

        selection: the camera of each pair; None: the frames are a whole video, and it is selected here.
        """
        if self.backward:
            if selection is None and self.looks_ahead:
                selection = self.select(frames, step)
            turned = None if selection is None else selection.reversed()
            return self._forward()(_reversed(frames), step, turned).reversed()
        if self.estimator.colour:
            frames = in_colour(frames)
        if frames.ndim != 3 + self.estimator.colour or not 1 <= step < len(frames):
            raise ValueError(
                f"frames must be [F, H, W] with F > step >= 1; got {tuple(frames.shape)}, step {step}"
            )
        check_frames(frames, colour=self.estimator.colour)
        if selection is None and self.looks_ahead:
            selection = self.select(frames, step)
        if self.camera == "none":
            return self._whole(frames, step, selection)
        assert selection is not None
        if self.estimator.backend == "opencv":
            return self._opencv(_as_numpy(frames), step, selection)
        from m3flow.camera import compensation_torch

        flow = compensation_torch.compensated(self.estimator, self.scheme, frames, step, selection)
        return self._motion(flow, selection)

    def _forward(self) -> MotionEstimator:
        """The same for the frames in reversed order, in which backward motion is forward motion."""
        return MotionEstimator(
            self.estimator,
            camera=self.camera,
            scheme=self.scheme or "auto",
            cuts=self.cuts,
            confidence=self.confidence,
            seed=self.seed,
        )

    def _whole(self, frames: Array, step: int, selection: Selection | None) -> Motion:
        """The flow of the estimator, but exactly 0 between identical frames and across cuts."""
        flow: Any = self.estimator.sequence(frames, step)
        same: Any = frames[:-step] == frames[step:]
        none = same.reshape(len(flow), -1).all(1)
        if is_tensor(flow):
            # Not by an index: its length would be waited for.
            flow.masked_fill_(none[:, None, None, None], 0)
        else:
            flow[none] = 0
        if selection is None:
            return Motion(flow, schemes=[""] * len(flow))
        for pair in np.flatnonzero(selection.cut):
            flow[pair] = 0
        return Motion(flow, schemes=["cut" if cut else "" for cut in selection.cut], cut=selection.cut)

    def _opencv(self, frames: np.ndarray, step: int, selection: Selection) -> Motion:
        from m3flow.camera.compensation_opencv import compensated

        chosen = zip(selection.homographies, selection.bars, selection.cut, strict=True)
        flow = [
            compensated(
                self.estimator, self.scheme, frames[t], frames[t + step], homography, bars=bars, cut=bool(cut)
            )
            for t, (homography, bars, cut) in enumerate(chosen)
        ]
        return self._motion(np.stack(flow), selection)

    def _motion(self, flow: Array, selection: Selection) -> Motion:
        """The flow with its camera."""
        bars = selection.bars
        for pair in np.flatnonzero(bars.any(axis=1)):
            top, bottom, left, right = bars[pair]
            _, _, height, width = flow.shape
            flow[pair, :, :top] = flow[pair, :, height - bottom :] = 0
            flow[pair, :, :, :left] = flow[pair, :, :, width - right :] = 0
        moving = (selection.homographies != np.eye(3)).any(axis=(1, 2))
        schemes = [
            "cut" if cut else self.scheme if moves else "still" if good else ""
            for cut, moves, good in zip(selection.cut, moving, selection.accepted, strict=True)
        ]
        return Motion(
            flow,
            selection.homographies.astype(np.float32),
            selection.accepted & ~selection.cut,
            schemes,
            selection.confidence,
            selection.cut if self.cuts else None,
            bars,
        )

    def describe(self) -> dict[str, Any]:
        """The parameters of the compensation as JSON values; they identify its results."""
        if self.camera == "none":
            return {"camera": "none", "cuts": self.cuts}
        return {
            "camera": self.camera,
            "scheme": self.scheme,
            "cuts": self.cuts,
            "confidence": self.confidence,
            "matches_needed": thresholds.MATCHES_NEEDED,
            "inliers_needed": thresholds.INLIERS_NEEDED,
            "inliers_share": thresholds.INLIERS_SHARE,
            "inlier_distance": thresholds.INLIER_DISTANCE,
            "match_radius": thresholds.MATCH_RADIUS,
            "margin": thresholds.MARGIN,
            "still": thresholds.STILL,
            "still_support": thresholds.STILL_SUPPORT,
            "still_cost": thresholds.STILL_COST,
            "seed": self.seed,
        }


def _reversed(values: Any) -> Any:
    """A list, or an array with its first axis, in reversed order."""
    if is_tensor(values):
        return values.flip(0)
    return np.ascontiguousarray(values[::-1]) if isinstance(values, np.ndarray) else values[::-1]


def _as_numpy(frames: Array) -> np.ndarray:
    if is_tensor(frames):
        frames = frames.cpu()  # type: ignore[union-attr]
    return np.asarray(frames)
