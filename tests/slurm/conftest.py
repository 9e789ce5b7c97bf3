"""A Slurm for the tests of this folder, started once; without it they are skipped with a reason."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.cluster import Cluster, missing


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    # A short path: socket names are limited to about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of this folder; all of them run in the process that started the Slurm."""
    item.add_marker(pytest.mark.slurm)
    item.add_marker(pytest.mark.xdist_group("slurm"))
