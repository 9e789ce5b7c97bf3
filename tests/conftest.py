"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from m3flow.flow.device import gpu_count

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and ground truth beside the checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real clips and ground truth are not on this machine ({SHARED_DATA})")
    return SHARED_DATA


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` is skipped without one, or fails where M3FLOW_REQUIRE_GPU=1 says that there is one."""
    if item.get_closest_marker("gpu") is None or gpu_count():
        return
    if os.environ.get("M3FLOW_REQUIRE_GPU") == "1":
        pytest.fail("torch sees no GPU, and M3FLOW_REQUIRE_GPU=1")
    pytest.skip("torch sees no GPU")
