"""The workflow in a folder made by `m3flow init`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from m3flow.cli import app
from support.clips import clip, write_list


def test_the_workflow_runs_in_a_folder_of_its_own(tmp_path: Path) -> None:
    app(["init", str(tmp_path / "run")], standalone_mode=False)
    clip(tmp_path / "data/one.mkv")
    write_list(tmp_path / "run/videos.csv", ["one.mkv"])

    def snakemake(*arguments: str) -> str:
        command = [sys.executable, "-m", "snakemake", *arguments, "--config", "root=../data"]
        command.append("flow={estimator: dis, camera: none}")
        done = subprocess.run(command, cwd=tmp_path / "run", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert re.search(r"^flow_shard +1$", snakemake("--dry-run", "--profile", "slurm"), re.MULTILINE)
    text = snakemake()
    assert "profiles/default" in text
    assert "m3flow: 1 done of 1 videos" in text
    found = {str(path.relative_to(tmp_path / "run/results")) for path in tmp_path.glob("run/results/*/**/*")}
    assert {"flows/one.mkv/x.mp4", "flows/one.mkv/y.mp4", "trajs/one.mkv_6.gz"} <= found
