"""A Slurm for the tests of this folder, started once; without it they are skipped, saying why."""

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
    # A short path: the name of a socket may have some hundred characters only.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of this folder; all of them run in the one process that has started the Slurm."""
    item.add_marker(pytest.mark.slurm)
    item.add_marker(pytest.mark.xdist_group("slurm"))
