"""One word for the settings of the original extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m3flow.cli import app
from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment
from m3flow.flow import ESTIMATORS
from m3flow.results.stored_flow import read_provenance
from m3flow.results.trajectoryfile import load_trajectories
from support.clips import clip

CUDA_DEFAULTS = {"scale": 0.5, "levels": 5, "window": 13, "iterations": 10, "poly_n": 5, "poly_sigma": 1.1}
"""Of cv2.cuda_FarnebackOpticalFlow, by OpenCV's documentation."""


def test_a_configuration_that_sets_the_same_keys() -> None:
    config = {
        "videos": "list.csv",
        "preset": "original",
        "flow": {"estimator": "dis", "scheme": "auto", "keep": False},
        "trajectories": {"tracking": "subpixel", "length": 8},
    }
    experiment = Experiment.of(config)
    assert (experiment.flow.estimator, experiment.flow.scheme, experiment.flow.codec) == (
        "farneback", "two-pass", "mpeg4",
    )  # fmt: skip
    assert not experiment.flow.dither
    assert (experiment.trajectories.tracking, experiment.trajectories.length) == ("integer", 8)
    assert not experiment.keep_flow
    parameters = ESTIMATORS["farneback"].parameters.of("farneback", experiment.flow.parameters).as_dict()
    assert CUDA_DEFAULTS.items() <= parameters.items()
    assert Experiment.of({**config, "preset": "none"}).flow.estimator == "dis"
    kept = Experiment.of(config, kept={"flow.scheme", "flow.parameters.levels"})
    assert (kept.flow.estimator, kept.flow.scheme) == ("farneback", "auto")
    with pytest.raises(UsageError, match="none, original"):
        Experiment.of({**config, "preset": "seed"})


def test_the_command_line(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mkv")
    call = [
        str(video),
        "--root",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
        "--parts",
        "1",
        "--workers",
        "1",
    ]
    for command, more in (("flow", ["--bound", "10"]), ("trajectories", [])):
        done = CliRunner().invoke(app, [command, *call, "--preset", "original", *more])
        assert done.exit_code == 0, done.output
    made = read_provenance(tmp_path / "out/flows/clip.mkv/x.mp4")["settings"]
    # An option that is given wins over the preset.
    assert (made["estimator"], made["scheme"], made["bound"]) == ("farneback", "two-pass", 10)
    trajectories = load_trajectories(tmp_path / "out/trajs/clip.mkv_6.gz")
    assert trajectories.made["settings"]["tracking"] == "integer"
    assert trajectories.traj_feat.dtype == np.int8
    assert isinstance(CliRunner().invoke(app, ["flow", *call, "--preset", "seed"]).exception, UsageError)
