"""The median of a square window, by whole-image minima and maxima."""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.flow.image_ops import pad


def median_filter(images: Tensor, size: int) -> Tensor:
    """The median of the `size` x `size` window around each pixel of [..., H, W].

    `size` is odd; the border is replicated, as in `cv2.medianBlur`. A 5 x 5 window takes about 100
    compare-and-swap operations on whole images, many times faster than sorting 25 values per pixel.
    """
    if size == 1:
        return images
    padded = pad(pad(images, size // 2, -2), size // 2, -1)
    height, width = images.shape[-2:]
    # Sorted columns are shared by horizontally adjacent windows; sorting the rows of a matrix with sorted
    # columns keeps the columns sorted.
    columns = _sorted([padded.narrow(-2, offset, height) for offset in range(size)])
    window = [_sorted([column.narrow(-1, offset, width) for offset in range(size)]) for column in columns]
    # The value in row i and column j then is at least as large as (i + 1)(j + 1) - 1 others and at most as
    # large as (size - i)(size - j) - 1: with more than half of the window on one side it is not the median.
    middle = (size * size + 1) // 2
    return _median(
        [
            window[i][j]
            for i in range(size)
            for j in range(size)
            if (i + 1) * (j + 1) <= middle and (size - i) * (size - j) <= middle
        ]
    )


def _exchange(values: list[Tensor], i: int, j: int) -> None:
    """Compare and swap: the smaller value goes to position i, the larger to position j."""
    values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])


def _sorted(values: list[Tensor]) -> list[Tensor]:
    """The values of the tensors in ascending order, per pixel (bubble sort)."""
    for last in range(len(values) - 1, 0, -1):
        for i in range(last):
            _exchange(values, i, i + 1)
    return values


def _median(values: list[Tensor]) -> Tensor:
    """The median of an odd number of tensors, per pixel.

    Forgetful selection: of more than half of the values neither the smallest nor the largest is the median;
    both are dropped and the next value is added, until one is left.
    """
    kept, waiting = values[: len(values) // 2 + 2], values[len(values) // 2 + 2 :]
    while len(kept) > 2:
        last = len(kept) - 1
        for i in range(1, last + 1):
            _exchange(kept, 0, i)
        for i in range(1, last):
            _exchange(kept, i, last)
        kept = kept[1:last] + waiting[:1]
        waiting = waiting[1:]
    return kept[0]
