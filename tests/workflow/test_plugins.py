"""The packages of docs/adding-an-estimator.md, through every command and with ptlflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from m3flow import load_flow
from m3flow.errors import UsageError
from m3flow.results.stored_flow import read_provenance
from m3flow.videos.frames import Frames
from support.clips import moving_texture, write_list, write_lossy_video
from support.paths import REPOSITORY

FILE = re.compile(
    r"<!-- run: write (?P<name>(?P<package>m3flow-\w+)/\S+) -->\n```\w*\n(?P<code>.*?)```", re.DOTALL
)


def installed(package: str, folder: Path) -> Path:
    """The package of the page, installed into a folder; returns the folder."""
    page = (REPOSITORY / "docs/adding-an-estimator.md").read_text(encoding="utf-8")
    for match in FILE.finditer(page):
        if match["package"] == package:
            path = folder / match["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(match["code"], encoding="utf-8")
    plugins = folder / "plugins"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(plugins), str(folder / package)], check=True)
    return plugins


def m3flow(folder: Path, plugins: Path, *arguments: str) -> str:
    """Run a command in a folder; returns what it printed."""
    command = [sys.executable, "-c", "from m3flow.cli import main\nif __name__ == '__main__': main()"]
    paths = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_calibrate_plan_status_verify_and_report(tmp_path: Path) -> None:
    plugins = installed("m3flow-phase", tmp_path)
    names = ["a/one.mp4", "a/two.mp4"]
    for name in names:
        write_lossy_video(tmp_path / "data" / name, moving_texture(9, 64, 72, dx=2, dy=1))
    write_list(tmp_path / "list.txt", names)
    (tmp_path / "config.yaml").write_text(
        "videos: list.txt\nroot: data\nflow: {estimator: phase, camera: none, parameters: {hann: true}}\n"
    )
    m3flow(tmp_path, plugins, "calibrate")
    calibration = json.loads((tmp_path / "calibration.json").read_text())
    settings = calibration["settings"]
    assert "phase" in json.dumps(settings) and calibration["sizes"]
    assert "2 videos" in m3flow(tmp_path, plugins, "plan")
    flow = ("flow", "list.txt", "--root", "data", "--output", "results", "--camera", "none")
    m3flow(tmp_path, plugins, *flow, "--estimator", "phase", "--set", "hann=true")
    assert "2" in m3flow(tmp_path, plugins, "status")
    for name in names:
        made = read_provenance(tmp_path / "results/flows" / name)
        assert made["settings"]["parameters"] == {"hann": True}
        assert np.abs(load_flow(tmp_path / "results/flows" / name)[:, 0] - 2).max() < 0.4
    m3flow(tmp_path, plugins, "trajectories", "list.txt", "--root", "data", "--output", "results")
    assert "verify: 2 ok of 2 videos" in m3flow(tmp_path, plugins, "verify", "--config", "config.yaml")
    m3flow(tmp_path, plugins, "report", "--output", "results")
    assert "phase" in (tmp_path / "results/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_network_of_ptlflow(tmp_path: Path) -> None:
    if find_spec("ptlflow") is None:
        pytest.skip("ptlflow is not installed")
    from m3flow.flow import raft

    try:
        raft.torchvision_flow()
    except UsageError as error:
        pytest.skip(str(error))
    import ptlflow

    torch.manual_seed(0)
    network = ptlflow.get_model("raft_small").eval()
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": {}}, tmp_path / "w.ckpt")
    video = write_lossy_video(tmp_path / "clip.mp4", moving_texture(3, 131, 150, dx=2, dy=1))
    plugins = installed("m3flow-ptlflow", tmp_path)
    how = ("--estimator", "ptlflow", "--set", "model=raft_small", "--set", "checkpoint=w.ckpt")
    more = ("--camera", "none", "--store", "flo", "--device", "cpu", "--parts", "1")
    m3flow(tmp_path, plugins, "flow", "clip.mp4", "--output", ".", *how, *more)
    frames = np.stack(list(Frames(video, picture="colour")))
    bgr = torch.from_numpy(frames[..., ::-1].copy()).permute(0, 3, 1, 2)
    expected = []
    with torch.no_grad():
        for pair in (bgr[:2], bgr[1:]):
            expected.append(network({"images": pair[None] / 255})["flows"][0, 0].numpy())
    found = load_flow(tmp_path / "flows/clip.mp4")
    # Two pairs in one batch.
    assert np.abs(found - np.stack(expected)).max() < 1e-3 * np.abs(found).max() + 1e-3
    stored = read_provenance(tmp_path / "flows/clip.mp4")["settings"]["parameters"]
    assert stored["model"] == "raft_small" and stored["checkpoint"].startswith("sha256:")
