"""Checks before a run: mistakes that would reject every video of the list raise a single error at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.results.stored_flow import stored_flow
from m3flow.videos.videolist import Video

# Checking all files of a large data set takes minutes on a network file system.
CHECKED = 20


def require_sources(sources: Sequence[str], root: Path) -> None:
    """Raise UsageError if none of the first sources of the list exists: most likely the root is wrong.

    `sources` are the paths of the videos; at most `CHECKED` are checked.
    """
    first = sources[:CHECKED]
    if any(_exists(source) for source in first):
        return
    raise UsageError(
        f"no video of the list was found ({len(first)} checked); the first is missing at "
        f"{first[0]!r}: is the root ({root}) right?"
    )


def require_flow(videos: Sequence[Video], outputs: Outputs) -> None:
    """Raise UsageError if none of the first videos has flow to make trajectories from."""
    first = videos[:CHECKED]
    reasons = []
    for video in first:
        try:
            stored_flow(outputs.flow(video.name))
        except BadInput as error:
            reasons.append(str(error))
        else:
            return
    raise UsageError(
        f"no video of the list has flow to make trajectories from ({len(first)} checked): {reasons[0]}"
    )


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False
