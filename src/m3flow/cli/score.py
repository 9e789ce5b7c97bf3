"""`m3flow score`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from m3flow.errors import UsageError
from m3flow.settings import FlowSettings, TrajectorySettings

EXAMPLES = """**Examples**

`m3flow score --render scenes` — write the exact scenes as videos, with ground truth, for any tracker

`m3flow score tracks.npz --truth scenes/zoom.npz` — a tracker's TAP-Vid style archive against the truth

`m3flow score results/trajs/clip.avi_6.gz clip.avi --truth truth.npz` — our trajectories and the codec's vectors

`m3flow score results/trajs/davis/*.gz --truth tapvid_davis.pkl` — a data set with ground truth

`m3flow score --estimator dis --estimator farneback --json score.json` — estimators on all scenes
"""
SHOWN_STEPS = (1, 3, 6)


def register(app: typer.Typer) -> None:
    app.command("score", epilog=EXAMPLES)(score)


def score(
    tracks: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[TRACKS]...",
            help="Files of tracks: trajectory files, TAP-Vid style archives (.npz, .pkl), the text of dense "
            "trajectories (.tsv, .txt), or videos, for their codec's motion vectors.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="The ground truth tracks: a file in one of these formats, an archive of several clips, or a folder "
            "with one file per clip; clips are found by the names of the track files.",
            show_default=False,
        ),
    ] = None,
    render: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the exact scenes with ground truth to this folder.", show_default=False
        ),
    ] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="Score this estimator on the exact scenes. Repeatable.", show_default=False),
    ] = None,
    camera: Annotated[str, typer.Option(help="With --estimator: none or warp.")] = "none",
    scheme: Annotated[str, typer.Option(help="With --camera warp: auto, one-pass or two-pass.")] = "auto",
    tracking: Annotated[str, typer.Option(help="With --estimator: subpixel or integer.")] = "subpixel",
    confidence: Annotated[
        str, typer.Option(help="With --estimator: none, photometric or forward-backward.")
    ] = "photometric",
    device: Annotated[str, typer.Option(help="With --estimator: auto, cpu, cuda or cuda:N.")] = "auto",
    scene: Annotated[
        list[str] | None,
        typer.Option(help="With --estimator or --render: only these scenes.", show_default=False),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            metavar="WxH",
            help="The frame size, for archives with normalised points and without a size.",
        ),
    ] = "",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the scores as JSON.", show_default=False),
    ] = None,
) -> None:
    """Score tracks of any program against ground truth: error by step, coverage, confidence.

    A true track is compared with the nearest one that starts within 6 pixels of it in the same frame, by their
    displacements from there.

    Columns: the mean error in pixels after 1, 3 and 6 steps; given: the share of true points that have a track; wrong:
    the share of points that are more than 2 px off or no longer visible, at step 6; AUROC: the probability that a right
    point has a higher confidence than a wrong one; best ½: the error of the more confident half over that of all;
    camera: the motion of background points, in pixels per step; s and MB: seconds and megabytes per 1,000 frames.
    """
    problems = []
    if sum(map(bool, (tracks, render, estimator))) != 1:
        problems.append("give track files, or --estimator, or --render")
    if bool(tracks) != bool(truth):
        problems.append("track files need --truth FILE, and --truth needs track files")
    if problems:
        raise UsageError("\n".join(problems))
    if render is not None:
        from m3flow.scoring.truth import write_scenes

        for video in write_scenes(render, names=_scenes(scene)):
            typer.echo(f"{video}  {video.with_suffix('.npz').name}")
    elif estimator:
        flows = [FlowSettings(estimator=name, camera=camera, scheme=scheme) for name in estimator]  # type: ignore[arg-type]
        settings = TrajectorySettings(tracking=tracking, confidence=confidence)  # type: ignore[arg-type]
        _show(_of_estimators(flows, settings, _scenes(scene), device), json_file)
    elif tracks and truth:
        _show(_of_files(tracks, truth, _size(size)), json_file)


def _show(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    if json_file is not None:
        from m3flow.atomic import write_text

        write_text(json_file, json.dumps(rows, indent=1) + "\n")
    Console().print(_table(rows))


def _of_files(tracks: list[Path], truth: Path, size: tuple[int, int] | None) -> list[dict[str, Any]]:
    from m3flow.scoring.score import score as score_tracks
    from m3flow.scoring.tracks import clip_of, read_tracks, truth_of

    rows = []
    for path in tracks:
        found = read_tracks(path, size, clip_of(path))
        true_file = truth_of(truth, clip_of(path))
        true = read_tracks(true_file, size, clip_of(path))
        scores = score_tracks(found, true).as_dict()
        size_per_frame = path.stat().st_size / found.frames
        scores["bytes_per_1000_frames"] = round(1000 * size_per_frame)
        rows.append({"of": str(path), "truth": str(true_file), **scores})
    return rows


def _of_estimators(
    flows: list[FlowSettings], trajectories: TrajectorySettings, scenes: list[str], device: str
) -> list[dict[str, Any]]:
    from m3flow.scoring.estimators import score_estimator
    from m3flow.scoring.scenes import make_scene

    rows = []
    for scene in map(make_scene, scenes):
        for flow in flows:
            for scored in score_estimator(
                scene,
                flow.estimator,
                camera=flow.camera,
                scheme=flow.scheme,
                trackings=[trajectories.tracking],
                confidences=[trajectories.confidence],
                device=device,
            ):
                rows.append(
                    {
                        "of": f"{flow.estimator}, {scene.name}",
                        **asdict(scored.way),
                        **scored.score.as_dict(),
                        "seconds_per_1000_frames": round(1000 * scored.seconds / scored.pairs, 2),
                        "bytes_per_1000_frames": round(1000 * scored.bytes / scored.pairs),
                    }
                )
    return rows


def _scenes(names: list[str] | None) -> list[str]:
    from m3flow.scoring.scenes import SCENES

    for name in names or []:
        if name not in SCENES:
            raise UsageError(f"unknown scene {name!r}; choose from {', '.join(SCENES)}")
    return names or list(SCENES)


def _size(text: str) -> tuple[int, int] | None:
    """(height, width) of "WxH"; None if empty."""
    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size is {text!r}; write it as WxH, for example 320x240")
    return int(height), int(width)


def _table(rows: list[dict[str, Any]]) -> Table:
    """A row for each score: errors in pixels, seconds and megabytes per 1,000 frames."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    table.add_column("error after step", overflow="fold", min_width=18)
    for heading in (*map(str, SHOWN_STEPS), "given", "wrong", "AUROC", "best ½", "camera", "s", "MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        errors = row["error"]
        values = [errors[step - 1] if step <= len(errors) else None for step in SHOWN_STEPS]
        values += [row[key] for key in ("coverage", "wrong", "auroc", "upper_half", "residual_camera")]
        values += [row.get("seconds_per_1000_frames"), row["bytes_per_1000_frames"] / 1e6]
        table.add_row(Path(row["of"]).name, *map(_number, values))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
