"""From frames to the motion that the camera does not explain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.camera import thresholds
from m3flow.errors import UsageError
from m3flow.flow.base import Estimator, in_colour, is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array

CAMERAS = ("warp", "none")


@dataclass(frozen=True)
class Motion:
    """The motion of B frame pairs.

    Convention
    ----------
    A homography maps a point (x, y, 1) of the previous frame, in pixels, x first, to where the camera alone
    takes it in the current frame. With it the flow of the frames as they were filmed is
    `m3flow.camera.put_camera_back(flow, homographies)`.

    Attributes
    ----------
    flow: float32 [B, 2, H, W] in pixels, channel 0 = x (right), 1 = y (down), at the previous frame's pixels.
        With camera "warp" and an accepted homography the residual H^-1 (p + v(p)) - p, otherwise the whole
        flow v. NumPy from an OpenCV estimator, a tensor on the estimator's device from a torch one.
    homographies: float32 [B, 3, 3], the identity where refused or where the camera stands still; None with
        camera "none".
    accepted: bool [B], whether the homography was accepted; None with camera "none".
    schemes: B names of what was done: a scheme ("one-pass", "prior", "pyramid-prior", "two-pass"), "still"
        where the camera does not move, "" where the homography was refused or none was wanted.
    """

    flow: Array
    homographies: np.ndarray | None = None
    accepted: np.ndarray | None = None
    schemes: list[str] = field(default_factory=list)

    def __getitem__(self, pairs: slice) -> Motion:
        """The motion of some of the pairs."""
        return Motion(
            self.flow[pairs],
            None if self.homographies is None else self.homographies[pairs],
            None if self.accepted is None else self.accepted[pairs],
            self.schemes[pairs],
        )


class MotionEstimator:
    """An estimator, and what to do about the camera.

    Parameters
    ----------
    estimator: from `m3flow.flow.estimator`.
    camera: "warp" takes the camera's motion out, "none" leaves the flow as it is.
    scheme: how it is taken out (`m3flow.camera.compensation_opencv` and `schemes_torch` describe each); "auto" is
        "one-pass", which measures best (benchmarks/camera.py). A scheme that the estimator cannot run
        becomes "two-pass", which all can; `scheme` and `describe()` say what it came to.
    seed: of the random choices in the homography search on torch (OpenCV's always starts the same).

    Raises
    ------
    UsageError: an unknown camera or scheme.
    """

    def __init__(
        self, estimator: Estimator, *, camera: str = "warp", scheme: str = "auto", seed: int = 0
    ) -> None:
        if camera not in CAMERAS:
            raise UsageError(f"unknown camera {camera!r}; choose from {', '.join(CAMERAS)}")
        if scheme not in thresholds.SCHEMES:
            raise UsageError(f"unknown scheme {scheme!r}; choose from {', '.join(thresholds.SCHEMES)}")
        self.estimator = estimator
        self.camera = camera
        self.seed = seed
        self.scheme = "" if camera == "none" else _possible(scheme, estimator)

    def __call__(self, frames: Array, step: int = 1) -> Motion:
        """The motion from frame t to frame t + step for all t: uint8 [F, H, W] -> F - step pairs.

        Frames are [F, H, W, 3], RGB, for an estimator of colour frames; grey ones are taken too.

        A pair's result depends on its two frames alone, not on the others.
        """
        if self.estimator.colour:
            frames = in_colour(frames)
        if frames.ndim != 3 + self.estimator.colour or not 1 <= step < len(frames):
            raise ValueError(
                f"frames must be [F, H, W] with F > step >= 1; got {tuple(frames.shape)}, step {step}"
            )
        if self.camera == "none":
            return Motion(self._whole_flow(frames, step), schemes=[""] * (len(frames) - step))
        if self.estimator.backend == "opencv":
            return self._opencv(_as_numpy(frames), step)
        from m3flow.camera import compensation_torch

        flow, homographies, accepted, schemes = compensation_torch.compensated(
            self.estimator, self.scheme, frames, step, self.seed
        )
        return Motion(flow, homographies, accepted, schemes)

    def _whole_flow(self, frames: Array, step: int) -> Array:
        """The flow as the estimator has it, but exactly 0 between identical frames (see `schemes_opencv`)."""
        flow = self.estimator.sequence(frames, step)
        same: Any = frames[:-step] == frames[step:]
        flow[same.reshape(len(flow), -1).all(1)] = 0
        return flow

    def _opencv(self, frames: np.ndarray, step: int) -> Motion:
        from m3flow.camera.compensation_opencv import compensated

        pairs = zip(frames[:-step], frames[step:], strict=True)
        done = [compensated(self.estimator, self.scheme, one, two) for one, two in pairs]
        flow, homographies, accepted, schemes = zip(*done, strict=True)
        return Motion(
            np.stack(flow), np.stack(homographies).astype(np.float32), np.array(accepted), list(schemes)
        )

    def describe(self) -> dict[str, Any]:
        """What identifies the treatment of the camera, as plain JSON values."""
        if self.camera == "none":
            return {"camera": "none"}
        return {
            "camera": self.camera,
            "scheme": self.scheme,
            "matches_needed": thresholds.MATCHES_NEEDED,
            "inliers_needed": thresholds.INLIERS_NEEDED,
            "inlier_distance": thresholds.INLIER_DISTANCE,
            "match_radius": thresholds.MATCH_RADIUS,
            "margin": thresholds.MARGIN,
            "still": thresholds.STILL,
            "still_cost": thresholds.STILL_COST,
            "seed": self.seed,
        }


def _possible(scheme: str, estimator: Estimator) -> str:
    """What `scheme` comes to with this estimator: only Farneback can start from a prior."""
    if scheme == "auto":
        return "one-pass"
    able = estimator.name == "farneback"
    if (scheme == "prior" and not able) or (
        scheme == "pyramid-prior" and not (able and estimator.backend == "torch")
    ):
        return "two-pass"
    return scheme


def _as_numpy(frames: Array) -> np.ndarray:
    if is_tensor(frames):
        frames = frames.cpu()  # type: ignore[union-attr]
    return np.asarray(frames)
