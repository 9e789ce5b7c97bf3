"""`m3flow pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from m3flow.cli.experiment import Configuration, OptionalList, OptionalOutput, OptionalParts, OptionalRoot
from m3flow.errors import BadInput, UsageError
from m3flow.experiment.config import read_config

if TYPE_CHECKING:
    from m3flow.experiment.config import Experiment

EXAMPLES = """**Examples**

`m3flow pack train.csv --root /data/ucf101 --output results` — results/packs/train.csv/00000.tar, …

`m3flow pack train.csv --root /data/ucf101 --output results --remove` — and remove the single files
"""


def register(app: typer.Typer) -> None:
    app.command("pack", epilog=EXAMPLES)(pack)


def pack(
    videos: OptionalList = None,
    root: OptionalRoot = None,
    output: OptionalOutput = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Take list, root, layout, output and length from this config.yaml.", show_default=False
        ),
    ] = None,
    parts: OptionalParts = None,
    length: Annotated[
        int | None,
        typer.Option(help="Steps of the trajectories to pack; 6 if not given.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Videos per pack.")] = 1000,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove single files once their pack is written and read back.")
    ] = False,
) -> None:
    """Put the results of a list into packs: tar files in WebDataset's convention, each with a Parquet table.

    Every pack is read back before it is valid. Call it again after more videos are done, or after a kill: packed files
    stay, new and changed ones are added. All other commands read packs as they read single files.

    Exit status: 0 every video is in a pack, 3 some have no results or a pack is damaged (named), 2 wrong usage,
    1 a failure of ours.
    """
    if videos is None and config is None:
        raise UsageError("give a list or a video, or a configuration with --config")
    options = {
        "videos": videos,
        "root": root,
        "output": output,
        "layout.parts": parts,
        "trajectories.length": length,
    }
    experiment = Configuration(read_config(config) if config else None).put(options).experiment()
    raise typer.Exit(_pack(experiment, size, remove))


def _pack(experiment: Experiment, size: int, remove: bool) -> int:
    """Pack all videos of an experiment and report it; returns the exit status."""
    from m3flow.experiment.shards import shard_name
    from m3flow.packs.packing import pack_shard, to_pack
    from m3flow.packs.store import Packs

    console = Console(stderr=True)
    listed, outputs = experiment.videos.read(), experiment.outputs
    packs = Packs(outputs)
    packed, missing, damaged, removed = 0, list[str](), 0, 0
    name, length = experiment.videos.name, experiment.trajectories.length
    shards = {
        shard_name(number): listed[first : first + size]
        for number, first in enumerate(range(0, len(listed), size))
    }
    for shard, videos in shards.items():
        for video in videos:
            if video.name in packs and to_pack(outputs, video.name, length, packs.videos[video.name][1]):
                packs.require_no_other(video.name, outputs.pack_table(name, shard))
    for shard, videos in shards.items():
        try:
            done = pack_shard(outputs, name, shard, videos, length, remove=remove)
        except BadInput as error:
            damaged += 1
            _say(console, f"wrong: {error}")
            continue
        for problem in done.damaged:
            _say(console, f"wrong: {problem}")
        if done.videos or done.written:
            state = "written" if done.written else "complete"
            _say(console, f"{done.table}: {len(done.videos)} videos, {state}")
        elsewhere = [video for video in done.missing if video in packs]
        packed += len(done.videos) + len(elsewhere)
        missing += [video for video in done.missing if video not in packs]
        damaged += len(done.damaged)
        removed += done.removed
    text = f"pack: {packed} of {len(listed)} videos in packs"
    if missing:
        text += f"; {len(missing)} have no results, such as {missing[0]}"
    if removed:
        text += f"; {removed} single files removed"
    _say(console, text)
    return 3 if missing or damaged else 0


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
