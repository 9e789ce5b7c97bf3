"""Options that several commands share, each described once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from m3flow.errors import UsageError
from m3flow.experiment.config import typed_text
from m3flow.layout import Outputs

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
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder for the results.", show_default=False)
]
Parts = Annotated[
    int, typer.Option(min=1, help="Number of last parts of a video's path that name its outputs.")
]
Preset = Annotated[
    str,
    typer.Option(
        callback=lambda context, name: use_preset(context, name),
        is_eager=True,
        help="none, or original: what the original extractor does (farneback with its CUDA defaults, two-pass "
        "warp, integer tracking, mpeg4); other options change it.",
    ),
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


def limits(pairs: list[str] | None) -> dict[str, Any]:
    """`name=value` texts as values of the keys `limits.<name>`, unchecked."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--limit {pair!r}: write it as name=value, for example --limit seconds=60")
        values[f"limits.{name}"] = typed_text(value)
    return values


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


def use_preset(context: typer.Context, name: str) -> str:
    """Make a preset's settings the defaults of the command's options."""
    from m3flow.settings import PRESETS

    if name not in PRESETS:
        raise UsageError(f"--preset is {name!r}; choose from {', '.join(PRESETS)}")
    settings = {key: value for section in PRESETS[name].values() for key, value in section.items()}
    options = {parameter.name for parameter in context.command.params}
    context.default_map = {key: value for key, value in settings.items() if key in options}
    return name
