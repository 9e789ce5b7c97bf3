"""The real clips that a benchmark works on: those that are named, or those of `make demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

DEMO_CLIPS = Path(__file__).parent.parent / "demo" / "clips"


def add_clips(parser: argparse.ArgumentParser) -> None:
    """Give the command line its argument `clips`."""
    parser.add_argument("clips", nargs="*", type=Path, help="real clips; by default those of `make demo`")


def chosen_clips(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Path]:
    """The clips to work on; ends the program where there are none."""
    clips = options.clips or sorted(DEMO_CLIPS.glob("*/*.mp4"))
    if not clips:
        parser.error("no clips: name some, or run `make demo` first")
    return clips
