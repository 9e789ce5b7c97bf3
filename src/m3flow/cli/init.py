"""`m3flow init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from m3flow.atomic import write_text
from m3flow.errors import UsageError

EXAMPLES = """**Examples**

`m3flow init ucf101` — then edit `ucf101/config.yaml`, and run `snakemake` in `ucf101`
"""
# The files of a workflow folder, and their sources in the package.
FILES = {
    "Snakefile": "module.smk",
    "config.yaml": "config.yaml",
    "profiles/default/config.yaml": "profiles/default/config.yaml",
    "slurm/config.yaml": "profiles/slurm/config.yaml",
}


def register(app: typer.Typer) -> None:
    app.command("init", epilog=EXAMPLES)(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to create, or to add the files to.")
    ],
) -> None:
    """Make a folder to run the workflow in: `Snakefile`, `config.yaml` and the profiles.

    The rules themselves stay in the installed package. Existing files are never overwritten.
    """
    existing = [name for name in FILES if (folder / name).exists()]
    if existing:
        raise UsageError(
            "\n".join(
                f"{folder / name}: exists already; name another folder, or remove it" for name in existing
            )
        )
    package = files("m3flow") / "project"
    for name, source in FILES.items():
        write_text(folder / name, (package / source).read_text(encoding="utf-8"))
    typer.echo(
        f"{folder}: edit config.yaml; then, in that folder: snakemake --dry-run, snakemake, or, on "
        "a cluster, snakemake --profile slurm"
    )
