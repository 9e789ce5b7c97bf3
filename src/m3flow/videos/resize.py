"""The size to which frames are resized before flow is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resize:
    """The size to which frames are resized; one of the three, or none to keep their size.

    Attributes
    ----------
    short_side, long_side: of the frame in pixels; the other side keeps the proportions.
    size: width and height in pixels, as "340x256".
    """

    short_side: int = 0
    long_side: int = 0
    size: str = ""

    def of(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of frames of this width and height."""
        if self.size:
            new_width, _, new_height = self.size.partition("x")
            return int(new_width), int(new_height)
        if self.short_side:
            scale = self.short_side / min(width, height)
        elif self.long_side:
            scale = self.long_side / max(width, height)
        else:
            return width, height
        return max(1, round(width * scale)), max(1, round(height * scale))


KEPT = Resize()
"""Frames keep their size."""
