"""The workflow with flow in another form, with an estimator of another package, and with RAFT."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from m3flow import load_flow, load_trajectories
from m3flow.errors import UsageError
from m3flow.flow import estimator
from m3flow.results.stored_flow import read_provenance
from m3flow.videos.frames import Frames
from support.clips import moving_texture, write_list, write_lossy_video
from support.paths import REPOSITORY

FILE = re.compile(r"<!-- run: write (?P<name>m3flow-phase/\S+) -->\n```\w*\n(?P<code>.*?)```", re.DOTALL)


def snakemake(folder: Path, flow: str, *arguments: str, plugins: Path | None = None) -> str:
    """Run the workflow on folder/data; returns what it printed."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
        *("--configfile", str(REPOSITORY / "config.yaml"), "--directory", str(folder)),
        *("--workflow-profile", str(REPOSITORY / "profiles/default"), "--cores", "1", *arguments),
        *("--config", f"videos={folder / 'list.txt'}", f"root={folder / 'data'}", "output=results"),
        f"flow={flow}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(plugins)} if plugins else None
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def listed(folder: Path, height: int = 64, width: int = 72, frames: int = 9) -> Path:
    """A folder with one video and its list; returns where its flow will lie."""
    write_lossy_video(folder / "data/a/clip.mp4", moving_texture(frames, height, width, dx=2, dy=1))
    write_list(folder / "list.txt", ["a/clip.mp4"])
    return folder / "results/flows/a/clip.mp4"


def test_flow_in_another_form(tmp_path: Path) -> None:
    flow = listed(tmp_path)
    settings = "{estimator: dis, parameters: {preset: ultrafast}, store: jpg}"
    snakemake(tmp_path, settings)
    assert (flow / "jpg/flow_x_00007.jpg").is_file() and load_flow(flow).shape == (8, 2, 64, 72)
    trajectories = load_trajectories(tmp_path / "results/trajs/a/clip.mp4_6.gz")
    assert trajectories.made["flow"]["store"] == "jpg"
    # What stands for the whole folder is made.json.
    (flow / "jpg/made.json").unlink()
    assert re.search(r"^flow +1$", snakemake(tmp_path, settings, "--dry-run"), re.MULTILINE)
    # Another form takes its place.
    snakemake(tmp_path, settings.replace("jpg", "npz"))
    assert [path.name for path in flow.iterdir() if path.suffix == ".npz"] == ["flow.npz"]
    assert read_provenance(flow)["settings"]["store"] == "npz"


def test_an_estimator_of_another_package(tmp_path: Path) -> None:
    """The package of docs/adding-an-estimator.md, installed into a folder and named in the configuration."""
    page = (REPOSITORY / "docs/adding-an-estimator.md").read_text(encoding="utf-8")
    for match in FILE.finditer(page):
        path = tmp_path / match["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(match["code"], encoding="utf-8")
    plugins = tmp_path / "plugins"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(plugins), str(tmp_path / "m3flow-phase")], check=True)
    flow = listed(tmp_path)
    snakemake(tmp_path, "{estimator: phase, camera: none}", plugins=plugins)
    assert read_provenance(flow)["settings"]["parameters"] == {"hann": True}
    assert np.abs(load_flow(flow)[:, 0] - 2).max() < 0.3


@pytest.mark.slow
def test_raft(tmp_path: Path) -> None:
    from m3flow.flow import raft

    try:
        models = raft.torchvision_flow()
    except UsageError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    torch.save(models.raft_small().state_dict(), tmp_path / "weights.pth")
    flow = listed(tmp_path, 128, 128, frames=4)
    parameters = {"weights": str(tmp_path / "weights.pth"), "updates": 1}
    written = f"{{weights: {parameters['weights']}, updates: 1}}"
    snakemake(tmp_path, f"{{estimator: raft_small, parameters: {written}, camera: none, store: flo}}")
    frames = np.stack(list(Frames(tmp_path / "data/a/clip.mp4", picture="colour")))
    expected = estimator("raft_small", device="cpu", **parameters).sequence(frames)
    assert np.abs(load_flow(flow) - expected).max() < 1e-3
