"""Hours and bytes to expect of whole data sets, from a calibration of the default settings on this machine.

    python benchmarks/datasets.py [CLIPS…]      # a few minutes; without CLIPS, those of `make demo`

Hours of a CPU node: what was measured here, in proportion to the cores. Hours of a GPU node: decoding, encoding and
tracking alone, on as many cores; the GPU is taken to keep up with them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import machine
from m3flow.experiment.calibrate import calibrate
from m3flow.experiment.calibration import Calibration
from m3flow.experiment.config import Experiment
from real_clips import add_clips, chosen_clips

RESULT = Path(__file__).parent / "results" / "datasets-cpu.json"
NODE_CORES = 16
# Videos, mean number of frames, and frame size, as the data sets' own papers and pages have them (UCF-101: 27 hours
# at 25 frames per second; HMDB51: 3.1 s on average; Kinetics-400: 10 s, resized; Something-Something: 4.0 s).
DATA_SETS: dict[str, dict[str, int]] = {
    "HMDB51": {"videos": 6_766, "frames": 94, "width": 320, "height": 240},
    "UCF-101": {"videos": 13_320, "frames": 184, "width": 320, "height": 240},
    "Something-Something V2": {"videos": 220_847, "frames": 48, "width": 427, "height": 240},
    "Kinetics-400, short side 256": {"videos": 240_000, "frames": 270, "width": 340, "height": 256},
}
STAGES = ("decode", "encode", "track")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clips(parser)
    clips = chosen_clips(parser, parser.parse_args())
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "list.csv"
        listed.write_text("path\n" + "".join(f'"{clip.resolve()}"\n' for clip in clips))
        options = {"videos": str(listed), "output": name, "shard": {"one_pass": True}}
        found = calibrate(Experiment.of({**options, "granularity": "shard"}))
    rows = {name: expected(found, **facts) for name, facts in DATA_SETS.items()}
    result = {
        "machine": machine.describe(),
        "clips": len(clips),
        "settings": found.settings,
        "cores": found.cores,
        "node_cores": NODE_CORES,
        "data_sets": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def expected(found: Calibration, videos: int, frames: int, width: int, height: int) -> dict[str, Any]:
    """Hours on one node and bytes of a data set."""
    total = videos * frames
    one_pass = found.seconds_per_frame("motion", width, height)
    nearest = min(found.sizes, key=lambda size: abs(size.width * size.height - width * height))
    # In one worker, seconds per frame go with the number of pixels.
    scale = width * height / (nearest.width * nearest.height)
    beside_the_gpu = sum(scale / nearest.stages[stage] for stage in STAGES)
    flow_bytes, trajectory_bytes = found.bytes_per_frame(width, height)
    return {
        "videos": videos,
        "frames": total,
        "cpu_node_hours": round(total * one_pass * found.cores / NODE_CORES / 3600, 2),
        "gpu_node_hours": round(total * beside_the_gpu / NODE_CORES / 3600, 2),
        "flow_gb": round(total * flow_bytes / 1e9, 1),
        "trajectories_gb": round(total * trajectory_bytes / 1e9, 1),
    }


if __name__ == "__main__":
    main()
