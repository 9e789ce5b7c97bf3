"""`m3flow select`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3flow.cli.options import Exclude, List, Output, Parts, Root
from m3flow.errors import UsageError

EXAMPLES = """**Examples**

`m3flow select train.csv --root /data --output results --to moving.csv --where "speed > 0.5 and still < 0.8"` — videos \
that move

`m3flow select train.csv --root /data --output results --to top.csv --sort -speed_p95 --limit 1000` — the 1,000 with \
the fastest motion

`m3flow select train.csv --root /data --output results --to steady.csv --where "camera_shift < 1" --where \
"cuts == 0 and frames >= 64 and reliable > 0.6"` — steady, uncut, long, reliable
"""


def register(app: typer.Typer) -> None:
    app.command("select", epilog=EXAMPLES)(select)


def select(
    videos: List,
    output: Output,
    to: Annotated[Path, typer.Option(metavar="FILE", help="The list to write, a CSV.", show_default=False)],
    root: Root = Path(),
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="A condition on the records: comparisons joined by and, or, not. Columns: speed and speed_p95 "
            "(mean and 95th percentile of the motion, pixels per frame), still and saturated (shares of pixels), "
            "camera (share of frame pairs whose camera was found), camera_shift, camera_confidence, cuts, reliable and "
            "outside (shares of trajectories), frames, width, height, status, and the others of the records. "
            "Repeatable: all conditions must hold.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sort by this column; -COLUMN: largest first.")
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of videos; 0: all.")] = 0,
    parts: Parts = 3,
    exclude: Exclude = None,
) -> None:
    """Write a list of the videos whose motion satisfies conditions, from the records of a run.

    The list is a CSV with the columns path, label and those of the records; every command accepts it as its LIST,
    with the same --root. Videos without a record are left out; comparisons with a number that was not measured are
    false.
    """
    from m3flow.atomic import complete_or_absent
    from m3flow.layout import Outputs
    from m3flow.report.choice import chosen_videos
    from m3flow.videos.videolist import VideoList

    source = VideoList(Path(videos), root, parts, exclude)
    if to.exists() and to.samefile(source.location):
        raise UsageError(f"--to {to} is the list itself; name another file")
    listed = source.read()
    chosen = chosen_videos(
        listed, Outputs(output).records, root=root, where=where or [], sort=sort, limit=limit
    )
    with complete_or_absent(to) as (temporary,):
        chosen.to_csv(temporary, index=False, errors="surrogateescape")
    typer.echo(f"{to}: {len(chosen)} of {len(listed)} videos")
