"""Films and animations: the frame, its flow, and the trajectories that start in it, side by side."""

from __future__ import annotations

import io
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
SMALL_PANEL = (132, 176)
ANIMATED, PER_SECOND = 20, 10  # frames of an animation
GIF_FRAMES = 300
MARGIN, GAP, HEADER, FOOTER, WHEEL = 24, 12, 108, 24, 56
SAMPLES = 6  # moments that determine the colour scale
QUALITY = "18"  # x264's constant rate factor: no visible loss


def write_film(path: Path, clip: Clip, *, start: float = 0.0, seconds: float = 10.0) -> int:
    """Write the part from `start` to `start + seconds` of a clip; returns the number of frames.

    With the suffix `.gif` it is an animated GIF of at most `GIF_FRAMES` frames, at half size; otherwise an
    H.264 mp4.

    Raises UsageError if no trajectory starts in this part, or in the clip at all.
    """
    if not clip.starts:
        raise UsageError(f"{clip.video.name}: no trajectory starts in it")
    first, last = (float(clip.rate) * second for second in (start, start + seconds))
    numbers = [number for number in clip.starts if first <= number < last]
    if not numbers:
        raise UsageError(
            f"--start {start:g}: the last trajectory of {clip.video.name} begins at "
            f"{float(max(clip.starts) / clip.rate):.2f} s"
        )
    samples = list(clip.moments(numbers[:: max(1, len(numbers) // SAMPLES)]))
    scales = _scales(samples)
    gif = path.suffix.lower() == ".gif"
    if gif:
        numbers = numbers[:: max(1, round(float(clip.rate) / PER_SECOND))][:GIF_FRAMES]
    pictures = _pictures(clip, samples[0], numbers, scales)
    with complete_or_absent(path) as (temporary,):
        if gif:
            temporary.write_bytes(_gif(pictures))
        else:
            _encode(temporary, clip, pictures)
    return len(numbers)


def _gif(pictures: Iterator[np.ndarray]) -> bytes:
    from PIL import Image

    images: list[Image.Image] = []
    for picture in pictures:
        image = Image.fromarray(picture).reduce(2)
        # One palette for all frames, so that the background does not flicker.
        images.append(image.quantize(palette=images[0]) if images else image.quantize())
    file = io.BytesIO()
    images[0].save(file, "gif", save_all=True, append_images=images[1:], duration=1000 // PER_SECOND, loop=0)
    return file.getvalue()


def animation(clip: Clip) -> bytes:
    """The middle of a clip as a short animation, small enough for a page: a WebP file.

    Side by side: the frame (if the video is available), its flow, and the trajectories that start in it.
    """
    from PIL import Image

    numbers = _middle(clip)
    samples = list(clip.moments(numbers[:: max(1, len(numbers) // 3)]))
    scales = _scales(samples)
    height, width = panel_size(samples[0], SMALL_PANEL)
    images = [
        Image.fromarray(np.hstack(_panels(moment, scales, height, width))) for moment in clip.moments(numbers)
    ]
    file = io.BytesIO()
    duration = round(1000 * float((numbers[-1] - numbers[0]) / max(1, len(numbers) - 1) / clip.rate)) or 100
    options = {"duration": duration, "loop": 0, "quality": 55, "method": 4}
    images[0].save(file, "webp", save_all=True, append_images=images[1:], **options)
    return file.getvalue()


def _middle(clip: Clip) -> list[int]:
    """The start frames of an animation, from the middle of the clip, played at its original speed."""
    starts = list(clip.starts)
    if not starts:
        raise UsageError(f"{clip.video.name}: no trajectory starts in it")
    apart = starts[1] - starts[0] if len(starts) > 1 else 1
    every = max(1, round(float(clip.rate) / PER_SECOND / apart))
    begin = max(0, (len(starts) - ANIMATED * every) // 2)
    return starts[begin : begin + ANIMATED * every : every]


def _scales(samples: list[Moment]) -> tuple[float, float]:
    """The lengths in pixels of the pure colour in flow (0 without flow) and in trajectories."""
    flows = [np.hypot(*moment.flow).ravel() for moment in samples if moment.flow is not None]
    lengths = [np.hypot(*(m.points[-1] - m.points[0])[m.inside].T) for m in samples]
    of_flow = colour_wheel.scale_for(np.concatenate(flows)) if flows else 0.0
    return of_flow, colour_wheel.scale_for(np.concatenate(lengths))


def _panels(moment: Moment, scales: tuple[float, float], height: int, width: int) -> list[np.ndarray]:
    panels = [drawing.frame(moment, height, width)]
    if scales[0] and moment.flow is not None:
        panels.append(drawing.flow(moment.flow, scales[0], height, width))
    panels.append(drawing.trajectories(moment, scales[1], height, width))
    return [drawing.framed(panel) for panel in panels]


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
        for column, panel in enumerate(_panels(moment, scales, height, width)):
            x = MARGIN + column * (width + GAP)
            page[HEADER : HEADER + height, x : x + width] = panel
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
