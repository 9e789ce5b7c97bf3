"""`m3flow calibrate` as one job of a real Slurm, and its effect on the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from slurm.cluster import Cluster
from support.clips import clip


def m3flow(folder: Path, cluster: Cluster, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from m3flow.cli import main; main()", *arguments],
        cwd=folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_calibration_changes_the_plan(cluster: Cluster, tmp_path: Path) -> None:
    names = [f"set/c/v{number}.mkv" for number in range(8)]
    for number, name in enumerate(names):
        clip(tmp_path / "data" / name, frames=30, seed=number)
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in names))
    config = {
        "videos": "list.txt",
        "root": "data",
        "output": "out",
        "flow": {"estimator": "dis"},
        "shard": {"videos": "auto", "minutes": 0.15},
        "run": {"workers": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    assert "run m3flow calibrate" in m3flow(tmp_path, cluster, "plan", status=2)
    m3flow(tmp_path, cluster, "plan", "--set", "shard.videos=4", "--json", "before.json")
    before = json.loads((tmp_path / "before.json").read_text())
    assert before["hours"] is None and before["frames"] == 8 * 30

    asked = ("--cluster", "slurm", "--partition", "main", "--cpus", "2", "--memory-gb", "2", "--gpus", "1")
    m3flow(tmp_path, cluster, "calibrate", *asked)
    measured = json.loads((tmp_path / "calibration.json").read_text())
    assert measured["made"]["host"] in cluster.names
    assert (measured["cores"], measured["gpus"]) == (2, 1)
    assert [size["width"] for size in measured["sizes"]] == [64, 160, 320, 640]
    assert all(size["flow"] > 0 and size["flow_bytes"] > 0 for size in measured["sizes"])

    m3flow(tmp_path, cluster, "plan", "--json", "after.json")
    after = json.loads((tmp_path / "after.json").read_text())
    assert after["hours"]["flow"] > 0 and after["gpu_hours"] == after["hours"]["flow"]
    assert after["cpu_hours"] > 2 * after["hours"]["flow"]
    # Nine seconds per shard: as many videos as fit in addition to the job's start, a power of two.
    pace = (after["longest"]["hours"]["flow"] * 3600 - measured["start"]) / after["longest"]["videos"]
    assert after["size"] * pace <= 9 - measured["start"] + 1e-6 or after["size"] == 1


def test_a_job_that_slurm_rejects(cluster: Cluster, tmp_path: Path) -> None:
    clip(tmp_path / "data" / "a/b/c.mkv")
    (tmp_path / "list.txt").write_text("a/b/c.mkv\n")
    said = m3flow(
        tmp_path,
        cluster,
        *("calibrate", "list.txt", "--root", "data", "--output", "out", "--cluster", "slurm"),
        *("--partition", "nowhere"),
        status=2,
    )
    assert "Slurm rejected the job" in said and "partition" in said
