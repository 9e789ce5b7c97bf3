"""`m3flow show`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3flow.cli.experiment import Configuration
from m3flow.cli.options import Parts
from m3flow.errors import BadInput, UsageError

if TYPE_CHECKING:
    from m3flow.layout import Outputs
    from m3flow.report.clip import Clip
    from m3flow.settings import FlowSettings
    from m3flow.videos.videolist import Video

EXAMPLES = """**Examples**

`m3flow show clip.avi` — a contact sheet, clip.png, with flow and trajectories computed for it

`m3flow show UCF-101/Archery/v_Archery_g01_c01.avi --root /data --output results` — from stored results

`m3flow show clip.avi --mp4 --estimator dis` — a film: frame, flow and trajectories side by side
"""
# Suffixes of supported output files, with their formats.
PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
FILMS = {".mp4": "mp4", ".gif": "gif"}

VideoArgument = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO",
        help="A video, a folder of frame images, or its name under `flows/`.",
        show_default=False,
    ),
]
Root = Annotated[Path, typer.Option(help="The folder to which a relative path of the video refers.")]
Results = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The folder of the results; without it, or without results of this video, they are computed for "
        "the picture.",
        show_default=False,
    ),
]
To = Annotated[
    Path | None,
    typer.Option(
        help="The file to write: .png, .jpg or .webp for a contact sheet, .mp4 or .gif for a film; by default the "
        "video's name with .png or .mp4, in this folder.",
        show_default=False,
    ),
]
Film = Annotated[bool, typer.Option("--mp4", help="Write a film instead of a contact sheet.")]
Columns = Annotated[int, typer.Option(min=1, max=12, help="Moments on the contact sheet.")]
Start = Annotated[float, typer.Option(min=0, help="Start of the film, in seconds.")]
Seconds = Annotated[float, typer.Option(min=0.04, help="Maximum length of the film, in seconds.")]
Length = Annotated[int, typer.Option(min=1, max=999, help="Steps of a trajectory, L.")]
EstimatorName = Annotated[
    str,
    typer.Option(
        help="For computed motion: dis, farneback, tvl1, brox, or another one of `m3flow estimators`."
    ),
]
Camera = Annotated[str, typer.Option(help="For computed motion: warp or none.")]
Backend = Annotated[str, typer.Option(help="For computed motion: auto, torch or opencv.")]
Device = Annotated[str, typer.Option(help="For computed motion: auto, cpu, cuda or cuda:N.")]


def register(app: typer.Typer) -> None:
    app.command("show", epilog=EXAMPLES)(show)


def show(
    video: VideoArgument,
    root: Root = Path(),
    output: Results = None,
    to: To = None,
    mp4: Film = False,
    columns: Columns = 4,
    start: Start = 0.0,
    seconds: Seconds = 10.0,
    length: Length = 6,
    estimator: EstimatorName = "dis",
    camera: Camera = "warp",
    backend: Backend = "auto",
    device: Device = "auto",
    parts: Parts = 3,
) -> None:
    """Show a video's motion as a picture: frames, colour-coded flow, camera motion, trajectories."""
    from m3flow.layout import Outputs
    from m3flow.packs.store import with_packs
    from m3flow.report.clip import stored_clip
    from m3flow.report.film import write_film

    _check_name(to, mp4)
    options = {"videos": video, "flow.estimator": estimator, "flow.camera": camera}
    settings = Configuration().put(options).experiment().flow
    outputs = None if output is None else with_packs(Outputs(output))
    one = _video(video, root, parts, length, outputs)
    clip = (stored_clip(one, outputs, length) if outputs else None) or _computed(
        one, settings, backend, device, length
    )
    path = to or Path(_file_name(one.name) + (".mp4" if mp4 else ".png"))
    if path.suffix.lower() in FILMS:
        write_film(path, clip, start=start, seconds=seconds)
    else:
        _write_contact_sheet(path, clip, columns)
    made = "computed for it" if clip.computed else f"stored in {output}"
    if not one.source:
        made += f"; without frames: there is no video {root / one.name} (is the --root right?)"
    typer.echo(f"{path}: {one.name}, {made}", err=True)


def _check_name(to: Path | None, mp4: bool) -> None:
    """Reject a file name with an unsupported suffix, before anything is computed."""
    suffixes = FILMS if mp4 else {**PICTURES, **FILMS}
    if to is not None and to.suffix.lower() not in suffixes:
        raise UsageError(f"--to {to}: the file name must end in {', '.join(suffixes)}")


def _write_contact_sheet(path: Path, clip: Clip, columns: int) -> None:
    from m3flow.atomic import complete_or_absent
    from m3flow.report.contact_sheet import contact_sheet, encoded

    picture = encoded(contact_sheet(clip, columns), PICTURES[path.suffix.lower()])
    with complete_or_absent(path) as (temporary,):
        temporary.write_bytes(picture)


def _video(name: str, root: Path, parts: int, length: int, outputs: Outputs | None) -> Video:
    from m3flow.videos.videolist import Video, VideoList

    if outputs is not None and not (root / name).exists():
        stored = outputs.flow(name).is_dir() or outputs.trajectories(name, length).is_file()
        if stored:
            return Video("", name)
    videos = VideoList(Path(name), root, parts).read()
    if len(videos) != 1:
        raise UsageError(f"{name} is a list of {len(videos)} videos; show takes one of them")
    return videos[0]


def _computed(video: Video, settings: FlowSettings, backend: str, device: str, length: int) -> Clip:
    from m3flow.extraction.work import compensated
    from m3flow.flow import estimator
    from m3flow.report.clip import ComputedClip

    if not video.source:
        raise BadInput(f"{video.name}: no flow is stored")
    chosen = estimator(settings.estimator, backend=backend, device=device)
    return ComputedClip(video, compensated(chosen, settings), settings, length)


def _file_name(name: str) -> str:
    """The video's base name without its extension, as a file name that needs no quoting."""
    return re.sub(r"[^\w.+-]+", "_", Path(name).stem).strip("._") or "video"
