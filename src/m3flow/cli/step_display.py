"""Progress display of a command with discrete steps."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0


class StepDisplay:
    """Shows the steps of a command; use as a context manager and call it at the start of each step.

    On a terminal: a bar with an ETA. Elsewhere: one line per step, and one every `PLAIN_SECONDS` during long ones.
    """

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._line = title
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._repeat, daemon=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn(title),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> StepDisplay:
        (self._bar or self._lines).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()
        else:
            self._lines.join()

    def __call__(self, done: int, total: int, step: str) -> None:
        """Show that `step` begins, after `done` of `total` steps."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=step)
            return
        seconds = time.monotonic() - self._began
        eta = f", ETA {timedelta(seconds=round(seconds * (total - done) / done))}" if done else ""
        self._line = f"{self._title}: {done}/{total}{eta}: {step}"
        self._print(self._line)

    def _repeat(self) -> None:
        while not self._ended.wait(PLAIN_SECONDS):
            self._print(f"{self._line} (since {timedelta(seconds=round(time.monotonic() - self._began))})")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
