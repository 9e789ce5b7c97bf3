"""The median of a square window, by whole-image minima and maxima."""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.flow.resample import pad


def median_filter(images: Tensor, size: int) -> Tensor:
    """Each pixel of [..., H, W] replaced by the median of the `size` x `size` window around it.

    `size` is odd; the border is replicated (as `cv2.medianBlur` does). For 5 x 5 it takes about 100
    exchanges of whole images, which is many times faster than sorting 25 values for each pixel.
    """
    if size == 1:
        return images
    padded = pad(pad(images, size // 2, -2), size // 2, -1)
    height, width = images.shape[-2:]
    # Columns are sorted once and shared by the windows beside each other; sorting the rows of a matrix
    # with sorted columns leaves the columns sorted.
    columns = _sorted([padded.narrow(-2, offset, height) for offset in range(size)])
    window = [_sorted([column.narrow(-1, offset, width) for offset in range(size)]) for column in columns]
    # The value in row i and column j then has (i + 1)(j + 1) - 1 others below it and
    # (size - i)(size - j) - 1 above it: with more than half of the window on one side it is not the median.
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
    """The smaller of the two goes to place i, the larger to place j."""
    values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])


def _sorted(values: list[Tensor]) -> list[Tensor]:
    """The tensors' values in ascending order, for each pixel."""
    for last in range(len(values) - 1, 0, -1):
        for i in range(last):
            _exchange(values, i, i + 1)
    return values


def _median(values: list[Tensor]) -> Tensor:
    """The median of an odd number of tensors, for each pixel.

    The smallest and the largest of more than half of the values are not the median: both are forgotten,
    the next value is taken in, and so on until one is left.
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
