"""Flow as colour: the wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2011).

Convention
----------
Direction is hue: right is red, down yellow, left cyan, up blue-violet. Length is saturation: no motion is
white, `largest` pixels the pure colour, and longer motion is darker.
"""

from __future__ import annotations

import cv2
import numpy as np

# The number of steps from each pure colour to the next, as in the paper's program.
RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA = (
    (255, 0, 0),
    (255, 255, 0),
    (0, 255, 0),
    (0, 255, 255),
    (0, 0, 255),
    (255, 0, 255),
)
STEPS = ((RED, 15), (YELLOW, 6), (GREEN, 4), (CYAN, 11), (BLUE, 13), (MAGENTA, 6))
TOO_LONG = 0.75  # brightness of motion longer than the largest
ROUND_NUMBERS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)


def _hues() -> np.ndarray:
    """The wheel's 55 colours, from right through down, left and up: float32 [55, 3], RGB from 0 to 1."""
    colours = []
    for index, (start, count) in enumerate(STEPS):
        end = np.array(STEPS[(index + 1) % len(STEPS)][0])
        share = np.floor(255 * np.arange(count)[:, None] / count) / 255
        colours.append((np.array(start) + (end - np.array(start)) * share) / 255)
    return np.concatenate(colours).astype(np.float32)


HUES = _hues()


def colours(flow: np.ndarray, largest: float) -> np.ndarray:
    """Flow as a picture.

    Parameters
    ----------
    flow: float [2, ...] in pixels, channel 0 = x (right), 1 = y (down).
    largest: the length in pixels of the pure colour.

    Returns
    -------
    uint8 [..., 3], RGB.
    """
    x, y = (np.asarray(component, np.float32) / largest for component in flow)
    radius = np.hypot(x, y)[..., None]
    position = np.arctan2(y, x) / (2 * np.pi) % 1 * (len(HUES) - 1)
    lower = np.floor(position).astype(np.intp)
    share = (position - lower)[..., None]
    hue = (1 - share) * HUES[lower] + share * HUES[(lower + 1) % len(HUES)]
    pure = np.where(radius <= 1, 1 - radius * (1 - hue), hue * TOO_LONG)
    return (255 * pure).astype(np.uint8)


def legend(size: int) -> np.ndarray:
    """The wheel as a disc `size` pixels wide on a transparent background: uint8 [size, size, 4], RGBA."""
    fine = 4 * size
    axis = (np.arange(fine, dtype=np.float32) + 0.5) / fine * 2 - 1
    x, y = np.broadcast_to(axis, (fine, fine)), np.broadcast_to(axis[:, None], (fine, fine))
    disc = np.dstack([colours(np.stack([x, y]), 1), np.where(np.hypot(x, y) <= 1, 255, 0).astype(np.uint8)])
    return cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA)


def scale_for(lengths: np.ndarray) -> float:
    """The wheel's edge for a picture: a round number of pixels that 99 % of the motion does not exceed."""
    longest = float(np.percentile(lengths, 99)) if lengths.size else 0.0
    longest = max(longest, 0.5)
    power = 10 ** np.floor(np.log10(longest))
    return float(next(number * power for number in ROUND_NUMBERS if number * power >= longest * 0.999))
