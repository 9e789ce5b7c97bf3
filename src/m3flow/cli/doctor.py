"""`m3flow doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXAMPLES = """**Examples**

`m3flow doctor` — check this machine

`srun --gres=gpu:1 m3flow doctor --output /scratch/results` — check a compute node and its output folder
"""

STYLES = {"ok": "green", "note": "yellow", "wrong": "red"}


def register(app: typer.Typer) -> None:
    app.command("doctor", epilog=EXAMPLES)(doctor)


def doctor(
    output: Annotated[Path, typer.Option(help="Folder for results, checked for space.")] = Path("results"),
) -> None:
    """Check an installation: versions, GPUs, codecs, disk, Snakemake and Slurm, with advice.

    Exit status: 0 if a run will work, 1 if something is wrong.
    """
    from m3flow.doctor import examine

    console = Console()
    wrong = 0
    for finding in examine(output):
        wrong += finding.state == "wrong"
        console.print(f"{finding.state:>5}", style=STYLES[finding.state], end="  ")
        console.print(f"{finding.what}: {finding.found}", markup=False, highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"       -> {finding.advice}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if wrong else 0)
