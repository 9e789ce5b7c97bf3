"""Shards on a real Slurm: many videos over several nodes, and recovery after nodes and jobs die."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from m3flow import load_flow, load_trajectories
from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import work_of
from m3flow.extraction.run import SOME_REJECTED, execute
from m3flow.layout import Outputs
from m3flow.packs.store import Packs
from slurm.cluster import Cluster
from slurm.runs import Run, wait_until
from support.clips import clip
from support.slow_estimator import install_slow_estimator

FLOW = {"estimator": "dis", "parameters": {"preset": "ultrafast"}}
CORRUPT = "set/c1/broken.mkv"


def test_many_videos_over_the_nodes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"set/c{number % 4}/v{number:03d}.mkv" for number in range(64)]
    for number, name in enumerate(names):
        clip(tmp_path / "data" / name, frames=12, seed=number)
    broken = tmp_path / "data" / CORRUPT
    broken.write_bytes((tmp_path / "data" / names[0]).read_bytes()[:200])
    listed = [*names[:20], CORRUPT, *names[20:]]
    run = Run(tmp_path, cluster, listed, flow=FLOW, shard={"videos": 17}, run={"workers": 1})
    assert run.jobs() == {"flow_shard": 4, "trajectories_shard": 4}
    with cluster.all_at_once():
        process = run.start(gpus=4)
        wait_until(lambda: len(cluster.command("squeue", "-h").splitlines()) == 4, "four jobs")
    assert process.wait() == 0, (tmp_path / "snakemake.out").read_text()

    done = dict.fromkeys(names, 1)
    for kind in ("flow", "trajectories"):
        counts = run.counts(kind)
        assert {video: count for (video, status), count in counts.items() if status == "done"} == done
        assert counts[CORRUPT, "rejected"] == 1
    reason = next(record.reason for record in run.records("flow") if record.status == "rejected")
    assert reason

    logs = run.logs("flow")
    # Each job took all GPUs of its node.
    assert len({re.search(r"on node (node\d)", text)[1] for text in logs}) == 4  # type: ignore[index]
    assert all("CUDA_VISIBLE_DEVICES=0,1,2,3," in text for text in logs)
    # A job that requests no GPU sees none.
    assert all("CUDA_VISIBLE_DEVICES=(not set)" in text for text in run.logs("trajectories"))

    # The same on this machine, without Slurm and without shards.
    monkeypatch.chdir(tmp_path)
    here = Experiment.of({"videos": "list.txt", "root": "data", "output": "here", "flow": FLOW})
    for kind in ("flow", "trajectories"):
        records = tmp_path / f"{kind}.csv"
        assert (
            execute(kind, here.videos.read(), work_of(here, kind), records=records, workers=1)
            == SOME_REJECTED
        )
    for name in names:
        assert np.array_equal(load_flow(run.output / "flows" / name), load_flow(f"here/flows/{name}"))
        theirs = load_trajectories(run.output / "trajs" / f"{name}_6.gz")
        ours = load_trajectories(f"here/trajs/{name}_6.gz")
        assert theirs.traj_feat.shape == (12, 6, 6, 8)
        assert np.array_equal(theirs.traj_feat, ours.traj_feat)
        assert np.array_equal(theirs.traj_type, ours.traj_type)

    files = run.files()
    assert len(files) == 3 * 64
    assert run.jobs() == {}


def test_shards_are_packed_by_jobs_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    names = [f"set/c/v{number}.mkv" for number in range(6)]
    for number, name in enumerate(names):
        clip(tmp_path / "data" / name, frames=12, seed=number)
    shard = {"videos": 3, "one_pass": True, "pack": True}
    run = Run(tmp_path, cluster, names, flow=FLOW, shard=shard, run={"workers": 1})
    assert run.jobs() == {"motion_shard": 2, "pack_shard": 2}
    run.run(gpus=4)
    assert not run.files() and run.jobs() == {}
    packs = Packs(Outputs(run.output))
    assert sorted(packs.videos) == names and not packs.damaged
    assert all(packs.has_flow(name, "mp4") and packs.has_trajectories(name, 6) for name in names)


def test_only_what_is_missing_after_deaths(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four shards of long videos: a job reaches its time limit, one is stopped by SIGUSR1, one is
    cancelled, a node dies; the next run makes the rest, and does not touch good files."""
    names = [f"set/c/v{number:02d}.mkv" for number in range(40)]
    (tmp_path / "data/set/c").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(install_slow_estimator(tmp_path / "plugins")))
    # A short video first, so that something is done soon; the others last until the job is interrupted.
    long, short = (clip(tmp_path / f"{frames}.mkv", frames=frames) for frames in (600, 20))
    for number, name in enumerate(names):
        shutil.copy(short if number % 10 == 0 else long, tmp_path / "data" / name)
    shards = [f"{number:05d}" for number in range(4)]
    run = Run(
        *(tmp_path, cluster, names),
        flow={"estimator": "slow", "camera": "none"},
        shard={"videos": 10, "one_pass": True},
        run={"workers": 1, "batch": 4},
    )
    # Every job has its own node; Slurm does not requeue a job whose node dies.
    process = run.start(gpus=4, requeue=False)
    records = {name: run.output / "records/list.txt" / f"motion-{name}.csv" for name in shards}

    def begun(name: str) -> bool:
        return records[name].exists() and len(records[name].read_text().splitlines()) > 1

    killed = ""
    for name, end in zip(shards, ("time", "signal", "cancel", "node"), strict=True):
        wait_until(lambda name=name: begun(name), f"the first video of shard {name}")  # type: ignore[misc]
        job = run.job_of(name)
        if end == "node":
            killed = run.node_of(job)
            cluster.kill_node(killed)
        elif end == "cancel":
            cluster.command("scancel", job)
        elif end == "time":
            # The profile requests SIGTERM two minutes before the limit: at the next check, twice per minute.
            cluster.command("scontrol", "update", f"job={job}", "TimeLimit=2")
        else:
            cluster.command("scancel", "--signal=USR1", job)
    assert process.wait() == 1, (tmp_path / "snakemake.out").read_text()
    cluster.revive_node(killed)

    done = {video for (video, status) in run.counts("motion") if status == "done"}
    assert 4 <= len(done) < len(names)
    for log in run.logs("motion")[:2]:
        assert "stopped before the end" in log
    files = run.files()
    assert {f"trajs/{video}_6.gz" for video in done} <= set(files)
    assert run.jobs() == {"motion_shard": 4}

    # The node may have died between two files of a video: that one is incomplete and made again.
    parts = {name: {f"trajs/{name}_6.gz", f"flows/{name}/x.mp4", f"flows/{name}/y.mp4"} for name in names}
    whole = {name for name, its_files in parts.items() if its_files <= set(files)}
    good = {path for name in whole for path in parts[name]}
    for name in set(names) - whole:
        # The videos were long enough.
        shutil.copy(short, tmp_path / "data" / name)
    run.run(gpus=4, requeue=False)
    counts = run.counts("motion")
    for name in names:
        # A video is made once; one line of the records may be lost with the dead node.
        assert counts[name, "done"] == 1 or (counts[name, "kept"] == 1 and name in whole)
        assert counts[name, "kept"] == (name in whole)
        assert counts[name, "failed"] == counts[name, "rejected"] == 0
    after = run.files()
    assert len(after) == 3 * len(names)
    assert {path: after[path] for path in good} == {path: files[path] for path in good}
    assert run.jobs() == {}
