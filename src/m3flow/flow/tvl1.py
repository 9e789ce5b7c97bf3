"""TV-L1 on the torch backend, batched over pairs, as OpenCV's CPU version computes it.

Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007, in the form of
Sánchez Pérez, Meinhardt-Llopis and Facciolo, IPOL 2013: the data term and the total variation are minimised
in turn, coupled by theta, around a linearisation that is renewed for each warp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.flow.bicubic import sample_bicubic
from m3flow.flow.median import median_filter
from m3flow.flow.parameters import TVL1Parameters
from m3flow.flow.resample import pixel_grid, resize
from m3flow.flow.torch_base import TorchEstimator

SMALLEST_SIDE = 16


class TVL1(TorchEstimator):
    """Agrees with `cv2.optflow.DualTVL1OpticalFlow` as far as it agrees with itself on rounded input.

    The iterations of a warp stop for each pair alone, when its flow changes by less than `epsilon` px rms:
    the result does not depend on what else is in the batch.
    """

    name = "tvl1"
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
        """Frames [2, B, H, W] at all levels, the full size first; each level is made from the last."""
        scale, levels = self.parameters.scale_step, [frames]
        while len(levels) < self.parameters.scales:
            height, width = (round(side * scale) for side in levels[-1].shape[-2:])
            if min(height, width) < SMALLEST_SIDE:
                break
            levels.append(resize(levels[-1], height, width, ratio=1 / scale))
        return levels

    def _level(self, one: Tensor, two: Tensor, flow: Tensor) -> Tensor:
        """The flow [B, 2, H, W] improved by all warps of one pyramid level; frames are [B, H, W]."""
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
        """Flow and dual variables after the iterations of one warp, each pair stopped by itself.

        Pairs that have stopped leave the batch, so that the rest runs faster.
        """
        p = self.parameters
        limit = p.epsilon**2 * flow.shape[-2] * flow.shape[-1]
        result_flow, result_dual = flow.clone(), dual.clone()
        running = torch.arange(len(flow), device=flow.device)
        inverse_norm = -1 / gradient.square().sum(1).clamp_min(torch.finfo(torch.float32).eps)
        for iteration in range(p.outer * p.inner):
            if iteration % p.inner == 0:
                flow = median_filter(flow, p.median)
            flow, dual, change = _iterate(
                flow, dual, gradient, constant, inverse_norm, p.lambda_ * p.theta, p.theta, p.tau / p.theta
            )
            going = change > limit
            count = int(going.sum())
            if count < len(running):
                stopped = ~going
                result_flow[running[stopped]] = flow[stopped]
                result_dual[running[stopped]] = dual[stopped]
                if count == 0:
                    return result_flow, result_dual
                running = running[going]
                flow, dual, gradient, constant, inverse_norm = (
                    x[going] for x in (flow, dual, gradient, constant, inverse_norm)
                )
        result_flow[running], result_dual[running] = flow, dual
        return result_flow, result_dual


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
    """One iteration for every pair: the new flow and dual variables, and the squared change [B] of the flow.

    Shapes: flow and gradient [B, 2, H, W]; dual [B, 2 (component), 2 (x, y), H, W]; constant (of the
    linearised residual) and inverse_norm (-1 / |gradient|²) [B, H, W].
    """
    # Thresholding: along the gradient, to where the residual is zero, but no further than `reach` times it.
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
