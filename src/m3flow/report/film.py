"""The side-by-side film: the frame, its flow, and the trajectories that start in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from m3flow.atomic import complete_or_absent
from m3flow.errors import UsageError
from m3flow.report import colour_wheel, drawing
from m3flow.report.canvas import FAINT, Canvas
from m3flow.report.clip import Clip, Moment
from m3flow.report.contact_sheet import description, panel_size

PANEL = (480, 480)
MARGIN, GAP, HEADER, FOOTER, WHEEL = 24, 12, 108, 24, 56
SAMPLES = 6  # moments that the scale of the colours is taken from
QUALITY = "18"  # x264's constant rate factor: no visible loss


def write_film(path: Path, clip: Clip, *, start: float = 0.0, seconds: float = 10.0) -> int:
    """Write frames `start` to `start + seconds` of a clip as an H.264 mp4; returns how many there are.

    Raises UsageError where the clip has ended by then.
    """
    first, last = (float(clip.rate) * second for second in (start, start + seconds))
    numbers = [number for number in clip.starts if first <= number < last]
    if not numbers:
        raise UsageError(
            f"--start {start:g}: the last trajectory of {clip.video.name} begins at "
            f"{float(max(clip.starts) / clip.rate):.2f} s"
        )
    samples = list(clip.moments(numbers[:: max(1, len(numbers) // SAMPLES)]))
    flows = [np.hypot(*moment.flow).ravel() for moment in samples if moment.flow is not None]
    scales = (
        colour_wheel.scale_for(np.concatenate(flows)) if flows else 0.0,
        colour_wheel.scale_for(
            np.concatenate([np.hypot(*(m.points[-1] - m.points[0])[m.inside].T) for m in samples])
        ),
    )
    with complete_or_absent(path) as (temporary,):
        _encode(temporary, clip, _pictures(clip, samples[0], numbers, scales))
    return len(numbers)


def _pictures(
    clip: Clip, first: Moment, numbers: list[int], scales: tuple[float, float]
) -> Iterator[np.ndarray]:
    height, width = panel_size(first, PANEL)
    titles = ["Frame", *(["Flow"] if scales[0] else []), "Trajectories"]
    canvas = Canvas(_even(HEADER + height + FOOTER), _even(2 * MARGIN + len(titles) * (width + GAP) - GAP))
    canvas.text(MARGIN, 16, canvas.shortened(clip.video.name, 13, "bold"), 13, weight="bold")
    canvas.text(MARGIN, 42, canvas.shortened(description(clip, first), 9), 9, FAINT)
    for column, title in enumerate(titles):
        x = MARGIN + column * (width + GAP)
        canvas.text(x, HEADER - 28, title, 11, weight="bold")
        largest = {"Flow": scales[0], "Trajectories": scales[1]}.get(title, 0.0)
        if largest:
            canvas.paste(colour_wheel.legend(WHEEL), x + width - WHEEL, HEADER - WHEEL - 6)
            canvas.text(x + width - WHEEL - 62, HEADER - 26, f"{largest:g} px", 9.5, FAINT)
    page = canvas.picture()
    for moment in clip.moments(numbers):
        panels = [drawing.frame(moment, height, width)]
        if scales[0] and moment.flow is not None:
            panels.append(drawing.flow(moment.flow, scales[0], height, width))
        panels.append(drawing.trajectories(moment, scales[1], height, width))
        for column, panel in enumerate(panels):
            x = MARGIN + column * (width + GAP)
            page[HEADER : HEADER + height, x : x + width] = drawing.framed(panel)
        yield page


def _encode(path: Path, clip: Clip, pictures: Iterator[np.ndarray]) -> None:
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=clip.rate, options={"crf": QUALITY})
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _even(length: int) -> int:
    return length + length % 2
