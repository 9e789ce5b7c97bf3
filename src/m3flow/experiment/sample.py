"""Statistics of a sample of a list's videos: frames and frame size, from their headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3flow.errors import BadInput
from m3flow.experiment.config import Experiment
from m3flow.videos.resize import KEPT, Resize

SAMPLE = 64
HEADER_SECONDS = 20.0


@dataclass(frozen=True)
class Sample:
    """Statistics of a sample of a list's videos, from their headers.

    Attributes
    ----------
    videos: number of sampled videos; missing: the share of them that could not be opened.
    frames: the mean of the others; width, height: their medians, in pixels.
    """

    videos: int
    missing: float
    frames: float
    width: float
    height: float


def sample(experiment: Experiment, count: int = SAMPLE) -> Sample:
    """Sample the headers of a few videos, spread over the list."""
    flow = experiment.flow
    return of_headers(headers(experiment.videos.sample(count), flow.frames.rate), flow.resize)


def headers(sources: Sequence[str], rate: float = 0) -> list[tuple[int, int, int] | None]:
    """(frames, width, height) of each video from its header, None if it cannot be opened.

    The frames are those kept at a `rate` of frames per second; 0: all.

    In a separate process: a damaged file may crash the library.
    """
    import multiprocessing
    from concurrent.futures import TimeoutError as TimedOut

    from pebble import ProcessExpired, ProcessPool

    found: list[tuple[int, int, int] | None] = []
    with ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.schedule(_header, [source, rate], timeout=HEADER_SECONDS) for source in sources]:
            try:
                found.append(future.result())
            except (ProcessExpired, TimedOut):
                found.append(None)
    return found


def _header(source: str, rate: float) -> tuple[int, int, int] | None:
    from m3flow.videos.frames import Frames

    try:
        info = Frames(source, rate=rate).info
    except BadInput:
        return None
    return info.claimed, info.width, info.height


def of_headers(found: Sequence[tuple[int, int, int] | None], resize: Resize = KEPT) -> Sample:
    """The statistics of some videos' headers; sizes are those after the `resize`."""
    usable = np.array([header for header in found if header], np.float64).reshape(-1, 3)
    if not len(usable):
        return Sample(len(found), 1.0 if found else 0.0, 0.0, 0.0, 0.0)
    frames, (width, height) = usable[:, 0].mean(), np.median(usable[:, 1:], axis=0)
    width, height = resize.of(width, height)
    return Sample(len(found), 1 - len(usable) / len(found), float(frames), float(width), float(height))
