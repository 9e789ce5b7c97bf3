"""Options that several commands share, each described once."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from m3flow.errors import UsageError
from m3flow.layout import Outputs

if TYPE_CHECKING:
    from m3flow.videos.decoder import Limits

List = Annotated[
    str,
    typer.Argument(
        metavar="LIST",
        help="A list file (`path label` lines, a CSV with a `path` column, or plain paths), a folder with "
        "videos below it, or one video: a file or a folder of frame images.",
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

LimitPairs = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="What decoding one video may cost: seconds (without a frame, 60), frames (2000000), megapixels "
        "(of a frame, 40), memory_gb (8); more, and it is rejected. May be repeated.",
    ),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="Videos to leave out: a table of `m3flow verify --input` (what it rejects), or a list of videos.",
        show_default=False,
    ),
]


def limits(pairs: list[str] | None) -> Limits:
    """`name=value` texts as the limits of decoding."""
    from m3flow.videos.decoder import Limits

    values: dict[str, Any] = {}
    names = [item.name for item in fields(Limits)]
    for pair in pairs or []:
        name, _, value = pair.partition("=")
        if name not in names:
            raise UsageError(f"--limit {pair!r}: write it as name=value with a name of {', '.join(names)}")
        try:
            values[name] = int(value) if name == "frames" else float(value)
        except ValueError as error:
            raise UsageError(f"--limit {pair!r}: {value!r} is not a number") from error
    return Limits(**values)


def checked_output(folder: Path) -> Outputs:
    """The output folder, made if need be; UsageError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell (a read-only file system, a quota); writing does.
        with tempfile.TemporaryFile(dir=folder):
            pass
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
