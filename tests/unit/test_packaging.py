"""The content of the package: the workflow, the conda file, the links in src/m3flow/project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from m3flow.cli import app
from m3flow.cli.init import FILES
from m3flow.errors import UsageError
from support.paths import REPOSITORY

PROJECT = REPOSITORY / "src/m3flow/project"
# Packages with another name on conda-forge.
CONDA_NAMES = {"isal": "python-isal", "opencv-contrib-python-headless": "opencv", "torch": "pytorch"}
# Needed to run the workflow, not by its jobs.
NOT_IN_JOBS = {"snakemake", "snakemake-executor-plugin-slurm", "submitit"}


def test_the_conda_file_has_the_requirements_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    expected = {"python": project["requires-python"]}
    for requirement in project["dependencies"]:
        name, version = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()  # type: ignore[union-attr]
        if name not in NOT_IN_JOBS:
            expected[CONDA_NAMES.get(name, name)] = version
    environment = yaml.safe_load((REPOSITORY / "workflow/envs/m3flow.yaml").read_text())
    assert dict(line.split(" ") for line in environment["dependencies"]) == expected


def test_the_links_lead_to_the_workflow_of_the_clone() -> None:
    for name in ("Snakefile", "config.yaml", "profiles", "workflow"):
        assert (PROJECT / name).is_symlink()
        assert (PROJECT / name).resolve() == REPOSITORY / name
    assert (REPOSITORY / "slurm").resolve() == REPOSITORY / "profiles/slurm"


def test_init_makes_a_folder_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["init", str(tmp_path / "run")], standalone_mode=False)
    assert "snakemake --dry-run" in capsys.readouterr().out
    found = {
        str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    assert found == set(FILES)
    assert (tmp_path / "run/config.yaml").read_text() == (REPOSITORY / "config.yaml").read_text()
    (tmp_path / "run/Snakefile").unlink()
    with pytest.raises(UsageError, match=r"config\.yaml: exists already"):
        app(["init", str(tmp_path / "run")], standalone_mode=False)
    assert not (tmp_path / "run/Snakefile").exists()
