"""The public names of the package, on which users may rely."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

from support.paths import REPOSITORY

PUBLIC = {
    "m3flow": """
        BadInput Extractor FlowSettings Interrupted Outputs Record Trajectories TrajectorySettings UsageError
        Video VideoList Work __version__ camera_of execute homographies_of load_flow load_trajectories quantise
        read_made read_provenance read_records restore
    """,
    "m3flow.flow": """
        BroxParameters DISParameters ESTIMATORS Entry Estimator FarnebackParameters RAFTParameters TVL1Parameters
        estimator
    """,
    "m3flow.camera": "Motion MotionEstimator camera_flow camera_motion put_camera_back remove_camera",
    "m3flow.trajectories": """
        MotionVectors Tracker read_motion_vectors track trajectories_from_motion_vectors
    """,
    "m3flow.data": "ClipStream FlowClips TrajectoryClips",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these_and_are_there(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", PUBLIC)
def test_the_api_page_documents_public_names_alone(package: str) -> None:
    page = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    documented = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", page, re.MULTILINE))
    undocumented = {"__version__", "ESTIMATORS"}
    assert documented == set(PUBLIC[package].split()) - undocumented
    assert all(name.rpartition(".")[0] in PUBLIC for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE))


@pytest.mark.parametrize(
    "statement",
    ["import m3flow", "from m3flow.flow import estimator; estimator('dis', backend='opencv')"],
)
def test_torch_is_not_imported_without_need(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
