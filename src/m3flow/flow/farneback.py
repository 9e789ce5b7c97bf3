"""Farnebäck's optical flow by polynomial expansion, batched in torch, with OpenCV's results.

G. Farnebäck, Two-frame motion estimation based on polynomial expansion, SCIA 2003. Every neighbourhood is
fitted by a quadratic polynomial; the change of the polynomial between two frames gives the displacement.
Where the paper leaves choices open (pyramid, borders, regularisation), this follows
`cv2.calcOpticalFlowFarneback` on the CPU, so that both give the same flow.

Convention
----------
An expansion is [F, 5, H, W]: half the coefficients of x, y, x² and y², and a quarter of the coefficient of
xy, as the equations need them. The equations of a pair are [B, 5, H, W]: Gxx, Gyy, Gxy, hx, hy of G d = h,
where d is the displacement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3flow.errors import UsageError
from m3flow.flow.base import check_frames
from m3flow.flow.farneback_iteration import iterate, make_level, refine
from m3flow.flow.fused import kernels
from m3flow.flow.image_ops import correlate, filter_bank, resize
from m3flow.flow.parameters import FarnebackParameters
from m3flow.flow.torch_base import TorchEstimator

if TYPE_CHECKING:
    from m3flow.flow.base import Array

SMALLEST_SIDE = 32  # no pyramid level is smaller


class Farneback(TorchEstimator):
    """`cv2.calcOpticalFlowFarneback` in torch: batched, on any device.

    iteration: how the iterations run, and the pyramid. "auto": "triton" on a GPU where it works, else "eager".
        "eager": one torch operation after another, on any device; "compiled": fused by `torch.compile` (the first
        call of a size takes up to a minute); "triton": fused kernels. The results differ by rounding.
    """

    name = "farneback"
    bytes_per_pixel = 148
    replayable = True
    parameters: FarnebackParameters

    def __init__(
        self,
        parameters: FarnebackParameters,
        *,
        device: str,
        iteration: Literal["auto", "eager", "compiled", "triton"] = "auto",
    ) -> None:
        super().__init__(parameters, device=device)
        if not 0 < parameters.scale < 1:
            raise UsageError(f"estimator 'farneback': scale is {parameters.scale}; it must be in (0, 1)")
        if parameters.window < 2:
            raise UsageError(f"estimator 'farneback': window is {parameters.window}; it must be at least 2")
        self._iteration = iteration

    @cached_property
    def _refine(self) -> Callable[..., Tensor]:
        """The function that runs the iterations of a level."""
        if self._iteration == "triton":
            return import_module("m3flow.flow.farneback_triton").refine
        if self._iteration == "auto":
            fused = kernels("farneback_triton", self.device)
            if fused is not None:
                return fused.refine
        return partial(refine, torch.compile(iterate) if self._iteration == "compiled" else iterate)

    @cached_property
    def _pyramid_kernels(self) -> Any:
        """The module of fused kernels that make levels and expansions; None for torch operations."""
        if self._iteration == "triton":
            return import_module("m3flow.flow.farneback_pyramid_triton")
        return kernels("farneback_pyramid_triton", self.device) if self._iteration == "auto" else None

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        return self._pyramid(torch.cat([previous, current]), len(previous))

    @torch.no_grad()
    def sequence(self, frames: Array, step: int = 1) -> Array:
        """See `Estimator.sequence`; the pyramid and expansion of a frame are computed once."""
        check_frames(frames)
        return self.give_back(self.run(self._pyramid, self.bring(frames), step=step), like=frames)

    def _pyramid(self, frames: Tensor, step: int) -> Tensor:
        """The flow from frame t to frame t + step for all t, coarse to fine."""
        p = self.parameters
        height, width = frames.shape[1:]
        images = frames.to(torch.float32)
        coarsest, *finer = reversed(level_scales(height, width, p.levels, p.scale))
        flow = self._level(images, step, coarsest, None)
        for scale in finer:
            flow = resize(flow, round(height * scale), round(width * scale)).mul_(1 / p.scale)
            flow = self._level(images, step, scale, flow)
        return flow

    def _level(self, images: Tensor, step: int, scale: float, flow: Tensor | None) -> Tensor:
        """The flow after the iterations at one level; memory holds the expansions of this level only."""
        p = self.parameters
        height, width = images.shape[1:]
        h, w = round(height * scale), round(width * scale)
        make = self._pyramid_kernels
        if make is None:
            expansion = expand(shrink(images, scale, h, w), p.poly_n, p.poly_sigma)
        else:
            expansion = make.expand(make.shrink(images, scale, h, w), p.poly_n, p.poly_sigma)
        one, two = expansion[:-step], expansion[step:]
        level = make_level(h, w, 1 if p.gaussian else p.window**2, images.device)
        taps = gaussian(p.window // 2, 0.3 * (p.window // 2)) if p.gaussian else None
        if flow is None:
            flow = images.new_zeros(len(one), 2, h, w)
        return self._refine(one, two, flow, level, p.window, taps, p.iterations)


def level_scales(height: int, width: int, levels: int, scale: float) -> list[float]:
    """The scale of every level, the finest (1) first: at most `levels` more, none with a side below 32."""
    scales = [1.0]
    while len(scales) <= levels:
        smaller = scales[-1] * scale
        if width * smaller < SMALLEST_SIDE or height * smaller < SMALLEST_SIDE:
            break
        scales.append(smaller)
    return scales


def shrink(images: Tensor, scale: float, height: int, width: int) -> Tensor:
    """The pyramid level [F, height, width] of full-size float32 images; scale 1 is blurred as well."""
    kernel = blur_taps(scale)
    blurred = correlate(correlate(images, kernel, -1, "reflect"), kernel, -2, "reflect")
    return resize(blurred, height, width)


def blur_taps(scale: float) -> list[float]:
    """The filter of the frames before they are resized by `scale`."""
    sigma = (1 / scale - 1) / 2
    size = max(round(5 * sigma) | 1, 3)
    return [0.25, 0.5, 0.25] if sigma == 0 else gaussian(size // 2, sigma)


def gaussian(radius: int, sigma: float) -> list[float]:
    """2 · radius + 1 samples of a Gaussian that sum to 1."""
    samples = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return (samples / samples.sum()).tolist()


class Kernels(NamedTuple):
    """Separable filters of the expansion, 2n + 1 taps each, scaled by the least-squares inverse and by 1/2."""

    smooth: list[float]  # the weights of the fit
    slope: list[float]  # along x, `smooth` along y: the coefficient of x; along both: that of xy
    curvature: list[float]  # along x, `smooth` along y: the coefficient of x²


@lru_cache(maxsize=16)
def expansion_kernels(n: int, sigma: float) -> Kernels:
    """The filters that fit 1, x, y, x², y², xy to (2n + 1)² pixels, weighted by a Gaussian."""
    g = np.array(gaussian(n, sigma if sigma > 1e-7 else 0.3 * n))
    x = np.arange(-n, n + 1)
    second, fourth = (g * x**2).sum(), (g * x**4).sum()
    # The normal equations couple 1, x² and y²; those of x, y and xy are independent.
    coupling = np.array([[1, second, second], [second, fourth, second**2], [second, second**2, fourth]])
    inverse = np.linalg.inv(coupling)
    slope = x * g / second / 2
    curvature = (inverse[0, 1] + inverse[1, 1] * x**2) * g / 2
    return Kernels(g.tolist(), slope.tolist(), curvature.tolist())


def expand(images: Tensor, n: int, sigma: float) -> Tensor:
    """The expansion [F, 5, H, W] (see the convention above) of float32 images [F, H, W]."""
    kernels = expansion_kernels(n, sigma)
    smooth, slope, curvature = filter_bank(images, kernels, -2)
    in_x, in_xx = filter_bank(smooth, [kernels.slope, kernels.curvature], -1)
    in_y, in_xy = filter_bank(slope, [kernels.smooth, kernels.slope], -1)
    in_yy = correlate(curvature, kernels.smooth, -1)
    return torch.stack([in_x, in_y, in_xx, in_yy, in_xy], 1)
