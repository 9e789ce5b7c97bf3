"""`m3flow report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3flow.cli.options import Parts, Root

EXAMPLES = """**Examples**

`m3flow report --output results` — the page results/report.html, from the records of all runs so far

`m3flow report train.csv --root /data/ucf101 --output results` — about these videos, with their frames in the pictures
"""


def register(app: typer.Typer) -> None:
    app.command("report", epilog=EXAMPLES)(report)


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the results.", show_default=False)
    ],
    videos: Annotated[
        str | None,
        typer.Argument(
            metavar="[LIST]",
            help="A list file or one video: the page then covers these videos, and its pictures show frames.",
            show_default=False,
        ),
    ] = None,
    root: Root = Path(),
    to: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; by default report.html in the output folder.", show_default=False
        ),
    ] = None,
    sheets: Annotated[
        int, typer.Option(min=0, max=50, help="Number of contact sheets, of outliers and of random videos.")
    ] = 6,
    length: Annotated[int, typer.Option(min=1, max=999, help="Steps of the trajectories on them.")] = 6,
    parts: Parts = 3,
) -> None:
    """Make an HTML page for judging the results: problems, distributions, outliers, clips, throughput.

    The page is self-contained, needs no network, and stays small however many videos there are.
    """
    from rich.console import Console

    from m3flow.cli.step_display import StepDisplay
    from m3flow.layout import Outputs
    from m3flow.packs.store import with_packs
    from m3flow.report.page import described, write_report
    from m3flow.videos.videolist import VideoList

    outputs = with_packs(Outputs(output))
    listed = VideoList(Path(videos), root, parts).read() if videos is not None else []
    path = to or outputs.report
    with StepDisplay("report", Console(stderr=True)) as steps:
        table = write_report(path, outputs, listed, length=length, sheets=sheets, on_step=steps)
    typer.echo(described(path, table), err=True)
