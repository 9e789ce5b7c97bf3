"""The panels of contact sheets and films. All are uint8 [H, W, 3], RGB."""

from __future__ import annotations

import math

import cv2
import numpy as np

from m3flow.report import colour_wheel
from m3flow.report.clip import Moment
from m3flow.trajectories.tracking import GRID

DIMMED = 0.5  # the frame behind the trajectories
LEAVES = np.array([215.0, 215.0, 215.0])  # a trajectory that leaves the frame
STAYS = np.array([105.0, 105.0, 105.0])  # one that does not move
FAINT = 0.3  # the opacity of trajectories that are not reliable
EDGE = (205, 211, 219)
APART = 8  # minimum distance in pixels between the starts of two trajectories
SUBPIXEL = 4  # fractional bits of the coordinates of lines
DOT = 20  # radius of the dot at a start, in these fractions of a pixel


def frame(moment: Moment, height: int, width: int) -> np.ndarray:
    """The video's frame, or dark grey if the video is not available."""
    if moment.frame is None:
        return np.full((height, width, 3), 40, np.uint8)
    return resized(moment.frame, height, width)


def flow(field: np.ndarray, largest: float, height: int, width: int) -> np.ndarray:
    """A flow [2, H, W] in the colours of the wheel whose edge is `largest` pixels."""
    return resized(colour_wheel.colours(field, largest), height, width)


def trajectories(moment: Moment, largest: float, height: int, width: int) -> np.ndarray:
    """The trajectories from their start (a dot) to their end, coloured by direction, over the dimmed frame.

    A trajectory `largest` pixels long gets the pure colour; one that leaves the frame is grey, and one that is not
    reliable to its end is faint.
    """
    picture = frame(moment, height, width)
    picture = (picture * DIMMED).astype(np.uint8)
    scale = np.array([width / moment.size[1], height / moment.size[0]])
    # If the picture is smaller than the video, draw only a subset, to keep them apart.
    every = max(1, math.ceil(APART / (GRID * scale.min())))
    points, inside = moment.points[:, ::every, ::every], moment.inside[::every, ::every].reshape(-1)
    # The centre of the first pixel is (0, 0) in the video and here.
    places = ((points + 0.5) * scale - 0.5).reshape(len(points), -1, 2)
    fixed = np.rint(places * 2**SUBPIXEL).astype(np.int32).swapaxes(0, 1).copy()
    displacement = (points[-1] - points[0]).reshape(-1, 2)
    colours = _line_colours(displacement, inside, largest).tolist()
    thickness = 1 if scale.min() < 2 else 2
    reliable = np.ones(len(fixed), bool)
    if moment.reliable is not None:
        reliable = moment.reliable[::every, ::every].reshape(-1)
    # The longest last, so that they are on top.
    order = np.argsort(np.hypot(*displacement.T), kind="stable")
    faint = picture.copy()
    _draw(faint, fixed, colours, order[~reliable[order]], thickness)
    picture = cv2.addWeighted(faint, FAINT, picture, 1 - FAINT, 0)
    _draw(picture, fixed, colours, order[reliable[order]], thickness)
    return picture


def _draw(
    picture: np.ndarray, lines: np.ndarray, colours: list[list[int]], order: np.ndarray, thickness: int
) -> None:
    """Draw lines int32 [N, L + 1, 2], each with a dot at its start, into the picture."""
    for index in order:
        line, colour = lines[index], colours[index]
        cv2.polylines(picture, [line], False, colour, thickness, cv2.LINE_AA, SUBPIXEL)
        cv2.circle(picture, line[0].tolist(), DOT, colour, -1, cv2.LINE_AA, SUBPIXEL)


def _line_colours(displacement: np.ndarray, inside: np.ndarray, largest: float) -> np.ndarray:
    """Colours [N, 3] of displacements [N, 2]: the wheel's pure colours, fading to grey for small ones."""
    length = np.hypot(*displacement.T)[:, None]
    pure = colour_wheel.colours((displacement / np.maximum(length, 1e-6)).T, 1)
    strength = np.sqrt(np.clip(length / largest, 0, 1))
    colours = STAYS + strength * (np.where(inside[:, None], pure, LEAVES) - STAYS)
    return np.rint(colours).astype(np.uint8)


def framed(picture: np.ndarray) -> np.ndarray:
    """The picture with a thin grey border, so that a white one is visible on a white page."""
    picture = picture.copy()
    cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), EDGE, 1)
    return picture


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    smaller = picture.shape[0] > height
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
