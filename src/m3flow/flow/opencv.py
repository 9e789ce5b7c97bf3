"""The estimators of OpenCV: the reference, and the fastest on a CPU."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import cv2
import numpy as np

from m3flow.errors import BadInput
from m3flow.flow.base import Estimator, is_tensor
from m3flow.flow.parameters import DISParameters, FarnebackParameters, TVL1Parameters

if TYPE_CHECKING:
    from m3flow.flow.base import Array

DIS_PATCH = 8


class OpenCVEstimator(Estimator):
    """Computes one pair at a time on the CPU, without importing torch."""

    backend = "opencv"
    device = "cpu"
    bytes_per_pixel = 10  # of the batch; OpenCV's own memory is that of a single pair

    def _pairs(self, previous: Array, current: Array) -> Array:
        if is_tensor(previous):
            import torch

            one, two = torch.as_tensor(previous), torch.as_tensor(current)
            return torch.from_numpy(self._pairs(one.cpu().numpy(), two.cpu().numpy()))
        previous, current = np.ascontiguousarray(previous), np.ascontiguousarray(current)  # DIS requires it
        flow = np.empty((len(previous), 2, *previous.shape[1:]), np.float32)
        for index, (one, two) in enumerate(zip(previous, current, strict=True)):
            flow[index] = self.pair(one, two).transpose(2, 0, 1)
        return flow

    @abstractmethod
    def pair(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        """One pair in OpenCV's layout: uint8 [H, W] twice -> float32 [H, W, 2] in pixels, x first."""


class Farneback(OpenCVEstimator):
    """`cv2.calcOpticalFlowFarneback`."""

    name = "farneback"
    parameters: FarnebackParameters

    def __init__(self, parameters: FarnebackParameters) -> None:
        self.parameters = parameters

    def pair(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        p = self.parameters
        flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if p.gaussian else 0
        return cv2.calcOpticalFlowFarneback(
            previous,
            current,
            None,
            p.scale,
            p.levels,
            p.window,
            p.iterations,
            p.poly_n,
            p.poly_sigma,
            flags,
        )


class TVL1(OpenCVEstimator):
    """`cv2.optflow.DualTVL1OpticalFlow`."""

    name = "tvl1"

    def __init__(self, parameters: TVL1Parameters) -> None:
        p = self.parameters = parameters
        # Positional arguments, since OpenCV calls one of them "lambda", a keyword of Python.
        no_illumination_term, use_initial_flow = 0.0, False
        self._algorithm = cv2.optflow.DualTVL1OpticalFlow_create(
            p.tau,
            p.lambda_,
            p.theta,
            p.scales,
            p.warps,
            p.epsilon,
            p.inner,
            p.outer,
            p.scale_step,
            no_illumination_term,
            p.median,
            use_initial_flow,
        )

    def pair(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        return self._algorithm.calc(previous, current, None)


class DIS(OpenCVEstimator):
    """`cv2.DISOpticalFlow`."""

    name = "dis"

    def __init__(self, parameters: DISParameters) -> None:
        self.parameters = parameters
        self._preset = {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }[parameters.preset]
        self._algorithm = cv2.DISOpticalFlow_create(self._preset)
        self._shape: tuple[int, ...] | None = None

    def pair(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        if previous.shape != self._shape:
            # For frames too small for the preset OpenCV lowers the finest level and keeps it lowered for
            # larger frames that follow, so every size gets a new object.
            self._algorithm = cv2.DISOpticalFlow_create(self._preset)
            _refuse_what_crashes(previous.shape, self._algorithm.getFinestScale())
            self._shape = previous.shape
        return self._algorithm.calc(previous, current, None)


def _refuse_what_crashes(shape: tuple[int, ...], finest: int) -> None:
    """Raises BadInput for frames whose coarsest level is smaller than a patch: OpenCV would read out of bounds."""
    height, width = shape
    deepest = math.log2(min(shape) // DIS_PATCH) if min(shape) >= DIS_PATCH else -1
    usual = min(int(math.log2(max(shape) / (4 * DIS_PATCH)) + 0.5), deepest)
    for_small_frames = int(math.log2(max(width, DIS_PATCH) / (2.5 * DIS_PATCH)))
    if usual < 0 or (usual < finest and for_small_frames > deepest):
        raise BadInput(f"frames of {width}x{height} are too small or too low for dis on the opencv backend")
