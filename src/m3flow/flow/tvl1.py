"""TV-L1 on the torch backend, batched over pairs, with the results of OpenCV's CPU version.

Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007, in the form of
Sánchez Pérez, Meinhardt-Llopis and Facciolo, IPOL 2013: data term and total variation are minimised
alternately, coupled by theta, around a linearisation that is updated in every warp.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3flow.flow.image_ops import pixel_grid, resize, sample_bicubic
from m3flow.flow.median import median_filter
from m3flow.flow.parameters import TVL1Parameters
from m3flow.flow.torch_base import TorchEstimator
from m3flow.flow.transfer import LateReadback, to_device

SMALLEST_SIDE = 16
# On a GPU stopped pairs leave the batch together, once more than one in so many has stopped.
ENOUGH_STOPPED = 8


class TVL1(TorchEstimator):
    """`cv2.optflow.DualTVL1OpticalFlow` in torch; the difference is no larger than OpenCV's own sensitivity
    to rounding of its input.

    The iterations of a warp stop separately for each pair, when its flow changes by less than `epsilon` px
    rms, so the result of a pair does not depend on the rest of the batch.
    """

    name = "tvl1"
    bytes_per_pixel = 464
    parameters: TVL1Parameters

    def __init__(self, parameters: TVL1Parameters, *, device: str) -> None:
        super().__init__(parameters, device=device)

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        pyramid = self._pyramid(torch.stack((previous, current)).float())
        flow = torch.zeros_like(pyramid[-1][0])[:, None].repeat(1, 2, 1, 1)
        for level, (one, two) in reversed(list(enumerate(pyramid))):
            flow = self._level(one, two, flow)
            if level > 0:
                flow = resize(flow, *pyramid[level - 1].shape[-2:]) / self.parameters.scale_step
        return flow

    def _pyramid(self, frames: Tensor) -> list[Tensor]:
        """Frames [2, B, H, W] at all levels, the full size first; each level is computed from the one before."""
        scale, levels = self.parameters.scale_step, [frames]
        while len(levels) < self.parameters.scales:
            height, width = (round(side * scale) for side in levels[-1].shape[-2:])
            if min(height, width) < SMALLEST_SIDE:
                break
            levels.append(resize(levels[-1], height, width, ratio=1 / scale))
        return levels

    def _level(self, one: Tensor, two: Tensor, flow: Tensor) -> Tensor:
        """The flow [B, 2, H, W] after all warps of one pyramid level; frames are [B, H, W]."""
        dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[-2:])
        two_and_gradient = torch.stack((two, *_central_gradient(two)), dim=1)
        x, y = pixel_grid(*two.shape[-2:], two.device)
        for _ in range(self.parameters.warps):
            warped = sample_bicubic(two_and_gradient, flow[:, 0] + x, flow[:, 1] + y, "zero")
            gradient = warped[:, 1:]
            constant = warped[:, 0] - one - (gradient * flow).sum(1)
            flow, dual = self._minimise(flow, dual, gradient, constant)
        return flow

    def _minimise(
        self, flow: Tensor, dual: Tensor, gradient: Tensor, constant: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flow and dual variables after the iterations of one warp; each pair stops separately.

        Pairs that have stopped leave the batch. A GPU's host knows of them later; until then they keep their values.
        """
        p = self.parameters
        limit = p.epsilon**2 * flow.shape[-2] * flow.shape[-1]
        result = flow.clone(), dual.clone()
        places = np.arange(len(flow))  # of the pairs in the result
        running = torch.ones(len(flow), dtype=torch.bool, device=flow.device)
        readback = LateReadback(flow.device)
        least = 1 if readback.late == 0 else len(flow) // ENOUGH_STOPPED + 1
        inverse_norm = -1 / gradient.square().sum(1).clamp_min(torch.finfo(torch.float32).eps)
        for iteration in range(p.outer * p.inner):
            start = median_filter(flow, p.median) if iteration % p.inner == 0 else flow
            new_flow, new_dual, change = _iterate(
                start, dual, gradient, constant, inverse_norm, p.lambda_ * p.theta, p.theta, p.tau / p.theta
            )
            goes_on = change > limit
            if readback.late != 0:
                torch.where(running[:, None, None, None], new_flow, flow, out=new_flow)
                torch.where(running[:, None, None, None, None], new_dual, dual, out=new_dual)
                goes_on &= running
            flow, dual, running = new_flow, new_dual, goes_on
            going = readback.read(running)
            if going is None or len(going) - np.count_nonzero(going) < min(least, len(going)):
                continue
            _store(result, places[~going], (flow, dual), np.flatnonzero(~going))
            places, left = places[going], to_device(np.flatnonzero(going), flow.device)
            if len(left) == 0:
                return result
            flow, dual, gradient, constant, inverse_norm, running = (
                values.index_select(0, left)
                for values in (flow, dual, gradient, constant, inverse_norm, running)
            )
            readback.forget()
        if len(places) == len(result[0]):
            return flow, dual
        _store(result, places, (flow, dual), np.arange(len(places)))
        return result


def _store(
    result: tuple[Tensor, Tensor], places: np.ndarray, values: tuple[Tensor, Tensor], pairs: np.ndarray
) -> None:
    """Copy some pairs of `values` to their places in the result."""
    to, of = (to_device(index, result[0].device) for index in (places, pairs))
    for whole, some in zip(result, values, strict=True):
        whole.index_copy_(0, to, some.index_select(0, of))


def _iterate(
    flow: Tensor,
    dual: Tensor,
    gradient: Tensor,
    constant: Tensor,
    inverse_norm: Tensor,
    reach: float,
    theta: float,
    step: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One iteration of every pair: new flow, new dual variables, and the squared change [B] of the flow.

    Shapes: flow and gradient [B, 2, H, W]; dual [B, 2 (component), 2 (x, y), H, W]; constant (of the
    linearised residual) and inverse_norm (-1 / |gradient|²) [B, H, W].
    """
    # Thresholding step: along the gradient to zero residual, but at most `reach` times the gradient.
    residual = torch.addcmul(constant, gradient[:, 0], flow[:, 0]).addcmul_(gradient[:, 1], flow[:, 1])
    residual.mul_(inverse_norm).clamp_(-reach, reach)
    new = _divergence(dual).mul_(theta).add_(flow).addcmul_(residual[:, None], gradient)
    change = (new - flow).square_().sum((1, 2, 3))

    slope = torch.zeros_like(dual)
    torch.sub(new[..., :, 1:], new[..., :, :-1], out=slope[:, :, 0, :, :-1])
    torch.sub(new[..., 1:, :], new[..., :-1, :], out=slope[:, :, 1, :-1, :])
    length = torch.hypot(slope[:, :, 0], slope[:, :, 1]).mul_(step).add_(1)
    return new, slope.mul_(step).add_(dual).div_(length[:, :, None]), change


def _divergence(dual: Tensor) -> Tensor:
    """[..., 2 (x, y), H, W] -> [..., H, W] by backward differences; zero outside, minus the adjoint of the
    forward differences."""
    x, y = dual[..., 0, :, :], dual[..., 1, :, :]
    result = x + y
    result[..., :, 1:] -= x[..., :, :-1]
    result[..., 1:, :] -= y[..., :-1, :]
    return result


def _central_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """d/dx and d/dy of [B, H, W] by central differences with a replicated border."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return x, y
