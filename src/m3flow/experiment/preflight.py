"""Checks before a run: mistakes that would reject every video of the list are answered once, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.results.stored_flow import stored_flow
from m3flow.videos.videolist import Video

# Looking at all of a large data set takes minutes on a network file system.
LOOKED_AT = 20


def require_sources(videos: Sequence[Video], root: Path) -> None:
    """Raise UsageError where none of the first videos of the list exists: the root is wrong, most likely."""
    first = videos[:LOOKED_AT]
    if any(_exists(video) for video in first):
        return
    raise UsageError(
        f"{_none_of(first, videos)} exists; the first was looked for at {first[0].source!r}: "
        f"is the root ({root}) right?"
    )


def require_flow(videos: Sequence[Video], outputs: Outputs) -> None:
    """Raise UsageError where none of the first videos has flow to make trajectories from."""
    first = videos[:LOOKED_AT]
    reasons = []
    for video in first:
        try:
            stored_flow(outputs.flow(video.name))
        except BadInput as error:
            reasons.append(str(error))
        else:
            return
    raise UsageError(f"{_none_of(first, videos)} has flow to make trajectories from: {reasons[0]}")


def _exists(video: Video) -> bool:
    try:
        return Path(video.source).exists()
    except (OSError, ValueError):
        return False


def _none_of(first: Sequence[Video], videos: Sequence[Video]) -> str:
    return (
        f"none of the first {len(first)} videos of the list"
        if len(first) < len(videos)
        else "no video of the list"
    )
