"""`m3flow plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3flow.cli.experiment import (
    Config,
    OptionalList,
    OptionalOutput,
    OptionalParts,
    OptionalRoot,
    Settings,
    experiment_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from m3flow.experiment.forecast import Forecast

EXAMPLES = """**Examples**

`m3flow plan` — of the run that `config.yaml` describes

`m3flow plan train.csv --root /data/k400 --output results --set shard.videos=auto --json plan.json`

`m3flow plan --by-class` — the number of videos per class, all and left
"""


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=EXAMPLES)(plan)


def plan(
    list_file: OptionalList = None,
    config: Config = Path("config.yaml"),
    root: OptionalRoot = None,
    output: OptionalOutput = None,
    parts: OptionalParts = None,
    set_: Settings = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Show each class of videos too.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write it as JSON too.", show_default=False)
    ] = None,
) -> None:
    """Show the work and cost of a run in shards before it starts: videos, frames, jobs, hours, bytes.

    Frames come from the records where a video has one, and from the headers of a sample otherwise; hours and
    bytes come from the measurements of `m3flow calibrate`.
    """
    from rich.console import Console

    from m3flow.atomic import write_text
    from m3flow.experiment.forecast import forecast

    options = {"videos": list_file, "root": root, "output": output, "layout.parts": parts}
    experiment = experiment_of(config, set_, options)
    found = forecast(experiment)
    if json_file is not None:
        write_text(json_file, json.dumps(found.as_dict(), indent=1) + "\n")
    console = Console()
    console.print(_table(found))
    if not found.calibrated:
        console.print(
            f"No hours and bytes: {experiment.shard.calibration} does not exist, or was measured with other "
            "settings. Run m3flow calibrate.",
            markup=False,
            soft_wrap=True,
        )
    if by_class:
        console.print(_class_table(found))


def _table(found: Forecast) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    seen = found.sample
    states = ", ".join(
        f"{count:,} {state}" for state, count in found.videos.items() if count and state != "all"
    )
    table.add_row("videos", f"{found.videos['all']:,}: {states}")
    table.add_row("to do", f"{found.left:,} videos, about {found.frames_left:,} of {found.frames:,} frames")
    table.add_row(
        "sample",
        f"{seen.videos} videos: {seen.frames:.0f} frames of {seen.width:.0f}x{seen.height:.0f} each; "
        f"{seen.missing:.0%} cannot be opened",
    )
    table.add_row("shards", f"{found.shards:,} of {found.size:,} videos; {found.open:,} with work left")
    if not found.left:
        return table
    longest = found.longest
    table.add_row("longest", f"shard {longest['shard']}: {longest['videos']:,} videos{_of(longest['hours'])}")
    if found.start_hours is not None:
        saved = f"save about {_time(found.start_hours)} of startup of single-video jobs on this machine"
        table.add_row("", saved)
    if found.hours is not None:
        table.add_row("jobs", f"in all{_of(found.hours)}")
        table.add_row("GPU-hours", f"{found.gpu_hours:,.2f}")
        table.add_row("CPU-hours", f"{found.cpu_hours:,.2f}")
        table.add_row(
            "disk",
            f"{_bytes(found.flow_bytes)} of flow, {_bytes(found.trajectory_bytes)} of trajectories",
        )
        table.add_row("measured", found.calibrated)
    return table


def _class_table(found: Forecast) -> Table:
    from rich.table import Table

    table = Table("class", box=None, pad_edge=False)
    for heading in ("videos", "left"):
        table.add_column(heading, justify="right")
    for name, row in sorted(found.classes.items()):
        table.add_row(name or "(none)", f"{row['videos']:,}", f"{row['left']:,}")
    return table


def _of(hours: dict[str, float] | None) -> str:
    if hours is None:
        return ""
    return ", " + ", ".join(f"{_time(value)} of {kind}" for kind, value in hours.items())


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.1f} min" if hours < 2 else f"{hours:,.1f} h"


def _bytes(count: int | None) -> str:
    from rich.filesize import decimal

    return decimal(count or 0)
