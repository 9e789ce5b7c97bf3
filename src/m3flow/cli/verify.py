"""`m3flow verify`: checks the videos before a run and the results after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from m3flow.cli.experiment import Configuration, OptionalParts, OptionalRoot
from m3flow.cli.options import Exclude, LimitPairs, Workers, limits
from m3flow.errors import UsageError
from m3flow.experiment.config import read_config

if TYPE_CHECKING:
    from m3flow.experiment.config import Experiment
    from m3flow.layout import Outputs
    from m3flow.results.verify import Verified, Wanted
    from m3flow.videos.inspection import Inspected
    from m3flow.videos.videolist import Video

EXAMPLES = """**Examples**

`m3flow verify train.csv --root /data/ucf101 --input --table inventory.csv` — decode every video

`m3flow flow train.csv --root /data/ucf101 --output results --exclude inventory.csv` — leave out the rejected ones

`m3flow verify train.csv --root /data/ucf101 --output results --bound 20 --camera warp` — check the results of a run

`m3flow verify --config config.yaml --repair` — the same with a configuration, and remove wrong files
"""

COMPARED: Any = {
    "rich_help_panel": "Settings that the results must have (those not given are not compared)",
    "show_default": False,
}


def register(app: typer.Typer) -> None:
    app.command("verify", epilog=EXAMPLES)(verify)


def verify(
    videos: Annotated[
        str | None,
        typer.Argument(
            metavar="[LIST]",
            help="A list file or one video; may be left out with --config.",
            show_default=False,
        ),
    ] = None,
    input_: Annotated[
        bool, typer.Option("--input", help="Decode every video and write a table of their properties.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Check the results in this folder.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Take list, root, layout, output, settings and limits from this config.yaml.",
            show_default=False,
        ),
    ] = None,
    root: OptionalRoot = None,
    parts: OptionalParts = None,
    table: Annotated[
        Path, typer.Option(help="With --input: the table to write; --exclude accepts it.")
    ] = Path("inventory.csv"),
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="With results: remove wrong files and leftover temporary files; then run again."
        ),
    ] = False,
    estimator: Annotated[str | None, typer.Option(help="The estimator.", **COMPARED)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the configuration, or a parameter of the estimator. Repeatable.",
            **COMPARED,
        ),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="warp or none.", **COMPARED)] = None,
    scheme: Annotated[str | None, typer.Option(help="The camera compensation scheme.", **COMPARED)] = None,
    camera_confidence: Annotated[
        float | None, typer.Option(help="Confidence threshold of the camera.", **COMPARED)
    ] = None,
    cuts: Annotated[bool | None, typer.Option(help="Whether cuts were detected.", **COMPARED)] = None,
    bound: Annotated[float | None, typer.Option(help="The largest displacement stored.", **COMPARED)] = None,
    step: Annotated[int | None, typer.Option(help="Distance of the frames of a pair.", **COMPARED)] = None,
    codec: Annotated[str | None, typer.Option(help="mpeg4, fine, h264 or h264-lossless.", **COMPARED)] = None,
    short_side: Annotated[
        int | None, typer.Option(help="The short side to which frames were resized.", **COMPARED)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Steps of the trajectories, which are in their names; 6 if not given.", **COMPARED),
    ] = None,
    job: Annotated[str | None, typer.Option(help="trajs_dense, trajs or mvs.", **COMPARED)] = None,
    tracking: Annotated[str | None, typer.Option(help="subpixel or integer.", **COMPARED)] = None,
    track: Annotated[str | None, typer.Option(help="motion or pixels.", **COMPARED)] = None,
    exclude: Exclude = None,
    limit: LimitPairs = None,
    workers: Workers = 0,
) -> None:
    """Check the videos of a list (`--input`), or the results of a run (`--output`, `--config`).

    Input: does each video decode to its end? The table has a row per video, with the verdict ok, damaged
    (fewer frames than the header claims; flow is computed for those that decode) or rejected.

    Results: does every file exist, is it complete and of the right shape, with unchanged content, made from
    the current video with the given settings? Without --config, flow or trajectories are expected only if
    the folder has some.

    Exit status: 0 all is well, 3 something is wrong (listed with the reason), 2 wrong usage, 1 failed.
    """
    _reject_ambiguous(videos, config, output, input_, repair)
    options = {
        "videos": videos,
        "root": root,
        "output": output,
        "exclude": exclude,
        "layout.parts": parts,
        "flow.estimator": estimator,
        "flow.camera": camera,
        "flow.scheme": scheme,
        "flow.camera_confidence": camera_confidence,
        "flow.cuts": cuts,
        "flow.bound": bound,
        "flow.step": step,
        "flow.codec": codec,
        "flow.short_side": short_side,
        "trajectories.length": length,
        "trajectories.job": job,
        "trajectories.tracking": tracking,
        "trajectories.track": track,
        **limits(limit),
    }
    configuration = Configuration(read_config(config) if config else None).put(options).set(set_)
    experiment = configuration.experiment()
    chosen = experiment.videos.read()
    if input_:
        raise typer.Exit(_input(chosen, table, workers, experiment.limits))
    given = None if config else configuration.given
    raise typer.Exit(_results(chosen, _wanted(experiment, given), workers, repair))


def _reject_ambiguous(
    videos: str | None, config: Path | None, output: Path | None, input_: bool, repair: bool
) -> None:
    problems = []
    if videos is None and config is None:
        problems.append("give a list or a video, or a configuration with --config")
    if input_ and (output is not None or repair):
        problems.append("--input checks the videos; --output and --repair are for the results")
    if videos is not None and not input_ and output is None and config is None:
        problems.append("give --input, --output DIR or --config FILE to check")
    if problems:
        raise UsageError("\n".join(problems))


def _wanted(experiment: Experiment, given: set[str] | None) -> Wanted:
    """The expected results: everything in the experiment, or only the given keys of its settings.

    With given keys, flow and trajectories are expected only if the folder has some.
    """
    from m3flow.results.verify import Wanted

    flow = experiment.flow.identity() if experiment.wants_flow else {}
    trajectories = experiment.trajectories.identity()
    outputs = experiment.outputs
    wants_flow, wants_trajectories = experiment.wants_flow and experiment.keep_flow, True
    if given is not None:
        set_here = experiment.flow.parameters
        flow |= {"parameters": {key: flow["parameters"][key] for key in set_here} if flow else set_here}
        flow = {key: value for key, value in flow.items() if _is_given("flow", key, given)}
        trajectories = {
            key: value for key, value in trajectories.items() if _is_given("trajectories", key, given)
        }
        packed = bool(outputs.pack_tables())
        wants_flow = outputs.flows.is_dir() or packed
        wants_trajectories = outputs.trajs.is_dir() or packed
        if not wants_flow and not wants_trajectories:
            raise UsageError(f"--output {outputs.folder}: has neither flows/ nor trajs/")
    return Wanted(
        outputs=outputs,
        flow=wants_flow,
        trajectories=wants_trajectories,
        length=experiment.trajectories.length,
        flow_settings=flow,
        trajectory_settings=trajectories,
        limits=experiment.limits,
    )


def _is_given(section: str, key: str, given: set[str]) -> bool:
    return any(name == f"{section}.{key}" or name.startswith(f"{section}.{key}.") for name in given)


def _input(videos: Sequence[Video], table: Path, workers: int, bounds: Any) -> int:
    from m3flow.extraction.progress import Display
    from m3flow.results.records import Record
    from m3flow.videos.inspection import inspect_all, write_table

    console = Console(stderr=True)
    rows: dict[str, Inspected] = {}
    with Display("verify", videos, console) as display:
        for row in inspect_all(videos, limits=bounds, workers=workers):
            rows[row.video] = row
            display.on_frames(row.frames)
            status = "rejected" if row.verdict == "rejected" else "done"
            display.on_record(Record(video=row.video, status=status, frames=row.frames, reason=row.reason))
            if row.verdict in ("damaged", "failed"):
                _say(console, f"{row.verdict}: {row.video}: {row.reason}")
    write_table(table, [rows[video.name] for video in videos])
    counts = Counter(row.verdict for row in rows.values())
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    _say(console, f"verify: {summary} of {len(videos)} videos; the table is {table}")
    if counts["failed"]:
        return 1
    return 0 if counts["ok"] == len(videos) else 3


def _results(videos: Sequence[Video], wanted: Wanted, workers: int, repair: bool) -> int:
    from m3flow.extraction.progress import Display
    from m3flow.packs.packing import take_out
    from m3flow.packs.store import with_packs
    from m3flow.results.records import Record
    from m3flow.results.repair import leftovers
    from m3flow.results.verify import Mixture, verify_all

    console = Console(stderr=True)
    counts: Counter[str] = Counter()
    mixture = Mixture()
    outputs = wanted.outputs
    whole_packs = _check_packs(outputs, console, repair=repair)
    wanted = replace(wanted, outputs=with_packs(outputs))
    wrong = set()
    with Display("verify", videos, console) as display:
        for found in verify_all(videos, wanted, workers):
            mixture.add(found.settings)
            display.on_record(Record(video=found.video, status="done"))
            counts[_kind(found)] += 1
            for problem in found.problems:
                _say(console, f"wrong: {problem}")
            if repair and found.problems:
                # Files unpacked from a pack are not below the output folder.
                single = [path for path in found.remove if outputs.folder in path.parents]
                _remove(single, console)
                wrong |= {found.video} if len(single) < len(found.remove) else set()
    for count in take_out(outputs, wrong).values():
        _say(console, f"removed from packs: {count} videos")
    for leftover in leftovers(outputs):
        counts["left-over"] += 1
        if repair and leftover.abandoned:
            _remove([leftover.path], console)
        else:
            state = "left by a dead process" if leftover.abandoned else "possibly still in use"
            _say(console, f"temporary file, {state}: {leftover.path}")
    for line in mixture.lines():
        _say(console, f"mixed settings: {line} videos")
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in ("ok", "wrong", "missing") if counts[kind])
    again = "; run again to make the missing files" if repair and len(videos) != counts["ok"] else ""
    _say(console, f"verify: {summary} of {len(videos)} videos{again}")
    return 0 if counts["ok"] == len(videos) and whole_packs else 3


def _check_packs(outputs: Outputs, console: Console, *, repair: bool) -> bool:
    """Whether all packs are whole; damaged ones are named, and with `repair` made anew of what is whole in them."""
    from m3flow.packs.packing import rewrite_without, verify_packs

    damaged = list(verify_packs(outputs))
    for pack in damaged:
        _say(console, f"wrong: {pack.reason}")
        if repair:
            count = rewrite_without(pack.table, pack.lost)
            _say(console, f"repaired: {pack.table} with {count} videos")
    return not damaged


def _kind(found: Verified) -> str:
    if not found.problems:
        return "ok"
    return "missing" if found.missing else "wrong"


def _remove(paths: Sequence[Path], console: Console) -> None:
    from m3flow.atomic import remove

    for path in paths:
        remove(path)
        _say(console, f"removed: {path}")


def _say(console: Console, text: str) -> None:
    from m3flow.text import one_line

    console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)
