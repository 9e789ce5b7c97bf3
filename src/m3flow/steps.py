"""The steps of long work, counted for a progress display."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int, str], None]
"""Gets the number of steps done, their total as far as it is known, and the name of the step that begins."""


def no_display(done: int, total: int, step: str) -> None:
    """An `OnStep` that shows nothing."""


class StepCounter:
    """Counts the steps and hands each to `on_step` as it begins.

    Attributes
    ----------
    left: the number of steps that have not begun; may be set once it is known, and is an upper limit.
    """

    def __init__(self, on_step: OnStep, left: int = 0) -> None:
        self._on_step, self._begun, self.left = on_step, 0, left

    def begin(self, step: str) -> None:
        self.left = max(self.left - 1, 0)
        self._on_step(self._begun, self._begun + 1 + self.left, step)
        self._begun += 1
