"""Machines with several simulated GPUs: jobs and workers report the one assigned to them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.clips import clip, write_list
from support.paths import REPOSITORY

GPUS, CORES, VIDEOS = 4, 16, 16
# Imported by every Python process of the run at startup.
SIMULATION = f"""
import json, os, time
from pathlib import Path
import m3flow.extraction.dispatch as dispatch
import m3flow.experiment.jobs as jobs

def execute_one(kind, video, work, log_file):
    began = time.time()
    time.sleep(2)  # the work
    line = json.dumps([video.name, work.device, work.threads, began, time.time(), work.sharing])
    Path(os.environ["JOBS_DONE"], video.name).write_text(line)
    return 0

dispatch.gpu_count = lambda: {GPUS}
jobs.execute_one = execute_one
"""


def test_jobs_are_spread_over_all_gpus_and_limited_by_them(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIMULATION)
    (tmp_path / "done").mkdir()
    names = [f"v{number:02d}.mkv" for number in range(VIDEOS)]
    write_list(tmp_path / "list.txt", names)
    for name in names:
        (tmp_path / name).touch()  # the jobs that would read them are simulated
    command = [
        *(
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(REPOSITORY / "Snakefile"),
            "--cores",
            str(CORES),
        ),
        *("--configfile", str(REPOSITORY / "config.yaml"), "--directory", str(tmp_path)),
        *("--config", f"videos={tmp_path / 'list.txt'}", "output=out", "shard={one_pass: true}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment |= {"JOBS_DONE": str(tmp_path / "done")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^motion +16$", done.stdout + done.stderr, re.MULTILINE)

    jobs = [json.loads(path.read_text()) for path in (tmp_path / "done").iterdir()]
    assert {name for name, *_ in jobs} == set(names)
    assert {threads for _, _, threads, *_ in jobs} == {2}
    # Each plans with a part of its GPU's memory, since all see the same memory as free.
    assert min(sharing for *_, sharing in jobs) >= 2
    # At most two concurrent jobs per GPU: 16 cores are 8 pairs.
    for _, _, _, began, *_ in jobs:
        running = Counter(device for _, device, _, start, end, _ in jobs if start <= began < end)
        assert max(running.values()) <= 2
    per_gpu = Counter(device for _, device, *_ in jobs)
    assert set(per_gpu) == {f"cuda:{index}" for index in range(GPUS)}
    assert sum(per_gpu.values()) == VIDEOS


# Imported likewise: workers write the device that they track on, and track on the CPU.
TRACKING_SIMULATION = """
import os, uuid
from pathlib import Path
import m3flow.extraction.dispatch as dispatch
import m3flow.extraction.extractor as extractor

def tracking_device(work):
    Path(os.environ["DEVICES"], uuid.uuid4().hex).write_text(work.device)
    return "cpu"

dispatch.gpu_count = lambda: 2
extractor.tracking_device = tracking_device
"""


@pytest.mark.slow
def test_the_trajectories_command_tracks_on_as_many_gpus_as_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRACKING_SIMULATION)
    names = [f"a/{number}.mkv" for number in range(8)]
    for number, name in enumerate(names):
        clip(tmp_path / name, seed=number)
    write_list(tmp_path / "list.txt", names)

    def command(kind: str, *options: str) -> tuple[subprocess.CompletedProcess[str], Counter[str]]:
        devices = tmp_path / f"devices{len(list(tmp_path.glob('devices*')))}"
        devices.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", "from m3flow.cli import main; main()", kind, "list.txt", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "DEVICES": str(devices)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, Counter(path.read_text() for path in devices.iterdir())

    done, _ = command("flow", "-o", "out", "--backend", "opencv", "--camera", "none")
    assert done.returncode == 0, done.stderr
    subprocess.run(["cp", "-r", tmp_path / "out", tmp_path / "other"], check=True)
    for options, devices in (
        (("--gpus", "2"), {"cuda:0": 1, "cuda:1": 1}),
        (("--gpus", "1", "--workers", "2"), {"cuda:0": 2}),
        ((), {"cpu": 2}),
    ):
        shutil.rmtree(tmp_path / "out/trajs", ignore_errors=True)
        done, found = command("trajectories", "-o", "out", *options)
        assert done.returncode == 0 and "8 done of 8 videos" in done.stderr, done.stderr
        assert found == devices
    done, found = command("trajectories", "-o", "other", "--gpus", "3")
    assert done.returncode == 2 and "--gpus 3: torch sees 2 GPU(s) here" in done.stderr
    assert not found and not (tmp_path / "other/trajs").exists()
