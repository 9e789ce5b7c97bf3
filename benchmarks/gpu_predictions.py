"""What a GPU would do, predicted on a machine without one: launches and bytes, and from these the time of a pair.

    python benchmarks/gpu_predictions.py

The torch operations of a batch are counted while they run on the CPU: each that is no view is one launch, which reads
and writes its tensors once. Fused kernels do not run; their launches and bytes are those of their arguments. The
prediction is the longer of the launches' time and the bytes at the memory's bandwidth, and in addition what one program
does alone: for the search of DIS the patches, one after another, for the camera a pair's homographies. The iterations
of TV-L1 end with its slowest pair; counted are those of a few pairs of a moving texture. No GPU has confirmed it.
Writes benchmarks/results/gpu_predictions.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flow as flow_benchmark
import machine
from m3flow.camera import thresholds
from m3flow.camera.brightness_torch import sorted_levels
from m3flow.camera.candidates import COLUMNS, ROWS
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.lucas_kanade import LEVELS
from m3flow.camera.selection import Selection
from m3flow.flow import estimator
from m3flow.flow.dis import PATCH, STRIPES, SWEEPS
from m3flow.flow.dis_refinement import SOR_ITERATIONS
from m3flow.flow.transfer import LATE

RESULT = Path(__file__).parent / "results" / "gpu_predictions.json"
HEIGHT, WIDTH, PAIRS, BATCH = 240, 320, 4, 104
LAUNCH_SECONDS = 3e-6
BANDWIDTHS = {"H200": 3.9e12, "RTX 3090": 0.8e12, "T4": 0.25e12}  # bytes per second that a copy reaches
FIT_SECONDS = 60e-6  # of a pair's homographies: 80,000 cycles of its programs; all pairs' run at once
EVALUATION_SECONDS = 0.3e-6  # of one comparison of a patch: its reads and four sums over its pixels
NO_LAUNCH = set(
    "view _unsafe_view expand slice select unbind transpose permute t unsqueeze squeeze as_strided detach alias "
    "unfold split _reshape_alias lift_fresh empty empty_like empty_strided new_empty".split()
)
FROM_NOTHING = set("fill_ zero_ zeros zeros_like ones ones_like full full_like arange eye".split())


class Counted(TorchDispatchMode):
    """Launches, the bytes that they read and write, and the serial seconds of fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0
        self.serial = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name in NO_LAUNCH:
            return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.launches += 1
        if name in ("gather", "index", "index_select"):
            self.bytes += sum(2 * touched(one) for one in outputs) + sum(touched(one) for one in inputs[1:])
        elif name in FROM_NOTHING:
            self.bytes += sum(map(touched, outputs))
        else:
            self.bytes += sum(map(touched, inputs)) + sum(map(touched, outputs))
        return result


def touched(tensor: torch.Tensor) -> int:
    """Bytes of the distinct elements of a tensor: an expanded dimension counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(np.prod(sizes, dtype=np.int64)) * tensor.element_size()


def of_estimators(count: Counted) -> dict[str, Any]:
    """Stand-ins for the estimators' kernels, by name, which count what the kernels would do."""

    def refine(_one: Any, _two: Any, flow: Any, *rest: Any) -> Any:
        iterations, planes = rest[-1], flow.nbytes // 2
        count.launches += 1 + 2 * iterations
        # The equations' 5 planes from 5 + 5 + 2; columns 5 -> 5; rows 5 and both expansions -> 5, in the end -> 2.
        count.bytes += planes * (17 + 10 * iterations + 20 * (iterations - 1) + 7)
        return flow

    def search(one: Any, two: Any, flow: Any, stride: int, steps: int) -> Any:
        rows, columns = (1 + (side - PATCH) // stride for side in one.shape[1:])
        count.launches += 2
        # The derivatives' 2 planes are written and read.
        count.bytes += one.nbytes + two.nbytes + 5 * one.nbytes
        patches = -(-rows // STRIPES) * columns
        # Descents end early: about half of the steps are taken.
        count.serial += SWEEPS * patches * (3 + steps / 2) * EVALUATION_SECONDS
        return flow[:, :, :rows, :columns].clone()

    def densify(one: Any, two: Any, sparse: Any, _stride: int) -> Any:
        count.launches += 1
        count.bytes += one.nbytes + two.nbytes + sparse.nbytes + 2 * one.nbytes
        return torch.empty(len(one), 2, *one.shape[1:])

    def shrink(images: Any, _scale: float, height: int, width: int) -> Any:
        level = torch.empty(len(images), height, width)
        count.launches += 1
        count.bytes += images.nbytes + level.nbytes
        return level

    def expand(images: Any, _n: int, _sigma: float) -> Any:
        count.launches += 1
        count.bytes += 6 * images.nbytes
        return torch.empty(len(images), 5, *images.shape[1:])

    return {"refine": refine, "search": search, "densify": densify, "shrink": shrink, "expand": expand}


def of_solvers(count: Counted) -> dict[str, Any]:
    """As `of_estimators`, of the modules `dis_refinement_triton` and `sor_triton`."""

    def refine(previous: Any, _current: Any, flow: Any, iterations: int, _epsilon: float) -> Any:
        plane, sweeps = previous.nbytes, 2 * SOR_ITERATIONS
        count.launches += 4 + iterations * (2 + sweeps)
        # The warp 4 -> 2 planes, 7 derivatives from 2, zeros, and the sum of the end; for each iteration the system's 6
        # from 12, a copy, and half-sweeps of 8 -> 2.
        count.bytes += plane * (6 + 9 + 2 + 6 + iterations * (18 + 4 + 10 * sweeps))
        return flow

    def solve(system: Any, increment: Any, omega: float, iterations: int) -> Any:
        del omega
        count.launches += 1 + 2 * iterations
        count.bytes += 2 * increment.nbytes + 2 * iterations * 11 * system.a11.nbytes
        return increment

    return {
        "dis_refinement_triton": SimpleNamespace(refine=refine),
        "sor_triton": SimpleNamespace(solve=solve),
    }


def of_camera_search(count: Counted) -> dict[str, Any]:
    """As `of_estimators`, for the camera search."""

    def there_and_back(previous: Any, _current: Any, points: Any) -> Any:
        # Two pyramids; for each level and direction the slopes and the tracking; zeros and a sum for each direction.
        count.launches += 2 * (LEVELS - 1) + 2 * 2 * LEVELS + 2 * 2
        # The levels have 4/3 of the frames' pixels: slopes 1 -> 2 planes, tracking reads 4.
        count.bytes += round(previous.nbytes * (2 * (4 / 3 + 1 / 3) + 2 * 4 / 3 * (1 + 2 + 4)))
        return points, points

    def reliable(points: Any, _end: Any, _back: Any, *_: Any) -> Any:
        count.launches += 1
        count.bytes += 3 * points.nbytes + strong.nbytes
        return strong

    def brightness_change(frames: Any, step: int) -> Any:
        levels, _ = sorted_levels(frames)
        count.launches += 1
        count.bytes += 2 * levels.nbytes
        return torch.empty(2, len(frames) - step), no_change

    def fit_successively(start: Any, end: Any, valid: Any, **how: Any) -> Any:
        fitted = start.new_empty(len(start), how["count"], 3, 3)
        count.launches += 3  # with the copy of which matches are valid
        count.bytes += 2 * (start.nbytes + end.nbytes + how["count"] * valid.nbytes) + fitted.nbytes
        count.serial += FIT_SECONDS
        return fitted, torch.empty(fitted.shape[:2], dtype=torch.int64)

    # Made here, so that they are not counted.
    no_bars = torch.zeros(PAIRS + 1, 4, dtype=torch.int64)
    points = torch.full((PAIRS, thresholds.CORNERS, 2), 20.0)
    strong = torch.ones(points.shape[:2], dtype=torch.bool)
    no_change = torch.zeros(PAIRS, dtype=torch.bool)

    def dark_bars(frames: Any) -> Any:
        count.launches += 1
        # Of frames without bars 16 lines at each side; those of a column are in one sector of 32 bytes.
        count.bytes += 2 * len(frames) * (16 * WIDTH + 32 * HEIGHT) + no_bars.nbytes
        return no_bars

    def corners(frames: Any, bars: Any) -> Any:
        count.launches += 3
        # Four numbers a cell are written and read.
        count.bytes += frames.nbytes + bars.nbytes + len(frames) * thresholds.CELLS * 4 * 4 * 2
        count.bytes += points.nbytes + strong.nbytes
        return points, strong

    def stabilised(current: Any, homographies: Any, previous: Any, moving: Any, bars: Any) -> Any:
        count.launches += 1
        count.bytes += sum(one.nbytes for one in (current, homographies, previous, moving, bars, current))
        return current

    def shrunk(images: Any, size: tuple[int, int]) -> Any:
        result = torch.empty(len(images), *size)
        count.launches += 1
        count.bytes += images.nbytes + result.nbytes
        return result

    def with_identity(fitted: Any, inliers: Any, _height: int, _width: int) -> Any:
        candidates = fitted.new_empty(len(fitted), 1 + fitted.shape[1], 3, 3)
        count.launches += 1
        count.bytes += fitted.nbytes + inliers.nbytes + 2 * candidates.nbytes
        return candidates, candidates, torch.empty(candidates.shape[:2], dtype=torch.bool)

    def sums_over_grid(points: Any, _start: Any, _end: Any, valid: Any, fitted: Any, *_: Any) -> Any:
        sums = fitted.new_empty(2 + fitted.shape[1], len(fitted), ROWS, COLUMNS)
        count.launches += 1
        count.bytes += 3 * points.nbytes + valid.nbytes + fitted.nbytes + sums.nbytes
        return sums[0], sums[2:].transpose(0, 1), sums[1]

    def photometric_support(previous: Any, current: Any, homographies: Any, *_: Any) -> Any:
        candidates = homographies.shape[1]
        count.launches += 2  # the errors at each pixel are written and read
        count.bytes += previous.nbytes + current.nbytes + 2 * candidates * previous.nbytes
        return previous.new_empty(len(previous), candidates, ROWS, COLUMNS)

    made = (
        dark_bars,
        corners,
        stabilised,
        there_and_back,
        reliable,
        brightness_change,
        fit_successively,
        shrunk,
        with_identity,
        sums_over_grid,
        photometric_support,
    )
    return {stand_in.__name__: stand_in for stand_in in made}


@contextmanager
def fused_kernels(count: Counted) -> Iterator[None]:
    """Inside the block the estimators call the stand-ins."""

    made, solvers = SimpleNamespace(**of_estimators(count), **of_camera_search(count)), of_solvers(count)

    def kernels(module: str, _device: str, _package: str = "") -> Any:
        return solvers.get(module, made)

    with ExitStack() as stack:
        for module in (
            *("flow.farneback", "flow.dis", "flow.brox"),
            *("camera.candidates_torch", "camera.compensation_torch"),
        ):
            stack.enter_context(patch(f"m3flow.{module}.kernels", kernels))
        yield


def moving_camera() -> Selection:
    homographies = np.tile(np.eye(3), (PAIRS, 1, 1))
    homographies[:, 0, 2] = 2.5
    zeros = np.zeros((PAIRS, 4), np.int32)
    return Selection(homographies, np.ones(PAIRS, bool), np.ones(PAIRS, np.float32), zeros[:, 0] > 0, zeros)


def counted(name: str, *, camera: bool, fused: bool) -> dict[str, Any]:
    """One batch of an estimator: launches, megabytes of a pair, and predicted microseconds of a pair."""
    frames = torch.from_numpy(flow_benchmark.texture(HEIGHT, WIDTH, PAIRS + 1))

    def call() -> None:
        chosen = estimator(name, backend="torch", device="cpu")
        run: Callable[[Any], Any] = chosen.sequence
        if camera:
            motion = MotionEstimator(chosen)
            motion.candidates(frames)
            motion(frames, 1, moving_camera())
        else:
            run(frames)

    count = Counted()
    # The host knows as late as on a GPU which pairs have stopped.
    with patch.dict(LATE, cpu=LATE["cuda"]), fused_kernels(count) if fused else nullcontext():
        call()  # makes the constants
        count.launches = count.bytes = 0
        count.serial = 0.0
        with count:
            call()
    seconds = {
        gpu: max(count.launches * LAUNCH_SECONDS, count.bytes / PAIRS * BATCH / bandwidth) + count.serial
        for gpu, bandwidth in BANDWIDTHS.items()
    }
    return {
        "launches": count.launches,
        "mb_per_pair": round(count.bytes / PAIRS / 1e6, 1),
        "us_per_pair": {gpu: round(1e6 * value / BATCH) for gpu, value in seconds.items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in ("farneback", "dis", "brox", "tvl1"):
        for camera in (False, True):
            for fused in (False, True):
                if (name == "tvl1" and fused) or (name in ("brox", "tvl1") and camera):
                    continue
                row = {"estimator": name, "camera": "warp" if camera else "none", "fused": fused}
                rows.append(row | counted(name, camera=camera, fused=fused))
                print(rows[-1], flush=True)
    result = {
        "machine": machine.describe(),
        "size": f"{WIDTH}x{HEIGHT}",
        "batch": BATCH,
        "assumed": {
            "launch_us": LAUNCH_SECONDS * 1e6,
            "patch_comparison_us": EVALUATION_SECONDS * 1e6,
            "homographies_us": FIT_SECONDS * 1e6,
            "bandwidth_gb_s": {gpu: value / 1e9 for gpu, value in BANDWIDTHS.items()},
        },
        "predicted": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
