"""Inspection of the videos of a list before extraction: each is decoded once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from m3flow.atomic import complete_or_absent
from m3flow.errors import BadInput
from m3flow.text import one_line
from m3flow.videos.decoder import Decoder, Limits, shortfall
from m3flow.videos.parallel import decoded_side_by_side
from m3flow.videos.videolist import Video

Verdict = Literal["ok", "damaged", "rejected", "failed"]


@dataclass(kw_only=True)
class Inspected:
    """A video's row of the table.

    Attributes
    ----------
    video: its output name.
    frames, claimed: frames that decode, and frames according to the header (0 if it gives none).
    width, height: frame size after the rotation in the metadata, in pixels.
    rate: frames per second, as a fraction.
    codec: its four-character code; "images" for a folder of images.
    rotation: the rotation in the metadata in degrees, already applied to width and height.
    verdict: "ok"; "damaged": flow is computed for the frames that decode, fewer than the header claims;
        "rejected": no flow can be computed; "failed": it could not be read for a reason outside the file
        (the system was out of memory): run again.
    reason: why it is not "ok".
    """

    video: str
    frames: int = 0
    claimed: int = 0
    width: int = 0
    height: int = 0
    rate: str = ""
    codec: str = ""
    rotation: int = 0
    verdict: Verdict = "ok"
    reason: str = ""


COLUMNS = [field.name for field in fields(Inspected)]


def inspect(decoder: Decoder, video: Video, step: int = 1) -> Inspected:
    """Decode one video; an unusable one raises nothing, its row gives the reason."""
    row = Inspected(video=video.name)
    try:
        decoded = decoder.open(video.source)
        info = decoded.info
        row.claimed, row.width, row.height = info.claimed, info.width, info.height
        row.rate, row.codec, row.rotation = str(info.rate), info.codec, info.rotation
        try:
            for _ in decoded.blocks:
                pass
        finally:
            row.frames = decoded.frames
    except BadInput as error:
        row.verdict, row.reason = "rejected", one_line(str(error))
        return row
    except RuntimeError as error:
        row.verdict, row.reason = "failed", one_line(str(error))
        return row
    if row.frames <= step:
        row.verdict = "rejected"
        row.reason = f"only {row.frames} frame(s) decode; flow over {step} needs {step + 1}"
    elif missing := shortfall(row.frames, row.claimed):
        row.verdict, row.reason = "damaged", missing
    return row


def inspect_all(
    videos: Sequence[Video],
    *,
    limits: Limits | None = None,
    workers: int = 0,
    step: int = 1,
    on_row: Callable[[Inspected], None] = lambda row: None,
) -> Iterator[Inspected]:
    """`inspect` every video in parallel; rows come as they finish."""

    def work(decoder: Decoder, video: Video) -> Inspected:
        return inspect(decoder, video, step)

    for row in decoded_side_by_side(videos, work, limits=limits or Limits(), workers=workers):
        on_row(row)
        yield row


def write_table(path: Path, rows: Sequence[Inspected]) -> None:
    """Write the table as a CSV file, atomically; `exclude` accepts it unchanged."""
    with (
        complete_or_absent(path) as (temporary,),
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(asdict(row).values() for row in rows)
