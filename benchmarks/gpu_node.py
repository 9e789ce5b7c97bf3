"""A GPU node as a whole: frames per second by number of workers, and against what its cores could do.

Sections of `benchmarks/gpu.py`. The clips are made here, by OpenCV. Start-up is left out: a worker counts from its
second video on.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import flow as flow_benchmark
from m3flow.experiment.worker_trials import measured_rate, try_workers, workers_to_try
from m3flow.extraction import dispatch
from m3flow.extraction.sinks import TrajectorySink
from m3flow.extraction.work import Work
from m3flow.flow import estimator
from m3flow.layout import Outputs
from m3flow.results.forms import FORMS, quantisation_of
from m3flow.results.forms.base import Stream
from m3flow.results.quantisation import Piece, Quantisation
from m3flow.results.records import Record
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.steps import StepCounter, no_display
from m3flow.system import available_cores
from m3flow.videos.frames import Frames

Report = Callable[[dict[str, Any]], None]


def workers(options: Any, report: Report) -> None:
    """Frames per second of the default settings by number of workers, as `m3flow calibrate` finds them."""
    work = work_with(options, "dis", "warp")
    config = dispatch.worker_config(work, 2**20)
    numbers = [1, 2] if options.smoke else workers_to_try(config, available_cores())
    steps = StepCounter(no_display)
    found: dict[str, float] = {}
    for number in numbers:
        # One after the other, so that those measured are reported if the time runs out.
        folder = options.folder / str(number)
        rates, _ = try_workers(work, config, [clip(options)], folder, [number], steps)
        found |= {str(key): round(value, 1) for key, value in rates.items()}
        report({"frames_per_s": found, "store": work.flow.store})  # type: ignore[union-attr]


def node(options: Any, report: Report) -> None:
    """Frames per second of the whole node, and their share of the rate at which its cores could do their part."""
    costs = stage_costs(options)
    cores = available_cores()
    # What the cores do for a GPU: decoding, encoding, storing trajectories. "With tracking" is a CPU's part.
    floor = 1000 * cores / (costs["decode"] + costs["encode"] + costs["store trajectories"])
    with_tracking = 1000 * cores / sum(costs.values())
    result: dict[str, Any] = {
        "cores": cores,
        "cpu_ms_per_frame": costs,
        "floor_frames_per_s": round(floor, 1),
        "floor_with_tracking_frames_per_s": round(with_tracking, 1),
        "cases": {},
    }
    for name, camera in (("dis", "warp"), ("farneback", "warp"), ("farneback", "none")):
        work = work_with(options, name, camera)
        config = dispatch.worker_config(work, 2**20)
        count = 1 if options.smoke else config.workers
        rate, start = measured_rate(work, config.devices, count, [clip(options)])
        result["cases"][f"{name}, camera {camera}"] = {
            "workers": count,
            "frames_per_s": round(rate, 1),
            "share_of_floor": round(rate / floor, 4),
            "share_of_floor_with_tracking": round(rate / with_tracking, 4),
            "start_s": round(start, 1),
        }
        report(result)
        if options.smoke:
            break


def stage_costs(options: Any) -> dict[str, float]:
    """Milliseconds of one core per frame: of decoding, encoding, tracking, and storing trajectories."""
    flow = flow_settings("dis", "none")
    quantisation: Quantisation = quantisation_of(flow.identity())
    source = clip(options)
    frames = np.stack(list(Frames(source)))
    height, width = frames.shape[1:]
    quick = estimator("dis", backend="opencv", preset="ultrafast")
    levels = quantisation.stored(quick.sequence(frames))
    stream = Stream(width=width, height=height, rate=Fraction(25))
    sink = TrajectorySink(
        options.folder / "alone.gz", TrajectorySettings(), quantisation, 1, Record(video="", status="done")
    )
    cv2.setNumThreads(1)
    costs: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        costs[stage] = round(1000 * (time.process_time() - start) / len(frames), 3)

    with timed("decode"):
        for _ in Frames(source):
            pass
    with (
        timed("encode"),
        FORMS[flow.store].writer(options.folder / "alone", flow.identity(), stream) as writer,
    ):
        writer.write(np.asarray(levels))
        writer.close({})
    piece = Piece(levels=levels)
    with timed("track"):
        windows = sink.track(piece)
    with timed("store trajectories"):
        sink.write(Piece(levels=levels, windows=windows))
        sink.close({"settings": flow.identity()})
    return costs


def work_with(options: Any, name: str, camera: str) -> Work:
    return Work(
        outputs=Outputs(options.folder / "node" / f"{name}-{camera}"),
        flow=flow_settings(name, camera),
        trajectories=TrajectorySettings(),
        backend="torch",
        device="cuda" if options.on_gpu else options.device,
    )


def flow_settings(name: str, camera: str) -> FlowSettings:
    """As stored by default, or as JPEG images where PyAV is not installed."""
    store: Any = "mp4" if importlib.util.find_spec("av") else "jpg"
    return FlowSettings(estimator=name, camera=camera, store=store)  # type: ignore[arg-type]


def clip(options: Any) -> str:
    """A video of a moving texture; made at the first call."""
    path: Path = options.folder / "clip.mp4"
    if not path.exists():
        few = options.frames()
        both_ways = [*few, *few[-2:0:-1]]  # the motion never jumps
        height, width = few.shape[1:]
        size = (width, height)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
        for index in range(16 if options.smoke else 128):
            writer.write(cv2.cvtColor(both_ways[index % len(both_ways)], cv2.COLOR_GRAY2BGR))
        writer.release()
        assert flow_benchmark.read_clip(path, height, width, 16).shape == (16, height, width)
    return str(path)
