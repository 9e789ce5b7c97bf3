"""The steps of a long operation, counted for a progress display."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int, str], None]
"""Receives the number of steps done, their total as far as known, and the name of the step that begins."""


def no_display(done: int, total: int, step: str) -> None:
    """An `OnStep` that shows nothing."""


class StepCounter:
    """Counts the steps and reports the start of each to `on_step`.

    Attributes
    ----------
    left: the number of remaining steps, an upper limit; may be set once it is known.
    """

    def __init__(self, on_step: OnStep, left: int = 0) -> None:
        self._on_step, self._begun, self.left = on_step, 0, left

    def begin(self, step: str) -> None:
        self.left = max(self.left - 1, 0)
        self._on_step(self._begun, self._begun + 1 + self.left, step)
        self._begun += 1
