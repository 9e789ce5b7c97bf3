"""`m3flow flow` and `m3flow trajectories`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3flow.cli.experiment import Configuration, Settings
from m3flow.cli.options import (
    Exclude,
    Gpus,
    LimitPairs,
    List,
    Output,
    Parts,
    Preset,
    Root,
    Workers,
    checked_output,
    limits,
)

if TYPE_CHECKING:
    from m3flow.experiment.config import Experiment

FLOW_EXAMPLES = """**Examples**

`m3flow flow train.csv --root /data/ucf101 --output results` — every video of a list, on all cores or GPUs

`m3flow flow clip.avi --output results --camera none` — one video, plain flow

`m3flow flow train.csv --root /data --output results --preset original` — settings of the original extractor

`m3flow flow train.csv --root /data --output results --estimator farneback --set levels=3` — parameters of the estimator
"""

TRAJECTORY_EXAMPLES = """**Examples**

`m3flow trajectories train.csv --root /data/ucf101 --output results` — from the flow in `results`

`m3flow trajectories train.csv --root /data --output results --gpus 2` — tracked on two GPUs

`m3flow trajectories train.csv --root /data --output results --confidence photometric` — with confidence

`m3flow trajectories train.csv --root /data --output results --job mvs` — from the codec's own motion vectors
"""


def register(app: typer.Typer) -> None:
    app.command("flow", epilog=FLOW_EXAMPLES)(flow)
    app.command("trajectories", epilog=TRAJECTORY_EXAMPLES)(trajectories)


def flow(
    videos: List,
    output: Output,
    root: Root = Path(),
    preset: Preset = "none",
    estimator: Annotated[
        str, typer.Option(help="dis, farneback, tvl1, brox, or another one of `m3flow estimators`.")
    ] = "dis",
    set_: Settings = None,
    backend: Annotated[
        str, typer.Option(help="auto, torch or opencv; auto: the faster one, measured once per GPU.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    camera: Annotated[str, typer.Option(help="warp removes the camera motion, none keeps it.")] = "warp",
    scheme: Annotated[
        str,
        typer.Option(help="Camera compensation scheme: auto, one-pass or two-pass."),
    ] = "auto",
    camera_confidence: Annotated[
        float, typer.Option(help="A camera less probable than this, from 0 to 1, is left in.")
    ] = 0.4,
    cuts: Annotated[bool, typer.Option(help="Detect cuts; no flow crosses one.")] = True,
    bound: Annotated[float, typer.Option(help="The largest displacement stored, in pixels.")] = 20.0,
    step: Annotated[
        int, typer.Option(help="Flow from frame t to frame t + step; backward if it is negative.")
    ] = 1,
    store: Annotated[
        str,
        typer.Option(help="Store flow as mp4, jpg, png, npz, h5 or flo."),
    ] = "mp4",
    codec: Annotated[
        str,
        typer.Option(
            help="Of mp4: mpeg4 (small), fine (keeps slow motion), h264 or h264-lossless (exact levels)."
        ),
    ] = "mpeg4",
    zipped: Annotated[
        bool, typer.Option("--zip", help="One zip archive a video for jpg, png and flo, not a folder.")
    ] = False,
    values: Annotated[
        str, typer.Option(help="Of npz and h5: float16 (pixels) or uint8 (levels).")
    ] = "float16",
    dither: Annotated[
        bool, typer.Option(help="Dither levels over time: their rounding does not add up along a trajectory.")
    ] = True,
    short_side: Annotated[
        int, typer.Option(help="Resize frames to this short side in pixels first; 0 keeps their size.")
    ] = 0,
    long_side: Annotated[
        int, typer.Option(help="Resize frames to this long side in pixels first; 0 keeps their size.")
    ] = 0,
    size: Annotated[str, typer.Option(help="Resize frames to this size first, such as 340x256.")] = "",
    rate: Annotated[
        float, typer.Option(help="Sample the frames at this many per second first; 0 takes all.")
    ] = 0.0,
    frames: Annotated[
        str, typer.Option(help="jpg stores the frames next to the flow, none does not.")
    ] = "none",
    quality: Annotated[int, typer.Option(help="Quality of these images, from 1 to 100.")] = 95,
    parts: Parts = 3,
    exclude: Exclude = None,
    limit: LimitPairs = None,
    workers: Workers = 0,
    gpus: Gpus = 0,
    batch: Annotated[
        int, typer.Option(min=0, help="Frame pairs per batch; 0 chooses by the device's memory.")
    ] = 0,
) -> None:
    """Make the optical flow of every video: `flows/<video>/x.mp4` and `y.mp4` in the output folder, or another form.

    Existing flow made with the same settings from the same source is kept.
    """
    del preset  # its callback has set the defaults of the other options
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
        "flow.store": store,
        "flow.codec": codec,
        "flow.zip": zipped,
        "flow.values": values,
        "flow.dither": dither,
        "flow.short_side": short_side,
        "flow.long_side": long_side,
        "flow.size": size,
        "frames.rate": rate,
        "frames.store": frames,
        "frames.quality": quality,
        "run.backend": backend,
        "run.device": device,
        "run.batch": batch,
        "run.workers": workers,
        "run.gpus": gpus,
        **limits(limit),
    }
    experiment = Configuration().put(options).set(set_).experiment()
    _check_device(experiment)
    _run("flow", experiment)


def trajectories(
    videos: List,
    output: Output,
    root: Root = Path(),
    preset: Preset = "none",
    length: Annotated[int, typer.Option(help="Steps of a trajectory, L.")] = 6,
    job: Annotated[
        str,
        typer.Option(
            help="trajs_dense (a window at every frame), trajs (windows end to end) or mvs (the codec's own "
            "motion vectors in place of flow)."
        ),
    ] = "trajs_dense",
    tracking: Annotated[
        str, typer.Option(help="subpixel, or integer: bit-identical to the original tracker.")
    ] = "subpixel",
    track: Annotated[
        str,
        typer.Option(
            help="The path of a point where camera motion was removed: motion follows the stored flow, pixels "
            "the pixel in the video (the stored motion is still without the camera's)."
        ),
    ] = "motion",
    confidence: Annotated[
        str,
        typer.Option(
            help="photometric adds the confidence of each point, computed from the frames; none does not. "
            "(forward-backward needs flow and trajectories in one pass: shard.one_pass.)"
        ),
    ] = "none",
    fine: Annotated[bool, typer.Option(help="Add the displacements in 1/16 px.")] = False,
    flow_from: Annotated[
        Path | None,
        typer.Option(
            help="Follow the flow in this folder, which another program wrote, not that of `m3flow flow`."
        ),
    ] = None,
    form: Annotated[
        str, typer.Option(help="Format of that flow: images (jpg or png), flo, h5 or npz.")
    ] = "images",
    bound: Annotated[
        float, typer.Option(help="Its bound in pixels, where it is 8-bit levels that do not state one.")
    ] = 20.0,
    step: Annotated[int, typer.Option(help="Its step, unless given in the file names.")] = 1,
    parts: Parts = 3,
    exclude: Exclude = None,
    limit: LimitPairs = None,
    workers: Workers = 0,
    device: Annotated[
        str,
        typer.Option(
            help="Device that tracks the stored flow: auto, cpu, cuda or cuda:N. auto is the CPU, or GPUs with --gpus."
        ),
    ] = "auto",
    gpus: Gpus = 0,
) -> None:
    """Make the trajectories of every video: `trajs/<video>_<L>.gz` in the output folder.

    They follow the flow made by `m3flow flow` in the same output folder; job mvs reads the videos instead.
    Existing trajectories made with the same settings from the same flow are kept.
    """
    del preset  # its callback has set the defaults of the other options
    options = {
        "videos": videos,
        "root": root,
        "output": output,
        "exclude": exclude,
        "layout.parts": parts,
        "flow.existing": str(flow_from or ""),
        "flow.form": form,
        "flow.bound": bound,
        "flow.step": step,
        "trajectories.length": length,
        "trajectories.job": job,
        "trajectories.tracking": tracking,
        "trajectories.track": track,
        "trajectories.confidence": confidence,
        "trajectories.fine": fine,
        "run.device": device,
        "run.workers": workers,
        "run.gpus": gpus,
        **limits(limit),
    }
    experiment = Configuration().put(options).experiment()
    _check_tracking_device(experiment)
    _run("trajectories", experiment)


def _check_device(experiment: Experiment) -> None:
    """Reject an unavailable estimator, backend or device before anything is started."""
    from m3flow.flow import ESTIMATORS
    from m3flow.flow.device import choose

    name, run = experiment.flow.estimator, experiment.run
    choose(name, tuple(ESTIMATORS[name].backends), run.backend, run.device)


def _check_tracking_device(experiment: Experiment) -> None:
    """Reject an unavailable GPU for tracking."""
    from m3flow.flow.device import torch_device

    device = experiment.run.device
    if device.startswith("cuda") and experiment.wants_flow:
        torch_device(device)


def _run(kind: str, experiment: Experiment) -> None:
    from rich.console import Console

    from m3flow.experiment.jobs import work_of
    from m3flow.experiment.preflight import require_flow, require_sources
    from m3flow.experiment.status import replaced, tried
    from m3flow.extraction.dispatch import worker_config
    from m3flow.extraction.run import execute
    from m3flow.results.records import new_record_path

    videos = tried(experiment, experiment.videos.read())
    # A job of the workflow tracks on the CPU; the command tracks on the given device.
    work = replace(work_of(experiment, kind), device=experiment.run.device)
    workers, gpus = experiment.run.workers, experiment.run.gpus
    worker_config(work, len(videos), workers, gpus)  # raises before any file is written
    if kind == "trajectories" and experiment.wants_flow:
        require_flow(videos, experiment.outputs)
    else:
        require_sources([video.source for video in videos], experiment.videos.root)
    outputs = checked_output(experiment.output)
    console = Console(stderr=True)
    for line in replaced(experiment, kind, videos):
        console.print(f"{kind}: {line}", markup=False, highlight=False, soft_wrap=True)
    records = new_record_path(outputs.records, kind)
    status = execute(
        kind,
        videos,
        work,
        records=records,
        log_file=outputs.log(records.stem),
        workers=workers,
        gpus=gpus,
        console=console,
    )
    raise typer.Exit(status)
