"""Speed of each optical flow estimator on this machine, its agreement with OpenCV, and its distance to the lower bound.

    python benchmarks/flow.py                       # on the GPU if torch sees one, else on the CPU
    python benchmarks/flow.py --device cpu --seconds 0.3

Every available estimator, backend and device runs on the same frames in the same run: OpenCV on one
core and on all of them (one pair per core), torch in batches of several sizes. The lower bound is the time to
move the bytes of a perfectly fused version at this device's measured bandwidth.
Rows of one core count processor time, which other work on the machine disturbs less.

Needs only torch, NumPy and OpenCV. Writes benchmarks/results/flow-<cpu or the GPU's name>.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import machine
import tables
from m3flow.flow import ESTIMATORS, Estimator, estimator
from m3flow.flow.farneback import level_scales

SIZES = {"320x240": (240, 320), "640x360": (360, 640)}
RESULTS = Path(__file__).resolve().parent / "results"
LONGEST_MEASUREMENT = 20.0  # seconds; larger batches that would take longer are skipped and listed


def main() -> None:
    options = parse()
    device = options.device or ("cuda:0" if torch.cuda.device_count() else "cpu")
    batches = options.batches or ([1, 8, 32, 128] if device.startswith("cuda") else [1, 4])
    torch.set_num_threads(1)  # on a CPU, compare one core with one core
    described = machine.describe()
    bench = Bench(device, batches, options.seconds, time.monotonic() + 60 * options.minutes)
    for size in options.sizes:
        frames = read_clip(options.clip, *SIZES[size]) if options.clip else texture(*SIZES[size])
        for name in options.estimators:
            bench.estimator(name, frames)
    result = {
        "machine": described,
        "device": device,
        "frames": str(options.clip or "a texture that moves up to 4 px"),
        "bandwidth_gb_s": round(bench.bandwidth / 1e9, 1),
        "rows": bench.rows,
        "left_out": bench.left_out,
    }
    label = "cpu" if device == "cpu" else slug(torch.cuda.get_device_name(device))
    path = options.output or RESULTS / f"flow-{label}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="torch device; default: the first GPU, else cpu")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(tables.ESTIMATORS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes on the torch backend")
    parser.add_argument("--seconds", type=float, default=1.0, help="time to repeat each measurement")
    parser.add_argument("--minutes", type=float, default=9.0, help="start nothing after this time")
    parser.add_argument("--clip", type=Path, help="a video to take the frames from")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    return parser.parse_args()


class Bench:
    """Measures, prints and keeps one row per way to compute the flow."""

    def __init__(
        self, device: str, batches: list[int], seconds: float, end: float, skip: Sequence[str] = ()
    ) -> None:
        self.device, self.batches, self.seconds, self.end = device, batches, seconds, end
        self.skip = skip  # names of torch versions that are not measured
        self.bandwidth = measure_bandwidth(device)
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        print(f"{device}: {self.bandwidth / 1e9:.0f} GB/s copied")
        print(f"{'estimator':10} {'size':9} {'how':28} {'batch':>5} {'ms/pair':>9} {'pairs/s':>9}  agreement")

    def estimator(self, name: str, frames: np.ndarray) -> None:
        """All rows of one estimator at one size: OpenCV's on the CPU, then torch's on the device.

        One that fails is listed as left out, with its error.
        """
        reference = None
        if "opencv" in ESTIMATORS[name].backends:
            with self.listing_errors(f"{name} opencv"):
                reference = self.opencv(name, frames)
        for how, build in torch_versions(name, self.device).items():
            if how not in self.skip:
                with self.listing_errors(f"{name} {how}"):
                    self.torch(name, how, build, frames, reference)

    @contextmanager
    def listing_errors(self, label: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            self.left_out.append(f"{label}: {type(error).__name__}: {first_line}")

    def opencv(self, name: str, frames: np.ndarray) -> np.ndarray:
        """OpenCV on one core and on all; returns its flow of the first pairs, for comparison."""
        cv2.setNumThreads(1)
        cores = machine.describe()["cores"]
        one = estimator(name, backend="opencv")
        reference = np.asarray(one(frames[:4], frames[1:5]))
        seconds = self.repeat(lambda: one(frames[:1], frames[1:2]), time.process_time)
        self.add(name, "opencv, 1 core", frames, 1, seconds)
        # OpenCV algorithm objects must not be shared between threads.
        workers = [estimator(name, backend="opencv") for _ in range(cores)]
        with ThreadPoolExecutor(cores) as pool:
            seconds = self.repeat(
                lambda: list(pool.map(lambda worker: worker(frames[:1], frames[1:2]), workers)),
                time.perf_counter,
            )
        self.add(name, f"opencv, {cores} cores", frames, cores, seconds)
        return reference

    def torch(
        self,
        name: str,
        how: str,
        build: Callable[[], Callable[[torch.Tensor], torch.Tensor]],
        frames: np.ndarray,
        reference: np.ndarray | None,
    ) -> None:
        """One torch version in all batch sizes."""
        call, pair_seconds = build(), 0.0
        clock = time.perf_counter if self.device.startswith("cuda") else time.process_time
        for batch in self.batches:
            label = f"{name} {frames.shape[2]}x{frames.shape[1]} {how} batch {batch}"
            if time.monotonic() > self.end:
                self.left_out.append(f"{label}: no time left")
                continue
            if 2 * batch * pair_seconds > LONGEST_MEASUREMENT:
                self.left_out.append(f"{label}: would take {2 * batch * pair_seconds:.0f} s")
                continue
            stretch = torch.from_numpy(np.resize(frames, (batch + 1, *frames.shape[1:]))).to(self.device)
            try:
                with peak_memory(self.device) as peak:
                    call(stretch)  # compiles, fills the allocator's cache
                    self.wait()
                seconds = self.repeat(lambda: call(stretch), clock)  # noqa: B023
            except torch.OutOfMemoryError:
                self.left_out.append(f"{label}: out of memory")
                break
            pair_seconds = seconds / batch
            agreement = None
            if reference is not None and batch == self.batches[0]:
                first = torch.from_numpy(frames[:5]).to(self.device)
                agreement = compare(call(first).cpu().numpy(), reference)
            self.add(name, how, frames, batch, seconds, self.device, peak["mib"], agreement)

    def repeat(self, call: Callable[[], Any], clock: Callable[[], float]) -> float:
        """Median seconds of a call, repeated for the given time, at least once."""
        times: list[float] = []
        while not times or sum(times) < self.seconds:
            start = clock()
            call()
            self.wait()
            times.append(clock() - start)
        return float(np.median(times))

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def add(
        self,
        name: str,
        how: str,
        frames: np.ndarray,
        batch: int,
        seconds: float,
        device: str = "cpu",
        memory_mib: float | None = None,
        agreement: dict[str, float] | None = None,
    ) -> None:
        height, width = frames.shape[1:]
        row: dict[str, Any] = {
            "estimator": name,
            "size": f"{width}x{height}",
            "how": how,
            "device": device,
            "batch": batch,
            "ms_per_pair": round(1e3 * seconds / batch, 4),
            "pairs_per_s": round(batch / seconds, 2),
        }
        if not how.startswith("opencv") and name in FLOORS:
            row["floor_ms_per_pair"] = round(1e3 * FLOORS[name](height, width) / self.bandwidth, 4)
        if memory_mib is not None:
            row["peak_memory_mib"] = round(memory_mib, 1)
        if agreement is not None:
            row["against_opencv"] = agreement
        self.rows.append(row)
        shown = "" if agreement is None else ", ".join(f"{k} {v:.1e}" for k, v in agreement.items())
        print(
            f"{name:10} {row['size']:9} {how:28} {batch:5} {row['ms_per_pair']:9.3f} "
            f"{row['pairs_per_s']:9.1f}  {shown}",
            flush=True,
        )


COMPILED = "torch compiled"


def torch_versions(name: str, device: str) -> dict[str, Callable[[], Callable[[torch.Tensor], torch.Tensor]]]:
    """Torch implementations of this estimator: their names, and functions that make them."""
    if "torch" not in ESTIMATORS[name].backends:
        return {}

    def default() -> Callable[[torch.Tensor], torch.Tensor]:
        return sequence(estimator(name, backend="torch", device=device))

    versions = {"torch": default}
    if name == "farneback":
        from m3flow.flow.farneback import Farneback
        from m3flow.flow.parameters import FarnebackParameters

        def other(iteration: str) -> Callable[[], Callable[[torch.Tensor], torch.Tensor]]:
            return lambda: sequence(Farneback(FarnebackParameters(), device=device, iteration=iteration))

        versions[COMPILED] = other("compiled")
        if device.startswith("cuda"):
            versions["torch eager"] = other("eager")
    return versions


def sequence(flow: Estimator) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda frames: flow.sequence(frames)  # type: ignore[return-value]


def compare(flow: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Statistics of the end-point distance in pixels, over all pixels of the pairs."""
    distance = np.hypot(*np.moveaxis(flow - reference, 1, 0))
    return {
        "mean": float(distance.mean()),
        "median": float(np.median(distance)),
        "p99": float(np.percentile(distance, 99)),
        "share_above_0.01": float((distance > 0.01).mean()),
    }


def farneback_bytes(height: int, width: int) -> float:
    """Bytes per pair if each iteration were one kernel: both expansions and the flow read, the flow written.

    Each frame's level is read at full size and its expansion written once.
    """
    total = 0.0
    for scale in level_scales(height, width, 5, 0.5):
        pixels = round(height * scale) * round(width * scale)
        total += 4 * (pixels * (10 * (5 + 5 + 2 + 2) + 5) + height * width)
    return total


def tvl1_bytes(height: int, width: int) -> float:
    """Bytes per pair if each iteration were one kernel: 9 planes read, 6 written; 26 iterations per warp."""
    pixels = sum((0.8 * 0.8) ** level for level in range(5)) * height * width
    return 4 * pixels * 5 * 26 * (9 + 6)


FLOORS: dict[str, Callable[[int, int], float]] = {"farneback": farneback_bytes, "tvl1": tvl1_bytes}


def measure_bandwidth(device: str) -> float:
    """Bytes per second of a large copy, read and written bytes counted."""
    source = torch.ones(2**28 if device.startswith("cuda") else 2**26, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, float]]:
    """Peak memory inside the block: torch's on a GPU, the whole process's on the CPU."""
    peak = {"mib": float("nan")}
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak["mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets Linux's high-water mark
        yield peak
        status = Path("/proc/self/status").read_text()
        peak["mib"] = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def texture(height: int, width: int, count: int = 17) -> np.ndarray:
    """Frames of a random texture with slow rotation and zoom: uint8 [count, height, width]."""
    random = np.random.default_rng(0)
    side = 2 * max(height, width)
    picture = sum(
        sigma * cv2.GaussianBlur(random.standard_normal((side, side)).astype(np.float32), (0, 0), sigma)
        for sigma in (1, 2, 4, 8, 16)
    )
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    frames = []
    for t in range(count):
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), 0.4 * t, 1 + 0.004 * t)
        matrix[:, 2] += (width / 2 - side / 2 + 1.7 * t, height / 2 - side / 2 - 0.9 * t)
        frames.append(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR))
    return np.stack(frames).round().astype(np.uint8)


def read_clip(path: Path, height: int, width: int, count: int = 17) -> np.ndarray:
    video = cv2.VideoCapture(str(path))
    frames = []
    while len(frames) < count:
        there, frame = video.read()
        if not there:
            raise SystemExit(f"{path} has {len(frames)} frames; {count} are needed")
        frames.append(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (width, height)))
    return np.stack(frames)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
