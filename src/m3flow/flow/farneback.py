"""Farnebäck's optical flow by polynomial expansion, batched in torch, with OpenCV's numbers.

G. Farnebäck, Two-frame motion estimation based on polynomial expansion, SCIA 2003. Every neighbourhood is
fitted by a quadratic polynomial; how the polynomial changes between two frames gives the displacement.
What the paper leaves open (pyramid, borders, regularisation) follows `cv2.calcOpticalFlowFarneback` on the
CPU, so that a result does not depend on which of the two computed it.

Convention
----------
An expansion is [F, 5, H, W]: half the coefficients of x, y, x², y², and a quarter of that of xy, which are
the only forms in which the equations use them. The equations of a pair are [B, 5, H, W]: Gxx, Gyy, Gxy, hx,
hy of G d = h, where d is the displacement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3flow.errors import UsageError
from m3flow.flow.base import check_frames
from m3flow.flow.parameters import FarnebackParameters
from m3flow.flow.resample import correlate, filter_bank, inside, pad, resize, sample
from m3flow.flow.torch_base import TorchEstimator

if TYPE_CHECKING:
    from m3flow.flow.base import Array

SMALLEST_SIDE = 32  # no pyramid level is smaller
BORDER_TRUST = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weight of the pixels at distance 0..4 from a border
REGULARISATION = 1e-3  # added to the determinant of G


class Level(NamedTuple):
    """What an iteration needs to know about one level of the pyramid besides the frames."""

    x: Tensor  # [W], the pixels' columns
    y: Tensor  # [H, 1], their rows
    trust: Tensor  # [H, W], what each pixel's equations count


class Farneback(TorchEstimator):
    """`cv2.calcOpticalFlowFarneback` in torch: batched, on any device.

    iteration: how the iterations run. "eager": torch's operations one by one, on any device;
        "compiled": through `torch.compile`, which fuses them (the first call takes a minute, and some
        sizes again); "triton": through two fused kernels, where Triton knows the GPU. The results differ
        by rounding.
    """

    name = "farneback"
    parameters: FarnebackParameters

    def __init__(
        self,
        parameters: FarnebackParameters,
        *,
        device: str,
        iteration: Literal["eager", "compiled", "triton"] = "eager",
    ) -> None:
        super().__init__(parameters, device=device)
        if not 0 < parameters.scale < 1:
            raise UsageError(f"estimator 'farneback': scale is {parameters.scale}; it must be in (0, 1)")
        if parameters.window < 2:
            raise UsageError(f"estimator 'farneback': window is {parameters.window}; it must be at least 2")
        self._refine: Callable[..., Tensor]
        if iteration == "triton":
            self._refine = import_module("m3flow.flow.farneback_triton").refine
        else:
            self._refine = partial(refine, torch.compile(iterate) if iteration == "compiled" else iterate)

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        return self._pyramid(torch.cat([previous, current]), len(previous))

    @torch.no_grad()
    def sequence(self, frames: Array, step: int = 1) -> Array:
        """As `Estimator.sequence`; each frame's pyramid and expansion is computed once."""
        check_frames(frames)
        return self.give_back(self._pyramid(self.bring(frames), step), like=frames)

    @torch.no_grad()
    def sequence_with_prior(
        self, frames: Tensor, homographies: Tensor, *, initial: Tensor | None = None, step: int = 1
    ) -> Tensor:
        """The flow of each pair where the camera's motion, not stillness, is what a pixel is drawn to.

        Without texture Farnebäck's flow tends to 0, since the regularised solution is 0 there. With the
        prior p(x) = H x - x it is d = p + solve(G, h - G p), which tends to the camera's motion.

        Parameters
        ----------
        frames: uint8 [F, H, W].
        homographies: float [F - step, 3, 3], one a pair; maps a pixel (x, y, 1) of the previous frame to
            the current frame.
        initial: float32 [F - step, 2, H, W]: one iteration at the finest level from this flow, which is
            enough where it was right up to what the camera's motion cost it; None: the whole pyramid.
        step: as in `sequence`.

        Returns
        -------
        float32 [F - step, 2, H, W] on the estimator's device: the whole flow, the camera's motion included.
        """
        check_frames(frames)
        frames, homographies = self.bring(frames), homographies.to(self.device)
        if initial is None:
            return self._pyramid(frames, step, homographies)
        images = frames.to(torch.float32)
        return self._level(images, step, 1.0, initial.to(self.device), homographies, iterations=1)

    @torch.no_grad()
    def with_prior(
        self, previous: Tensor, current: Tensor, homographies: Tensor, *, initial: Tensor | None = None
    ) -> Tensor:
        """`sequence_with_prior` for pairs: uint8 [B, H, W] twice, homographies [B, 3, 3]."""
        frames = torch.cat([self.bring(previous), self.bring(current)])
        return self.sequence_with_prior(frames, homographies, initial=initial, step=len(previous))

    def _pyramid(self, frames: Tensor, step: int, homographies: Tensor | None = None) -> Tensor:
        """The flow from frame t to t + step for all t, coarse to fine."""
        p = self.parameters
        height, width = frames.shape[1:]
        images = frames.to(torch.float32)
        coarsest, *finer = reversed(level_scales(height, width, p.levels, p.scale))
        flow = self._level(images, step, coarsest, None, homographies, p.iterations)
        for scale in finer:
            flow = resize(flow, round(height * scale), round(width * scale)).mul_(1 / p.scale)
            flow = self._level(images, step, scale, flow, homographies, p.iterations)
        return flow

    def _level(
        self,
        images: Tensor,
        step: int,
        scale: float,
        flow: Tensor | None,
        homographies: Tensor | None,
        iterations: int,
    ) -> Tensor:
        """The flow after `iterations` at one level; only this level's expansions are in memory."""
        p = self.parameters
        height, width = images.shape[1:]
        h, w = round(height * scale), round(width * scale)
        expansion = expand(shrink(images, scale, h, w), p.poly_n, p.poly_sigma)
        one, two = expansion[:-step], expansion[step:]
        level = make_level(h, w, 1 if p.gaussian else p.window**2, images.device)
        taps = gaussian(p.window // 2, 0.3 * (p.window // 2)) if p.gaussian else None
        prior = None
        if homographies is not None:
            prior = homography_flow(homographies, level, height, width, scale)
        if flow is None:
            flow = images.new_zeros(len(one), 2, h, w) if prior is None else prior
        return self._refine(one, two, flow, level, p.window, taps, prior, iterations)


def level_scales(height: int, width: int, levels: int, scale: float) -> list[float]:
    """The scale of each level, the finest (1) first: `levels` beyond it, as long as they are large enough."""
    scales = [1.0]
    while len(scales) <= levels:
        smaller = scales[-1] * scale
        if width * smaller < SMALLEST_SIDE or height * smaller < SMALLEST_SIDE:
            break
        scales.append(smaller)
    return scales


def shrink(images: Tensor, scale: float, height: int, width: int) -> Tensor:
    """A pyramid level [F, height, width] of the full-size float32 images; scale 1 is blurred too."""
    sigma = (1 / scale - 1) / 2
    size = max(round(5 * sigma) | 1, 3)
    kernel = [0.25, 0.5, 0.25] if sigma == 0 else gaussian(size // 2, sigma)
    blurred = correlate(correlate(images, kernel, -1, "reflect"), kernel, -2, "reflect")
    return resize(blurred, height, width)


def gaussian(radius: int, sigma: float) -> list[float]:
    """2 · radius + 1 samples of a Gaussian that sum to 1."""
    samples = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return (samples / samples.sum()).tolist()


class Kernels(NamedTuple):
    """The separable filters of the expansion, 2n + 1 taps each, least-squares inverse and 1/2 folded in."""

    smooth: list[float]  # the weights of the fit
    slope: list[float]  # along x, `smooth` along y: the coefficient of x; along both: that of xy
    curvature: list[float]  # along x, `smooth` along y: the coefficient of x²


@lru_cache(maxsize=16)
def expansion_kernels(n: int, sigma: float) -> Kernels:
    """The filters that fit 1, x, y, x², y², xy to (2n + 1)² pixels, weighted by a Gaussian."""
    g = np.array(gaussian(n, sigma if sigma > 1e-7 else 0.3 * n))
    x = np.arange(-n, n + 1)
    second, fourth = (g * x**2).sum(), (g * x**4).sum()
    # In the normal equations 1, x² and y² mix; x, y and xy stand alone.
    mixing = np.array([[1, second, second], [second, fourth, second**2], [second, second**2, fourth]])
    inverse = np.linalg.inv(mixing)
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


@lru_cache(maxsize=32)
def make_level(height: int, width: int, count: int, device: torch.device) -> Level:
    """The constants of a level; `count` divides the equations (the pixels of a box window)."""

    def line(length: int) -> Tensor:
        trust = torch.ones(length)
        for distance, weight in enumerate(BORDER_TRUST[:length]):
            trust[distance] *= weight
            trust[length - 1 - distance] *= weight
        return trust

    # On the coefficients, so squared on the equations, which are products of two.
    trust = (line(height)[:, None] * line(width)).square() / count
    x = torch.arange(width, dtype=torch.float32, device=device)
    y = torch.arange(height, dtype=torch.float32, device=device)
    return Level(x, y[:, None], trust.to(device))


def homography_flow(homographies: Tensor, level: Level, height: int, width: int, scale: float) -> Tensor:
    """p(x) = H x - x at a level's pixels, in its pixels: [B, 2, h, w]; the frames are height x width."""
    rows, columns = len(level.y), len(level.x)
    x = (level.x + 0.5) * (width / columns) - 0.5
    y = (level.y + 0.5) * (height / rows) - 0.5
    h = homographies[:, :, :, None, None]
    # Differences before products: H x and x are large and nearly equal.
    bend = h[:, 2, 0] * x + h[:, 2, 1] * y
    across = (h[:, 0, 0] - h[:, 2, 2]) * x + h[:, 0, 1] * y + h[:, 0, 2] - bend * x
    down = h[:, 1, 0] * x + (h[:, 1, 1] - h[:, 2, 2]) * y + h[:, 1, 2] - bend * y
    motion = torch.stack([across, down], 1) / (bend + h[:, 2, 2])[:, None]
    # A pixel on the homography's horizon goes nowhere in particular.
    return motion.nan_to_num(0, 0, 0).mul_(scale).to(torch.float32)


def refine(iterate: Callable[..., Tensor], one: Tensor, two: Tensor, flow: Tensor, *rest: Any) -> Tensor:
    """The flow after several iterations; `rest` is as in `iterate`, and how many."""
    *constants, iterations = rest
    for _ in range(iterations):
        flow = iterate(one, two, flow, *constants)
    return flow


def iterate(
    one: Tensor,
    two: Tensor,
    flow: Tensor,
    level: Level,
    window: int,
    taps: list[float] | None,
    prior: Tensor | None,
) -> Tensor:
    """The flow [B, 2, H, W] after one more iteration, from the expansions of both frames.

    taps: the weights of a Gaussian window; None: a box of `window`.
    """
    equations = linear_equations(one, two, flow, level)
    if taps is None:
        equations = box_sum(box_sum(equations, window // 2, 2), window // 2, 3)
    else:
        equations = correlate(correlate(equations, taps, 2), taps, 3)
    return solve(equations, prior)


def linear_equations(one: Tensor, two: Tensor, flow: Tensor, level: Level) -> Tensor:
    """Each pixel's equations Gxx, Gyy, Gxy, hx, hy [B, 5, H, W] for the displacement, at the present flow."""
    dx, dy = flow[:, 0], flow[:, 1]
    x, y = level.x + dx, level.y + dy
    moved = sample(two, x, y)
    # A pixel that leaves the frame has nothing to compare with: its own curvature stands alone.
    known = inside(x, y, *one.shape[2:])[:, None]
    slope_x, slope_y = (one[:, :2] - moved[:, :2].mul_(known)).unbind(1)
    xx, yy, xy = torch.where(known, moved[:, 2:], one[:, 2:]).add_(one[:, 2:]).unbind(1)
    right_x = slope_x + xx * dx + xy * dy
    right_y = slope_y + xy * dx + yy * dy
    mixed = xy * xy
    equations = torch.stack(
        [
            xx * xx + mixed,
            yy * yy + mixed,
            (xx + yy) * xy,
            xx * right_x + xy * right_y,
            xy * right_x + yy * right_y,
        ],
        1,
    )
    return equations.mul_(level.trust)


def box_sum(values: Tensor, radius: int, dim: int) -> Tensor:
    """The sum of the 2 · radius + 1 neighbours along `dim`, borders replicated.

    By doubling: sums of 2, 4, 8 ... neighbours, of which those are added that make up the number.
    """
    length, count = values.shape[dim], 2 * radius + 1
    block, size = pad(values, radius, dim), 1
    total, done = block.narrow(dim, 0, length), 1
    while 2 * size <= count:
        room = block.shape[dim] - size
        block = block.narrow(dim, 0, room) + block.narrow(dim, size, room)
        size *= 2
        if count & size:
            total = total + block.narrow(dim, done, length)
            done += size
    return total


def solve(equations: Tensor, prior: Tensor | None) -> Tensor:
    """The displacement d [B, 2, H, W] of G d = h, regularised towards 0, or towards the prior p."""
    xx, yy, xy, right_x, right_y = equations.unbind(1)
    if prior is not None:
        px, py = prior.unbind(1)
        right_x = right_x - xx * px - xy * py
        right_y = right_y - xy * px - yy * py
    inverse = (xx * yy - xy * xy).add_(REGULARISATION).reciprocal_()
    solution = torch.stack([yy * right_x - xy * right_y, xx * right_y - xy * right_x], 1)
    solution.mul_(inverse[:, None])
    return solution if prior is None else solution.add_(prior)
