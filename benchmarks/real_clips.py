"""Real clips for benchmarks: the given ones, or those of `make demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

DEMO_CLIPS = Path(__file__).parent.parent / "demo" / "clips"


def add_clips(parser: argparse.ArgumentParser) -> None:
    """Add the argument `clips` to the command line."""
    parser.add_argument("clips", nargs="*", type=Path, help="real clips; by default those of `make demo`")


def chosen_clips(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Path]:
    """The clips to use; exits if there are none."""
    clips = options.clips or sorted(DEMO_CLIPS.glob("*/*.mp4"))
    if not clips:
        parser.error("no clips: name some, or run `make demo` first")
    return clips
