"""Pictures of the page: contact sheets of outliers and of random videos, and a few short animations."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import pandas as pd

from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.report.clip import Clip, stored_clip
from m3flow.report.selection import Found
from m3flow.videos.videolist import Video

SHEETS_BYTES = 1_100_000
ANIMATIONS_BYTES = 400_000
ANIMATIONS = 3
LONGEST = 5_000  # frames; reading longer videos takes too long
AT_RANDOM = "drawn at random"


@dataclass(frozen=True)
class Preview:
    """A picture of the page: the video's name, the reason for choosing it, and a WebP file in base 64."""

    name: str
    why: str
    image: str


def chosen(table: pd.DataFrame, outliers: Sequence[Found], count: int) -> list[tuple[str, str]]:
    """(name, reason) of the videos to show, best first: the most extreme outliers of each kind, and random ones.

    Half of `count` are outliers if there are enough. More than `count` names are returned, to replace videos whose
    files cannot be read.
    """
    short = table[(table["status"] == "done") & ~(table["frames"] > LONGEST)]
    by_kind = [[(name, one.outlier.name) for name, _ in one.first if name in short.index] for one in outliers]
    worth_a_look = [pair for pair in chain.from_iterable(zip_longest(*by_kind)) if pair]
    names = short.index.to_list()
    drawn = [(name, AT_RANDOM) for name in random.Random(0).sample(names, min(3 * count, len(names)))]
    first, rest = worth_a_look[: count // 2], worth_a_look[count // 2 :]
    unique: dict[str, str] = {}
    for name, why in chain(first, drawn, rest):
        unique.setdefault(name, why)
    return list(unique.items())


def previews(
    outputs: Outputs,
    sources: dict[str, str],
    names: list[tuple[str, str]],
    length: int,
    count: int,
    on_picture: Callable[[str], None],
) -> tuple[list[Preview], list[Preview]]:
    """The contact sheets of up to `count` of these videos, and animations of the first few of those.

    `on_picture` receives the name of each picture at its start: at most `count` + `ANIMATIONS` readable ones.
    """
    from m3flow.report.contact_sheet import contact_sheet, encoded
    from m3flow.report.film import animation

    def clip(name: str) -> Clip:
        source = sources.get(name, "")
        found = stored_clip(Video(source if source and Path(source).exists() else "", name), outputs, length)
        if found is None:
            raise BadInput(f"{name}: nothing is stored")
        return found

    def sheet(name: str) -> bytes:
        on_picture(f"contact sheet of {name}")
        return encoded(contact_sheet(clip(name), columns=3), "webp")

    def moving(name: str) -> bytes:
        on_picture(f"animation of {name}")
        return animation(clip(name))

    sheets = list(_readable(names, sheet, count, SHEETS_BYTES))
    shown = [(one.name, one.why) for one in sheets]
    usual, unusual = (
        [pair for pair in shown if (pair[1] == AT_RANDOM) is random] for random in (True, False)
    )
    alternating = [pair for pair in chain.from_iterable(zip_longest(usual, unusual)) if pair]
    animations = list(_readable(alternating, moving, ANIMATIONS, ANIMATIONS_BYTES))
    return sheets, animations


def _readable(
    names: list[tuple[str, str]], draw: Callable[[str], bytes], count: int, most: int
) -> Iterator[Preview]:
    """Up to `count` pictures in up to `most` bytes."""
    made = size = 0
    for name, why in names:
        if made == count:
            return
        try:
            picture = draw(name)
        except (BadInput, UsageError):
            # Unreadable files are reported by `m3flow verify`; the page shows the others.
            continue
        if size + len(picture) > most:
            return
        made, size = made + 1, size + len(picture)
        yield Preview(name, why, base64.b64encode(picture).decode("ascii"))
