"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from m3flow.dataset import Outputs
from m3flow.errors import UsageError

List = Annotated[
    str,
    typer.Argument(
        metavar="LIST",
        help="A list file (`path label` lines, a CSV with a `path` column, or plain paths) or one video: "
        "a file or a folder of frame images.",
        show_default=False,
    ),
]
Root = Annotated[Path, typer.Option(help="The folder that relative paths of the list are taken from.")]
Output = Annotated[Path, typer.Option(help="The folder that the results go to.", show_default=False)]
Parts = Annotated[
    int, typer.Option(min=1, help="How many last parts of a video's path name its outputs (`layout.parts`).")
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, help="Worker processes; 0 takes one a CPU core, or one for every two cores when GPUs are used."
    ),
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs to use; 0 takes all that this job was given.")]


def checked_output(folder: Path) -> Outputs:
    """The output folder, made if need be; UsageError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: {error.strerror}") from error
    return Outputs(folder)


def parameters(pairs: list[str]) -> dict[str, Any]:
    """`name=value` texts as a dict; values are read as numbers and booleans where they are some."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair!r}: write it as name=value, for example --set levels=3")
        values[name] = yaml.safe_load(value)
    return values
