"""The one command for GPU machines, tried on a CPU with little more than torch, NumPy and OpenCV."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.paths import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"
# Python runs a module of this name at its start, in worker processes too.
WITHOUT_PACKAGES = """
import sys

class Missing:
    names = "av h5py isal jsonschema PIL pytest rich scipy skimage snakemake torchvision typer yaml".split()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in Missing.names else found(name, package)
"""


def run(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    output = folder / "gpu.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", output],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    result = json.loads(output.read_text()) if output.exists() else {}
    return done.returncode, result, done.stdout + done.stderr


@pytest.mark.slow
def test_every_section_runs_without_the_other_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PACKAGES)
    status, result, text = run(tmp_path, "--smoke", "--device", "cpu")
    assert status == 0, text
    measured = {(row["estimator"], row["how"]) for row in result["speed"]["rows"]}
    assert {("farneback", "opencv, 1 core"), ("farneback", "torch"), ("dis", "torch")} <= measured
    assert set(result["speed"]["fused_kernels"].values()) == {False}
    assert min(result["camera"]["pairs_per_s"].values()) > 0
    assert {name: set(of) for name, of in result["graphs"]["pairs_per_s"].items()} == {
        "farneback": {"without", "with"},
        "dis": {"without", "with"},
    }
    assert result["out_of_memory"] | {"seconds": 0} == {
        "pairs": 32,
        "of": 32,
        "fitting": 8,
        "errors": [],
        "seconds": 0,
    }
    assert result["equality"]["trajectories_identical"] == {"subpixel": True, "integer": True}
    assert set(result["workers"]["frames_per_s"]) == {"1", "2"} and result["workers"]["store"] == "jpg"
    (case,) = result["node"]["cases"].values()
    assert case["frames_per_s"] > 0 and case.keys() >= {"share_of_floor", "share_of_floor_with_tracking"}
    assert result["tests"]["left_out"] == ["pytest is not installed"]
    assert "| dis | 80x64 | torch |" in (tmp_path / "gpu.md").read_text()

    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    tables = importlib.import_module("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "gpu_predictions.json").write_text(
        (SCRIPT.parent / "results/gpu_predictions.json").read_text()
    )
    (tmp_path / "gpu-tried.json").write_text(json.dumps(result))
    assert tables.gpu().startswith("Predicted, not measured")  # a smoke run measures nothing
    (tmp_path / "gpu-tried.json").write_text(json.dumps(result | {"smoke": False}))
    table = tables.gpu()
    best = max(
        row["pairs_per_s"]
        for row in result["speed"]["rows"]
        if (row["estimator"], row["how"]) == ("dis", "torch")
    )
    assert "| dis | 80x64 | " in table and f"{best:,.0f}" in table and "Predicted" not in table
    assert f"| dis, camera warp | {case['frames_per_s']:,.0f} | {case['share_of_floor']:.2f} |" in table
    assert f"| dis | {result['graphs']['pairs_per_s']['dis']['without']:,.0f} | " in table
    # A run whose first section failed has the others.
    partial = {"speed": {"error": "exit status 1"}, "node": result["node"], "machine": result["machine"]}
    assert tables.gpu_measured(partial).startswith("| node |")


@pytest.mark.slow
def test_a_section_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    """The device does not exist."""
    options = ("--smoke", "--device", "cuda:77", "--only", "memory", "out_of_memory")
    status, result, _ = run(tmp_path, *options)
    assert status == 1
    for name in options[-2:]:
        assert result[name]["error"].startswith("exit status 1: ")


@pytest.mark.slow
def test_a_section_ends_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    gpu = importlib.import_module("gpu")
    assert gpu.run("tests", "cpu", smoke=True, seconds=1)["error"] == "not finished after 1 s"
    status, result, _ = run(tmp_path, "--smoke", "--minutes", "0", "--only", "speed")
    assert status == 1 and result["speed"] == {"error": "no time left"}
