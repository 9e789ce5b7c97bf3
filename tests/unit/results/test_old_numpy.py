"""A trajectory file read by the consumers' NumPy, 1.24.4, in an otherwise empty environment."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from m3flow.results.trajectoryfile import TrajectoryWriter

pytestmark = pytest.mark.slow

WANTED = "numpy==1.24.4"

READER = """
import gzip, hashlib, json, pickle, sys
import numpy
with gzip.open(sys.argv[1]) as file:
    content = pickle.load(file)
arrays = {key: content[key] for key in sys.argv[2:]}
for array in arrays.values():
    assert type(array) is numpy.ndarray and array.flags.writeable and array.flags.c_contiguous
print(json.dumps({
    "numpy": numpy.__version__,
    **{key: [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
       for key, array in arrays.items()},
}))
"""


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with only NumPy 1.24.4."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"{WANTED} is tested on Python 3.11, not {sys.version_info[0]}.{sys.version_info[1]}")
    folder = tmp_path_factory.mktemp("old_numpy")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--no-deps", WANTED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not get {WANTED} within 3 minutes")
    if done.returncode:
        pytest.skip(f"pip cannot get {WANTED}: {done.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("windows", [9, 0])
def test_it_loads_with_plain_gzip_and_pickle(
    old_python: Path, tmp_path: Path, windows: int, more: bool
) -> None:
    random = np.random.default_rng(0)
    feat = random.integers(-20, 21, (12, windows, 30, 40)).astype(np.int8)
    kind = np.ones((windows, 30, 40), np.uint8)
    conf = random.integers(0, 256, (6, windows, 30, 40)).astype(np.uint8)
    fine = random.integers(-400, 401, (12, windows, 30, 40)).astype(np.int16)
    with TrajectoryWriter(
        tmp_path / "a_6.gz", length=6, rows=30, columns=40, confidence=more, fine=more
    ) as writer:
        writer.write(feat, kind, *((conf, fine) if more else ()))
        writer.close({"settings": {"length": 6}})
    others = {
        "traj_conf": ["uint8", [6, windows, 30, 40], hashlib.sha256(conf.tobytes()).hexdigest()],
        "traj_fine": ["int16", [12, windows, 30, 40], hashlib.sha256(fine.tobytes()).hexdigest()],
    }
    keys = ["traj_feat", "traj_type", *(others if more else ())]
    command = [old_python, "-I", "-c", READER, tmp_path / "a_6.gz", *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "numpy": "1.24.4",
        "traj_feat": ["int8", [12, windows, 30, 40], hashlib.sha256(feat.tobytes()).hexdigest()],
        "traj_type": ["uint8", [windows, 30, 40], hashlib.sha256(kind.tobytes()).hexdigest()],
        **(others if more else {}),
    }
    # Guards against pickling arrays with today's NumPy, which does not load there.
    (tmp_path / "plain.gz").write_bytes(gzip.compress(pickle.dumps({"traj_feat": feat, "traj_type": kind})))
    command[4] = tmp_path / "plain.gz"
    assert "numpy._core" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
