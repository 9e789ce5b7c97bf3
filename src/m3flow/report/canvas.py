"""A white page of fixed size in pixels, for pictures and text."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

DPI = 100
POINT = DPI / 72  # pixels
ASCENT, LINE = 0.93, 1.35  # of a line of text, relative to its size
INK, FAINT = "#1c2430", "#5d6875"
FAMILY = "DejaVu Sans"  # ships with Matplotlib, so pages look the same everywhere


class Canvas:
    """A page; positions are (x, y) in pixels from the upper left corner."""

    def __init__(self, height: int, width: int) -> None:
        self._pixels = np.full((height, width, 3), 255, np.uint8)
        self._texts: list[dict[str, Any]] = []

    def paste(self, picture: np.ndarray, x: int, y: int) -> None:
        """Paste a picture, uint8 [h, w, 3] RGB or [h, w, 4] RGBA, with its upper left corner at (x, y)."""
        height, width = picture.shape[:2]
        target = self._pixels[y : y + height, x : x + width]
        if picture.shape[2] == 4:
            opacity = picture[..., 3:] / 255
            picture = np.rint(opacity * picture[..., :3] + (1 - opacity) * target).astype(np.uint8)
        target[...] = picture

    def text(
        self, x: float, y: float, text: str, size: float, colour: str = INK, weight: str = "normal"
    ) -> None:
        """Write text of `size` points, its upper left corner at (x, y); line breaks are kept."""
        height, width = self._pixels.shape[:2]
        for number, line in enumerate(printable(text).split("\n")):
            baseline = y + size * POINT * (ASCENT + number * LINE)
            self._texts.append(
                {
                    "x": x / width,
                    "y": 1 - baseline / height,
                    "s": line,
                    "fontsize": size,
                    "color": colour,
                    "fontweight": weight,
                }
            )

    def shortened(self, text: str, size: float, weight: str = "normal", margin: int = 28) -> str:
        """The text, with its middle elided if it is wider than the page."""
        text = printable(text)
        room = (self._pixels.shape[1] - 2 * margin) / POINT
        font = FontProperties(family=FAMILY, weight=weight)
        keep = len(text)
        while keep > 8 and _width(text, keep, font, size) > room:
            keep -= max(1, keep // 20)
        return _cut(text, keep)

    def picture(self) -> np.ndarray:
        """The rendered page: uint8 [H, W, 3], RGB."""
        height, width = self._pixels.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        figure.figimage(self._pixels, origin="upper")
        for text in self._texts:
            figure.text(**text, va="baseline", family=FAMILY, parse_math=False)
        with warnings.catch_warnings():
            # Characters that the font lacks are drawn as boxes, which is not worth a warning.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def printable(text: str) -> str:
    """The text with control characters and undecodable parts of names replaced."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _cut(text: str, keep: int) -> str:
    return text if keep >= len(text) else f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


def _width(text: str, keep: int, font: FontProperties, size: float) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return TextPath((0, 0), _cut(text, keep).replace("$", "S"), size=size, prop=font).get_extents().width
