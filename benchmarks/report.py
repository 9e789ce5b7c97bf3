"""Size of the report and time to make it, by the number of videos.

    python benchmarks/report.py 2000 20000 240000

The records are synthetic: two runs over every video, as written by shards, with 2 % rejected. Writes
benchmarks/results/report.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.layout import Outputs
from m3flow.results.records import Record, RecordFile
from machine import describe

RESULTS = Path(__file__).parent / "results/report.json"
SHARD = 256
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def made_up(number: int, random: np.random.Generator) -> tuple[Record, Record]:
    """The records of the flow run and the trajectory run on one video."""
    name = f"kinetics/class_{number % 400:03d}/{random.integers(1 << 40):011x}_000010_000020.mp4"
    host, ended = f"node{number // SHARD % 12:02d}", BEGAN + timedelta(seconds=0.3 * number)
    common: dict[str, Any] = {"video": name, "host": host, "time": ended.isoformat(timespec="seconds")}
    if random.random() < 0.02:
        rejected = {**common, "status": "rejected", "device": "cpu"}
        return Record(**rejected, reason=f"no such file: '/data/{name}'"), Record(
            **rejected, reason="no flow"
        )
    frames = int(random.integers(30, 330))
    common |= {"status": "done", "frames": frames, "width": 340, "height": 256}
    speed = float(random.gamma(2, 0.5))
    flow = Record(
        **common,
        device=f"cuda:{number % 4}",
        claimed=frames,
        seconds=0.004 * frames,
        wait=4e-4 * frames,
        decode=1e-3 * frames,
        flow=3e-3 * frames,
        encode=1.5e-3 * frames,
        speed=speed,
        speed_p95=4 * speed,
        saturated=float(random.beta(0.3, 30)),
        still=float(random.beta(2, 3)),
        camera=float(random.beta(30, 1)),
        camera_shift=speed,
    )
    windows = {"windows": frames - 6, "outside": float(random.beta(1, 20))}
    tracked = Record(**common, device="cpu", seconds=2e-3 * frames, track=1e-3 * frames, **windows)
    return flow, tracked


def write_records(outputs: Outputs, count: int) -> None:
    random = np.random.default_rng(0)
    for first in range(0, count, SHARD):
        folder, shard = outputs.records / "train.csv", f"{first // SHARD:05d}"
        with (
            RecordFile(folder / f"flow-{shard}.csv") as flow_file,
            RecordFile(folder / f"trajectories-{shard}.csv") as trajectory_file,
        ):
            for number in range(first, min(count, first + SHARD)):
                flow, trajectories = made_up(number, random)
                flow_file.append(flow)
                trajectory_file.append(trajectories)


def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_records(Outputs(Path(folder)), count)
        call = [sys.executable, "-c", "from m3flow.cli import main; main()", "report", "--output", folder]
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(call, check=True, capture_output=True)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "videos": count,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_gib": round(after.ru_maxrss / 2**20, 2),
            "page_mb": round((Path(folder) / "report.html").stat().st_size / 1e6, 2),
        }


if __name__ == "__main__":
    counts = sorted(int(argument) for argument in sys.argv[1:]) or [2_000, 20_000, 240_000]
    measured = [measure(count) for count in counts]
    RESULTS.write_text(json.dumps({"machine": describe(), "report": measured}, indent=1) + "\n")
    for line in measured:
        print(line)
