"""Sampling and derivatives for fused Triton kernels: what `m3flow.flow.image_ops` is for torch operations."""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # pixels per program


def derivatives(frames: Tensor, corner: float, side: float) -> Tensor:
    """The derivatives of float32 [B, H, W] in x and in y by differences over 3x3 pixels: [B, 2, H, W].

    corner, side: the weights of the differences along the outer lines, and along the one in the middle. The border is
    reflected.
    """
    frames = frames.contiguous()
    batch, height, width = frames.shape
    result = frames.new_empty(batch, 2, height, width)
    with torch.cuda.device_of(frames):
        differentiate[(triton.cdiv(height * width, BLOCK), batch)](
            frames, result, height, width, corner, side, BLOCK=BLOCK
        )
    return result


@triton.jit
def reflect(place, length):
    """The index of a sample up to one beyond the ends of a line."""
    place = tl.abs(place)
    place = tl.where(place >= length, 2 * length - 2 - place, place)
    return tl.maximum(place, 0)


@triton.jit
def differentiate(frames, result, height, width, corner, side, BLOCK: tl.constexpr):
    """See `derivatives`. Grid: (blocks of pixels, frames)."""
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x, y = pixel % width, pixel // width
    frame = tl.program_id(1).to(tl.int64)
    frames += frame * size
    left, right = reflect(x - 1, width), reflect(x + 1, width)
    upper, lower = reflect(y - 1, height) * width, reflect(y + 1, height) * width
    middle = y * width
    a = tl.load(frames + upper + left, mask=live)
    b = tl.load(frames + upper + x, mask=live)
    c = tl.load(frames + upper + right, mask=live)
    d = tl.load(frames + middle + left, mask=live)
    e = tl.load(frames + middle + right, mask=live)
    f = tl.load(frames + lower + left, mask=live)
    g = tl.load(frames + lower + x, mask=live)
    h = tl.load(frames + lower + right, mask=live)
    in_x = corner * ((c - a) + (h - f)) + side * (e - d)
    in_y = corner * ((f - a) + (h - c)) + side * (g - b)
    result += frame * 2 * size
    tl.store(result + pixel, in_x, mask=live)
    tl.store(result + size + pixel, in_y, mask=live)


@triton.jit
def bilinear(image, x, y, height, width):
    """Bilinear samples of an image at x, y; border replicated. Where a coordinate is not a number, so is the sample."""
    # The comparisons of `maximum` drop what is not a number, which would be an index below.
    left = tl.minimum(tl.maximum(tl.floor(x), 0.0), tl.maximum(width - 2, 0).to(tl.float32))
    top = tl.minimum(tl.maximum(tl.floor(y), 0.0), tl.maximum(height - 2, 0).to(tl.float32))
    along, down = tl.minimum(tl.maximum(x - left, 0.0), 1.0), tl.minimum(tl.maximum(y - top, 0.0), 1.0)
    corner = image + top.to(tl.int32) * width + left.to(tl.int32)
    right, below = tl.minimum(width - 1, 1), tl.minimum(height - 1, 1) * width
    upper, upper_right = tl.load(corner), tl.load(corner + right)
    lower, lower_right = tl.load(corner + below), tl.load(corner + below + right)
    upper += along * (upper_right - upper)
    lower += along * (lower_right - lower)
    sampled = upper + down * (lower - upper)
    return tl.where((x == x) & (y == y), sampled, float("nan"))
