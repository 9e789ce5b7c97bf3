"""Options shared by several commands."""

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
Root = Annotated[Path, typer.Option(help="The folder to which relative paths of the list refer.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder for the results.", show_default=False)
]
Parts = Annotated[
    int, typer.Option(min=1, help="Number of trailing parts of a video's path that make up its output name.")
]
Preset = Annotated[
    str,
    typer.Option(
        callback=lambda context, name: use_preset(context, name),
        is_eager=True,
        help="none, or original: the settings of the original extractor (farneback with its CUDA defaults, "
        "two-pass warp, integer tracking, mpeg4); other options override it.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(min=0, help="Worker processes; 0: one per CPU core, or one per GPU."),
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs to use; 0: all GPUs of this job.")]

LimitPairs = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="Limits on decoding a video: seconds (timeout for a frame, 60), frames (2000000), megapixels (of a "
        "frame, 40), memory_gb (8). A video that exceeds one is rejected. Repeatable.",
    ),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="Videos to leave out: a table of `m3flow verify --input` (its rejected videos), or a list of videos.",
        show_default=False,
    ),
]


def limits(pairs: list[str] | None) -> dict[str, Any]:
    """Values of the keys `limits.<name>` from `name=value` texts, unchecked."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--limit {pair!r}: write it as name=value, for example --limit seconds=60")
        values[f"limits.{name}"] = typed_text(value)
    return values


def checked_output(folder: Path) -> Outputs:
    """The output folder, created if needed; UsageError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only writing reveals a read-only file system or an exhausted quota; permissions do not.
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
