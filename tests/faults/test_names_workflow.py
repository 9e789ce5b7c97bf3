"""Hostile file names through Snakemake and the report."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_names import NAMES, everything_in

from support.fault_cases import encode, results, run, statuses
from support.paths import REPOSITORY

# Each name costs two jobs, so special characters of Snakemake, shells and paths are combined.
FOR_JOBS = {
    "shell": "--x 'it\"s' $(touch escaped)`touch escaped`;%s *[a]? .mp4",
    "decomposed": NAMES["decomposed"],
    "tilde": NAMES["tilde"],
}


def listed(root: Path, names: dict[str, str]) -> Path:
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path"])
        for index, name in enumerate(names.values()):
            encode(root / "in" / str(index) / name, frames=9, seed=index)
            writer.writerow([f"{index}/{name}"])
    return root / "list.csv"


def snakemake(folder: Path, videos: Path, *config: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--configfile", str(REPOSITORY / "config.yaml"), "--directory", str(folder)),
            *("--workflow-profile", str(REPOSITORY / "profiles/default"), "--cores", "2", "--config"),
            *(f"videos={videos}", f"root={folder / 'in'}", f"output={folder / 'out'}"),
            "flow={estimator: dis, parameters: {preset: ultrafast}, camera: none}",
            *config,
        ],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize("granularity", ["video", "shard"])
def test_hostile_names_through_the_workflow(tmp_path: Path, granularity: str) -> None:
    names = NAMES if granularity == "shard" else FOR_JOBS
    videos = listed(tmp_path, names)
    done = snakemake(tmp_path, videos, f"granularity={granularity}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(results(tmp_path / "out")) == {
        path
        for index, name in enumerate(names.values())
        for path in (
            f"flows/{index}/{name}/x.mp4",
            f"flows/{index}/{name}/y.mp4",
            f"trajs/{index}/{name}_6.gz",
        )
    }
    outside = {
        os.path.relpath(path, tmp_path).split("/")[0] for path in everything_in(tmp_path) - {str(videos)}
    }
    assert outside <= {"in", "out", ".snakemake"}
    again = snakemake(tmp_path, videos, f"granularity={granularity}")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_names_that_snakemake_cannot_have_are_refused_or_done_in_shards(tmp_path: Path) -> None:
    videos = listed(
        tmp_path,
        {"braces": "{wildcard}{0}.mp4", "one brace": "a{b}}.mp4", "open": "a{.mp4", "lines": "a\nb.mp4"},
    )
    refused = snakemake(tmp_path, videos, "granularity=video")
    assert refused.returncode == 1 and not (tmp_path / "out").exists()
    lines = [line for line in refused.stderr.splitlines() if "braces or a line break in a name" in line]
    assert len(lines) == 3 and "granularity: shard" in lines[0]
    assert snakemake(tmp_path, videos, "granularity=shard").returncode == 0
    assert len(results(tmp_path / "out")) == 12
    refused = snakemake(tmp_path, videos, "granularity=shard", "output=o{u}t")
    assert refused.returncode == 1 and "rename it" in refused.stderr


def test_hostile_names_in_the_report(tmp_path: Path) -> None:
    videos = listed(tmp_path, NAMES)
    output = tmp_path / "out"
    quick = ("--estimator", "dis", "--set", "preset=ultrafast", "--camera", "none")
    assert run("flow", videos, "--root", tmp_path / "in", "--output", output, *quick).returncode == 0
    assert run("trajectories", videos, "--root", tmp_path / "in", "--output", output).returncode == 0
    assert len(statuses(output)) == 2 * len(NAMES)
    before = everything_in(tmp_path)
    done = run("report", videos, "--root", tmp_path / "in", "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = everything_in(tmp_path) - before
    pages = [Path(path) for path in written if path.endswith(".html")]
    assert pages and all(path.startswith(os.fspath(output)) for path in written)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "\x1b" not in text
        # A name that looks like markup is shown, not interpreted.
        assert "<b>&amp;<br>[bold]" not in text
