"""Work of a run: the outputs to make for each video, and the estimator that computes them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2

from m3flow.errors import UsageError
from m3flow.layout import Outputs
from m3flow.results.stored_flow import ExistingFlow
from m3flow.settings import BACKWARD, FLOW_BACK_NOT_STORED, FlowSettings, TrajectorySettings
from m3flow.videos.limits import Limits

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator
    from m3flow.flow.base import Estimator


@dataclass(frozen=True, kw_only=True)
class Work:
    """The outputs to make for each video of a run, and the resources for making them.

    Attributes
    ----------
    outputs: the output folder.
    flow: compute flow from the frames with these settings; None to read the stored flow.
    trajectories: make trajectories with these settings; None for flow only.
    keep_flow: whether the flow is stored.
    backend, device: see `m3flow.flow.estimator`.
    batch: frame pairs computed at a time; 0 chooses by the device's memory.
    existing: flow of other programs, from which trajectories are made; None for our own.
    limits: what decoding a video may cost.
    threads: CPU threads of one worker.
    sharing: workers that share this worker's device.
    decoders: decoding processes of one worker, each with a video of its own.
    encoders: encoding processes of one worker; with 0 it encodes in a thread.
    """

    outputs: Outputs
    flow: FlowSettings | None = None
    trajectories: TrajectorySettings | None = None
    keep_flow: bool = True
    existing: ExistingFlow | None = None
    backend: str = "auto"
    device: str = "auto"
    batch: int = 0
    limits: Limits = field(default_factory=Limits)
    threads: int = 1
    sharing: int = 1
    decoders: int = 1
    encoders: int = 0

    def __post_init__(self) -> None:
        both_ways = self.trajectories is not None and self.trajectories.confidence == "forward-backward"
        if both_ways and self.flow is None:
            raise UsageError(FLOW_BACK_NOT_STORED)
        if self.flow is not None and self.flow.step < 0 and self.trajectories is not None:
            raise UsageError(BACKWARD.format(self.flow.step))

    @property
    def reads_codec(self) -> bool:
        """Whether the trajectories come from the codec's motion vectors, read in the worker itself."""
        return self.flow is None and self.trajectories is not None and self.trajectories.job == "mvs"


def motion_estimator(work: Work) -> MotionEstimator:
    """The estimator with its camera compensation, on the device of the work."""
    from m3flow.flow import estimator

    assert work.flow is not None
    chosen = estimator(work.flow.estimator, backend=work.backend, device=work.device, **work.flow.parameters)
    # Now that the estimator's library is loaded.
    limit_threads(work.threads)
    return compensated(chosen, work.flow)


def compensated(chosen: Estimator, flow: FlowSettings) -> MotionEstimator:
    """An estimator with the camera compensation of the settings."""
    from m3flow.camera.compensation import MotionEstimator

    return MotionEstimator(
        chosen,
        camera=flow.camera,
        scheme=flow.scheme,
        cuts=flow.cuts,
        confidence=flow.camera_confidence,
        backward=flow.step < 0,
    )


def tracking_device(work: Work) -> str:
    """The device that tracks trajectories through stored flow: a GPU if the work names one, else the CPU."""
    if work.flow is not None or work.reads_codec or not work.device.startswith("cuda"):
        return "cpu"
    from m3flow.flow.device import torch_device

    return torch_device(work.device)


def limit_threads(threads: int) -> None:
    """Keep the libraries of this process from starting one thread per core: there is one process per core."""
    cv2.setNumThreads(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
