"""The flow benchmark runs with one command and writes its results."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from support.paths import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "flow.py"


@pytest.mark.slow
def test_one_command_writes_rows_with_the_machine(tmp_path):
    output = tmp_path / "flow.json"
    options = shlex.split("--device cpu --estimators dis --sizes 320x240 --batches 1 2 --seconds 0")
    subprocess.run([sys.executable, SCRIPT, *options, "--output", output], check=True, cwd=tmp_path)
    result = json.loads(output.read_text())
    assert result["machine"]["cores"] >= 1 and result["machine"]["versions"]["torch"]
    assert result["bandwidth_gb_s"] > 0
    rows = {(row["how"], row["batch"]): row for row in result["rows"]}
    assert ("opencv, 1 core", 1) in rows
    for batch in (1, 2):
        row = rows["torch", batch]
        assert row["pairs_per_s"] > 0 and row["peak_memory_mib"] > 0
    assert rows["torch", 1]["against_opencv"]["median"] < 1
