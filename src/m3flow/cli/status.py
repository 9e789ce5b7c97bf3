"""`m3flow status`."""

from __future__ import annotations

import json
import time
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
    from rich.console import RenderableType

    from m3flow.experiment.status import Status

EXAMPLES = """**Examples**

`m3flow status` — of the run that `config.yaml` describes

`m3flow status train.csv --output results --watch 30` — refreshed every 30 seconds until interrupted

`m3flow status --json status.json` — with the state of every video
"""
REASONS_SHOWN = 20
COMPARED = (
    "Settings are compared with config.yaml and the options of this call. If a run had other options, give them here "
    "too: for flow --camera none, --set flow.camera=none."
)


def register(app: typer.Typer) -> None:
    app.command("status", epilog=EXAMPLES)(status)


def status(
    list_file: OptionalList = None,
    config: Config = Path("config.yaml"),
    root: OptionalRoot = None,
    output: OptionalOutput = None,
    parts: OptionalParts = None,
    set_: Settings = None,
    watch: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Refresh interval; 0 shows the status once.")
    ] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write it as JSON too.", show_default=False)
    ] = None,
) -> None:
    """Count the videos that are done, partial, rejected, failed, outdated or missing, with the reasons.

    Partial videos have flow and no trajectories yet, or the other way round; outdated ones have results of other
    settings or of another video. The next run completes both, and makes the failed and missing ones. Rejected
    videos are tried again when they change.

    Takes seconds for hundreds of thousands of videos. `m3flow verify` checks whether the files are complete.
    """
    from rich.console import Console
    from rich.live import Live

    from m3flow.atomic import write_text
    from m3flow.experiment.status import status_of

    options = {"videos": list_file, "root": root, "output": output, "layout.parts": parts}
    experiment = experiment_of(config, set_, options)
    videos = experiment.videos.read()
    found = status_of(experiment, videos)
    if json_file is not None:
        values = {
            "counts": found.counts,
            "states": found.states,
            "reasons": found.reasons,
            "damaged_packs": found.damaged_packs,
        }
        write_text(json_file, json.dumps(values, indent=1) + "\n")
    console = Console()
    if not watch:
        console.print(_picture(found))
        return
    with Live(_picture(found), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(watch)
            live.update(_picture(status_of(experiment, videos)), refresh=True)


def _picture(found: Status) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from m3flow.experiment.status import damage

    total = len(found.states)
    counts = Table(box=None, pad_edge=False, show_header=False)
    for state, count in found.counts.items():
        counts.add_row(state, f"{count:,}", f"{count / max(1, total):.1%}")
    counts.add_row("total", f"{total:,}", "")
    reasons = found.why()
    rest = [Text(line) for line in damage(found)]
    if not reasons:
        return Group(counts, *rest)
    why = Table(box=None, pad_edge=False, title_justify="left")
    for heading in ("state", "videos", "why", "for example"):
        why.add_column(heading, justify="right" if heading == "videos" else "left", overflow="fold")
    for state, reason, count, name in reasons[:REASONS_SHOWN]:
        why.add_row(state, f"{count:,}", Text(reason), Text(name))
    left = len(reasons) - REASONS_SHOWN
    if left > 0:
        rest.insert(0, Text(f"and {left} more reasons; --json has them all"))
    if found.counts["outdated"]:
        rest.append(Text(COMPARED))
    return Group(counts, Text(""), why, *rest)
