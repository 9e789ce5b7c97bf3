"""The sections of `benchmarks/gpu.py`: each measures one thing on a GPU (or, to be tried, on a CPU).

    PYTHONPATH=src python benchmarks/gpu_sections.py SECTION '{"device": …, "smoke": …, "folder": …, "seconds": …}'

A section passes what it has measured so far to `report`, which writes it to result.json in the folder: after a
crash or a time-out those figures are left.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flow as flow_benchmark
import gpu_node
from m3flow.camera.compensation import MotionEstimator
from m3flow.extraction.batching import Batches
from m3flow.extraction.extractor import CAMERA_BYTES_PER_PIXEL
from m3flow.flow import Estimator, estimator, graphs, implementation_of
from m3flow.flow.fused import kernels
from m3flow.results.quantisation import quantise
from m3flow.trajectories import track

REPOSITORY = Path(__file__).resolve().parent.parent
# Modules of fused kernels, by package.
KERNELS = {
    "brightness_triton": "m3flow.camera",
    "compensation_triton": "m3flow.camera",
    "corners_triton": "m3flow.camera",
    "dis_refinement_triton": "m3flow.flow",
    "dis_triton": "m3flow.flow",
    "farneback_pyramid_triton": "m3flow.flow",
    "farneback_triton": "m3flow.flow",
    "evidence_triton": "m3flow.camera",
    "homography_triton": "m3flow.camera",
    "lucas_kanade_triton": "m3flow.camera",
    "sor_triton": "m3flow.flow",
}
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """device: torch's; smoke: tiny sizes; folder: for temporary files; seconds: the section's time limit."""

    device: str
    smoke: bool
    folder: Path
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def estimators(self) -> list[str]:
        return ["farneback", "dis"] if self.smoke else ["farneback", "dis", "tvl1", "brox"]

    def frames(self, count: int = 17) -> np.ndarray:
        """Frames of a moving texture: uint8 [count, H, W]."""
        height, width = (64, 80) if self.smoke else (240, 320)
        return np.resize(flow_benchmark.texture(height, width), (count, height, width))

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def speed(options: Options, report: Report) -> None:
    """Pairs per second by estimator, size and batch, and agreement with OpenCV."""
    sizes = {"80x64": (64, 80)} if options.smoke else flow_benchmark.SIZES
    batches = [2] if options.smoke else [32, 128]
    end = time.monotonic() + 0.9 * options.seconds
    skip = (flow_benchmark.COMPILED,)
    fused = {name: kernels(name, options.device, where) is not None for name, where in KERNELS.items()}
    bench = flow_benchmark.Bench(options.device, batches, 0 if options.smoke else 0.4, end, skip)
    for size in sizes.values():
        frames = flow_benchmark.texture(*size)
        for name in options.estimators:
            bench.estimator(name, frames)
            bandwidth = round(bench.bandwidth / 1e9, 1)
            found = {"bandwidth_gb_s": bandwidth, "fused_kernels": fused}
            report(found | {"rows": bench.rows, "left_out": bench.left_out})


def camera(options: Options, report: Report) -> None:
    """Pairs per second with and without camera compensation, by scheme."""
    pairs = 4 if options.smoke else 104
    frames = torch.from_numpy(options.frames(pairs + 1)).to(options.device)
    found: dict[str, float] = {}
    for name in ("farneback", "dis"):
        chosen = estimator(name, backend="torch", device=options.device)
        for label, how in {
            "none": {"camera": "none", "cuts": False},
            "one-pass": {"scheme": "one-pass"},
            "two-pass": {"scheme": "two-pass"},
        }.items():
            motion = MotionEstimator(chosen, **how)  # type: ignore[arg-type]
            found[f"{name}, {label}"] = round(pairs / seconds_of(lambda: motion(frames), options), 1)  # noqa: B023
            report({"pairs_per_s": found})


def cuda_graphs(options: Options, report: Report) -> None:
    """Pairs per second of a batch without and with CUDA graphs, and what became of each graph."""
    pairs = 2 if options.smoke else 104
    frames = torch.from_numpy(options.frames(pairs + 1)).to(options.device)
    messages: list[str] = []
    log = logging.getLogger("m3flow")
    log.setLevel(logging.INFO)
    log.addHandler(Messages(messages))
    found: dict[str, dict[str, Any]] = {}
    for name in options.estimators:
        if not getattr(implementation_of(name, "torch"), "replayable", False):
            continue
        found[name] = {}
        for label, switch in (("without", "0"), ("with", "1")):
            os.environ[graphs.VARIABLE] = switch
            chosen = estimator(name, backend="torch", device=options.device)
            for _ in range(2):  # the second batch is recorded
                chosen.sequence(frames)
            seconds = seconds_of(lambda: chosen.sequence(frames), options)  # noqa: B023
            found[name][label] = round(pairs / seconds, 1)
            report({"pairs_per_s": found, "graphs": messages})
    os.environ.pop(graphs.VARIABLE, None)


class Messages(logging.Handler):
    """Collects what is said about CUDA graphs."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if "CUDA graph" in record.getMessage():
            self._messages.append(record.getMessage())


def memory(options: Options, report: Report) -> None:
    """Peak bytes per pixel and pair of a batch, beside those that the size of batches is computed from."""
    pairs = 2 if options.smoke else 32
    frames = torch.from_numpy(options.frames(pairs + 1)).to(options.device)
    pixels = pairs * frames[0].numel()
    found: dict[str, dict[str, float]] = {}
    for name in options.estimators:
        chosen = estimator(name, backend="torch", device=options.device)
        calls = {name: (chosen.sequence, chosen.bytes_per_pixel)}
        if name in ("farneback", "dis"):
            with_camera = chosen.bytes_per_pixel + CAMERA_BYTES_PER_PIXEL
            calls[f"{name}, camera warp"] = (MotionEstimator(chosen), with_camera)  # type: ignore[assignment]
        for label, (call, expected) in calls.items():
            with flow_benchmark.peak_memory(options.device) as peak:
                call(frames)
                options.wait()
            found[label] = {"measured": round(peak["mib"] * 2**20 / pixels, 1), "expected": expected}
            report({"bytes_per_pixel": found})


def out_of_memory(options: Options, report: Report) -> None:
    """Batches of 32 pairs where the memory holds about 8: all must be computed, in smaller batches."""
    chosen = estimator("farneback", backend="torch", device=options.device)
    frames = options.frames(33)
    call: Callable[[Any], Any] = chosen.sequence
    if options.on_gpu:
        _limit_memory(chosen, frames[:9])
    else:
        call = _that_holds(8, chosen)
    fitting: dict[tuple[int, int], int] = {}
    queue: Batches[str, Any] = Batches(call, shared=True, device=options.device, fitting=fitting)
    done, errors = 0, []
    for parts in (queue.add("video", frames, 32), queue.end("video"), queue.flush()):
        for part in parts:
            done += 0 if part.result is None else len(part.result)
            errors += [str(part.error)] if part.error else []
    report({"pairs": done, "of": 32, "fitting": next(iter(fitting.values()), 32), "errors": errors})
    assert done == 32, errors


def _limit_memory(chosen: Estimator, frames: np.ndarray) -> None:
    """Limits torch's memory to slightly more than these frames need."""
    torch.cuda.reset_peak_memory_stats(chosen.device)
    chosen.sequence(torch.from_numpy(frames).to(chosen.device))
    needed = torch.cuda.max_memory_reserved(chosen.device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(chosen.device).total_memory
    torch.cuda.set_per_process_memory_fraction(1.1 * needed / total, chosen.device)


def _that_holds(most: int, chosen: Estimator) -> Callable[[Any], Any]:
    def call(frames: Any) -> Any:
        if len(frames) - 1 > most:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return chosen.sequence(frames)

    return call


def equality(options: Options, report: Report) -> None:
    """Results on the device against those of torch on the CPU."""
    frames = options.frames(4 if options.smoke else 9)
    found: dict[str, Any] = {}
    for name in options.estimators[: 2 if options.smoke else 3]:
        few = {"warps": 1, "outer": 2} if name == "tvl1" else {}
        here, there = (
            estimator(name, backend="torch", device=device, **few) for device in ("cpu", options.device)
        )
        one, other = here.sequence(frames), there.sequence(frames)
        found[name] = flow_benchmark.compare(np.asarray(other), np.asarray(one))
        report({"px_from_the_cpu": found})
    levels = quantise(np.tile(np.asarray(one), (3, 1, 1, 1)), 20)
    tracked = {}
    for tracking in ("subpixel", "integer"):
        steps = np.random.default_rng(0).normal(size=levels.shape).astype(np.float32) * 3
        expected = track(steps, tracking=tracking)
        found_there = track(torch.from_numpy(steps).to(options.device), tracking=tracking)
        tracked[tracking] = all(
            np.array_equal(mine, torch.as_tensor(theirs).cpu().numpy())
            for mine, theirs in zip(expected, found_there, strict=True)
        )
    report({"px_from_the_cpu": found, "trajectories_identical": tracked})
    assert all(tracked.values()), tracked


def tests(options: Options, report: Report) -> None:
    """The tests marked `gpu`, where pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        report({"left_out": ["pytest is not installed"]})
        return
    required = {"M3FLOW_REQUIRE_GPU": "1"} if options.on_gpu else {}
    files = [path for path in (REPOSITORY / "tests/unit").rglob("*.py") if "mark.gpu" in path.read_text()]
    how = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *how, *sorted(map(str, files))],
        cwd=REPOSITORY,
        env={**os.environ, **required},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or [done.stderr[-500:]]
    errors = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    # Of a file as a whole: it needs packages that are not installed.
    left_out = [line for line in errors if line.startswith("ERROR ") and "::" not in line]
    report({"result": lines[-1], "left_out": left_out})
    assert len(errors) == len(left_out), done.stdout[-2000:] + done.stderr[-2000:]
    assert left_out or done.returncode in (0, 5), done.stdout[-2000:] + done.stderr[-2000:]


def seconds_of(call: Callable[[], Any], options: Options) -> float:
    """The median duration of a call on the device, once warm."""
    call()
    options.wait()
    times: list[float] = []
    while not times or (sum(times) < 1 and not options.smoke):
        start = time.perf_counter()
        call()
        options.wait()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


SECTIONS: dict[str, Callable[[Any, Report], None]] = {
    "speed": speed,
    "camera": camera,
    "graphs": cuda_graphs,
    "memory": memory,
    "out_of_memory": out_of_memory,
    "equality": equality,
    "workers": gpu_node.workers,
    "node": gpu_node.node,
    "tests": tests,
}


def main() -> None:
    values = json.loads(sys.argv[2])
    options = Options(**{**values, "folder": Path(values["folder"])})
    torch.set_num_threads(1)
    file = options.folder / "result.json"
    SECTIONS[sys.argv[1]](options, lambda result: file.write_text(json.dumps(result)) and None)


if __name__ == "__main__":
    main()
