"""Measurement of the throughput of an experiment's settings on the target machine."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.errors import UsageError
from m3flow.experiment.calibration import Calibration, Throughput, settings_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import work_of
from m3flow.experiment.sample import headers, of_headers
from m3flow.experiment.worker_trials import try_workers, workers_to_try
from m3flow.extraction import dispatch
from m3flow.extraction.extractor import Extractor
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.steps import OnStep, StepCounter, no_display
from m3flow.system import available_cores
from m3flow.version import __version__
from m3flow.videos.videolist import Video

# Number of measured videos of the list, whole or, if that would take longer than the calibration should, only
# their beginnings; each frame is processed in about thirty passes.
VIDEOS, SECONDS, PASSES = 4, 120.0, 30
FEWEST_FRAMES, CLIP_FRAMES = 24, 64
SHORT_SIDES = (120, 240, 480)
# Startup time of a job: Slurm's step, Snakemake twice, Python's imports; ours is measured and added.
JOB_START_SECONDS = 5.0


def calibrate(experiment: Experiment, cluster: str = "local", on_step: OnStep = no_display) -> Calibration:
    """Measure here, with the cores and GPUs that this process may use.

    A few videos of the list are processed at their own size, with different numbers of workers; a resized clip
    of one shows how the time depends on the frame size. All in a temporary folder.

    Raises UsageError if no video of the list can be opened.
    """
    with tempfile.TemporaryDirectory(prefix="m3flow-calibrate-") as name:
        folder = Path(name)
        steps = StepCounter(on_step)
        steps.begin("choosing videos")
        sources = _sources(experiment, folder)
        seen = of_headers(headers(sources, experiment.flow.frames.rate), experiment.flow.resize)
        kind = "flow" if experiment.wants_flow else "trajectories"
        work = work_of(experiment, kind)
        config = dispatch.worker_config(work, 2**20, experiment.run.workers, experiment.run.gpus)
        fixed = experiment.run.workers
        numbers = [fixed] if fixed else workers_to_try(config, available_cores())
        sides = _sides(sources[0]) if experiment.wants_flow else []
        steps.left = len(numbers) + 1 + len(sides)
        rates, start = try_workers(work, config, sources, folder, numbers, steps)
        best = max(rates, key=lambda workers: rates[workers])
        steps.begin("one worker, stage by stage")
        own = _one_worker(experiment, sources, folder / "own", (round(seen.width), round(seen.height)))
        gain = rates[best] / rates[min(rates)]  # over a single warm worker
        if config.devices[0].startswith("cuda"):
            # A single worker on a GPU decodes and encodes in several processes; `own` has none of them.
            gain = rates[best] * getattr(own, kind)
        sizes = [own, *_other_sizes(experiment, sources, own, folder, sides, steps)]
        cores = available_cores()
        return Calibration(
            made={
                "m3flow": __version__,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
                "machine": platform.machine(),
                "cluster": cluster,
            },
            settings=settings_of(experiment),
            cores=cores,
            gpus=_gpus(config),
            device=config.devices[0],
            backend=work.backend,
            workers=best,
            rates={str(workers): round(rate, 3) for workers, rate in rates.items()},
            start=JOB_START_SECONDS + start,
            sizes=tuple(
                sorted((_shared(size, gain) for size in sizes), key=lambda size: size.width * size.height)
            ),
        )


def _sources(experiment: Experiment, folder: Path) -> list[str]:
    """A few videos, spread over the list; of long ones the beginning."""
    found: list[str] = []
    longest = 0
    for source in experiment.videos.sample(VIDEOS * 4):
        (header,) = headers([source])
        if header is None:
            continue
        if not longest:
            clip = _write_clip(folder / "first.mp4", _frames(source, FEWEST_FRAMES))
            longest = max(FEWEST_FRAMES, round(SECONDS / PASSES / _pace(experiment, clip, folder)))
        # Motion vectors depend on the codec: a re-encoded video would have others.
        if experiment.wants_flow and header[0] > longest:
            source = _write_clip(folder / f"beginning{len(found)}.mp4", _frames(source, longest))
        found.append(os.path.abspath(source))  # noqa: PTH100
        if len(found) == VIDEOS:
            break
    if not found:
        raise UsageError(
            f"{experiment.videos.file}: no video of the list can be opened, so nothing can be measured"
        )
    return found


def _pace(experiment: Experiment, clip: str, folder: Path) -> float:
    """Seconds per frame of one warm worker."""
    kind = "flow" if experiment.wants_flow else "trajectories"
    work = replace(work_of(experiment, kind), outputs=Outputs(folder / "pace"))
    with Extractor(work) as extractor:
        records = [extractor(Video(clip, f"pace/{number}")) for number in range(2)]
    return records[-1].seconds / max(1, records[-1].frames)


def _one_worker(
    experiment: Experiment, sources: Sequence[str], folder: Path, size: tuple[int, int]
) -> Throughput:
    """One worker on the given videos: seconds per frame of each kind of job, and bytes per frame."""
    outputs = Outputs(folder)
    records: dict[str, list[Record]] = {}
    for kind in ("flow", "trajectories", "motion") if experiment.wants_flow else ("trajectories",):
        work = replace(
            work_of(experiment, kind), outputs=outputs if kind != "motion" else Outputs(folder / "m")
        )
        with Extractor(work) as extractor:
            if kind != "trajectories" or not experiment.wants_flow:
                extractor(Video(sources[0], "warm/up"))
            videos = [Video(source, f"one/{number}") for number, source in enumerate(sources)]
            records[kind] = [extractor(video) for video in videos]
    flow = records.get("flow", [])
    frames = sum(record.frames for record in records["trajectories"]) or 1

    def per_frame(kind: str) -> float:
        return sum(record.seconds for record in records.get(kind, [])) / frames

    def rate(stage: str, of: Sequence[Record]) -> float:
        seconds = sum(getattr(record, stage) for record in of)
        return round(frames / seconds, 2) if seconds else 0.0

    return Throughput(
        width=size[0],
        height=size[1],
        flow=per_frame("flow"),
        trajectories=per_frame("trajectories"),
        motion=per_frame("motion"),
        stages={
            **{stage: rate(stage, flow) for stage in ("decode", "flow", "encode")},
            "track": rate("track", records["trajectories"]),
        },
        flow_bytes=_bytes(outputs.flow("one")) / frames,
        trajectory_bytes=_bytes(outputs.trajs / "one") / frames,
    )


def _sides(source: str) -> list[int]:
    """The short sides at which a clip of the video is measured: its own, then sufficiently different ones."""
    own = min(_frames(source, 1).shape[1:])
    return [own, *(side for side in SHORT_SIDES if abs(side / own - 1) >= 0.25)]


def _other_sizes(
    experiment: Experiment,
    sources: Sequence[str],
    own: Throughput,
    folder: Path,
    sides: Sequence[int],
    steps: StepCounter,
) -> list[Throughput]:
    """The same at other frame sizes, scaled by the clip's throughput at its own size."""
    if not sides:
        return []
    frames = _frames(sources[0], CLIP_FRAMES)
    measured = []
    for side in sides:
        clip = _resized(frames, side / sides[0])
        height, width = clip.shape[1:]
        steps.begin(f"frames of {width}x{height}")
        source = _write_clip(folder / f"clip{side}.mp4", clip)
        measured.append(_one_worker(experiment, [source], folder / f"side{side}", (width, height)))
    base, *others = measured
    return [_in_proportion(other, base, own) for other in others]


def _in_proportion(other: Throughput, base: Throughput, own: Throughput) -> Throughput:
    def scaled(name: str) -> float:
        before = getattr(base, name)
        return getattr(other, name) / before * getattr(own, name) if before else 0.0

    names = ("flow", "trajectories", "motion", "flow_bytes", "trajectory_bytes")
    values: dict[str, Any] = {name: scaled(name) for name in names}
    return replace(other, **values)


def _shared(size: Throughput, gain: float) -> Throughput:
    """The seconds per frame of a whole job, from those of one worker."""
    return replace(
        size, flow=size.flow / gain, trajectories=size.trajectories / gain, motion=size.motion / gain
    )


def _frames(source: str, count: int) -> np.ndarray:
    """Up to `count` frames from a video's beginning: uint8 [F, H, W]."""
    from itertools import islice

    from m3flow.videos.frames import Frames

    return np.stack(list(islice(iter(Frames(source)), count)))


def _resized(frames: np.ndarray, scale: float) -> np.ndarray:
    import cv2

    height, width = (max(16, round(side * scale / 2) * 2) for side in frames.shape[1:])
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])


def _write_clip(path: Path, frames: np.ndarray) -> str:
    """Write the frames as an H.264 video, the codec of most data sets."""
    import av

    height, width = (side - side % 2 for side in frames.shape[1:])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames[:, :height, :width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return str(path)


def _gpus(config: dispatch.WorkerConfig) -> int:
    """The number of GPUs allocated to this job, used or not, since all of them are charged."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_JOB_ID" in os.environ else ""
    used = sum(device.startswith("cuda") for device in config.devices)
    return max(used, len([name for name in given.split(",") if name]))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
