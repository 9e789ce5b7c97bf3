"""Jobs that Slurm itself puts back into its queue: by hand, and after the death of their node."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slurm.cluster import Cluster
from slurm.runs import Run, wait_until
from support.clips import clip
from support.slow_estimator import install_slow_estimator

FLOW = {"estimator": "slow", "camera": "none"}


def test_a_requeued_job_goes_on_where_it_was(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install_slow_estimator(tmp_path / "plugins")))
    names = [f"set/c/v{number:02d}.mkv" for number in range(20)]
    (tmp_path / "data/set/c").mkdir(parents=True)
    long, short = (clip(tmp_path / f"{frames}.mkv", frames=frames) for frames in (600, 20))
    for number, name in enumerate(names):
        # A short one first, so that something is done soon; then there is time to lose the job.
        shutil.copy(short if number % 10 == 0 else long, tmp_path / "data" / name)
    run = Run(tmp_path, cluster, names, flow=FLOW, shard={"videos": 10, "one_pass": True}, run={"workers": 1})
    # A job has a node to itself.
    process = run.start(gpus=4)
    jobs = {}
    for shard in ("00000", "00001"):
        records = run.output / "records/list.txt" / f"motion-{shard}.csv"
        wait_until(lambda path=records: path.exists() and path.read_text().count("\n") > 1, f"shard {shard}")  # type: ignore[misc]
        jobs[shard] = run.job_of(shard)
    dead = run.node_of(jobs["00001"])
    cluster.kill_node(dead)
    cluster.command("scontrol", "requeue", jobs["00000"])
    done = {video for video, status in run.counts("motion") if status == "done"}
    for name in set(names) - done:
        # Enough was long; a video that is being read as it is replaced is tried again by the requeued job.
        shutil.copy(short, tmp_path / "data" / f"{name}.new")
        (tmp_path / "data" / f"{name}.new").rename(tmp_path / "data" / name)
    for job in jobs.values():
        wait_until(
            lambda job=job: cluster.command("squeue", "-h", "-j", job, "-o", "%T").strip() == "PENDING", job
        )  # type: ignore[misc]
        # Slurm itself waits for two minutes.
        cluster.command("scontrol", "update", f"job={job}", "StartTime=now")
    assert process.wait() == 0, (tmp_path / "snakemake.out").read_text()
    cluster.revive_node(dead)

    counts = run.counts("motion")
    for name in names:
        # Made once; the node that died may have taken the line of a video whose files were complete.
        assert counts[name, "done"] == 1 or counts[name, "kept"] == 1
    assert done and all((counts[name, "done"], counts[name, "kept"]) == (1, 1) for name in done)
    assert len(run.files()) == 3 * len(names)
    text = (tmp_path / "snakemake.out").read_text()
    assert "m3flow: 20 done of 20 videos" in text
    assert run.jobs() == {}
