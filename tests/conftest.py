"""Fixtures shared by several test files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from m3flow.flow.device import gpu_count
from support.paths import DEMO_CLIPS, SHARED_DATA


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and ground truth next to the checkout; skips if it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real clips and ground truth are not on this machine ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(scope="session")
def demo_clips() -> Path:
    """The folder of the demo's real clips, fetched by `make test`; skips if they are absent."""
    if not DEMO_CLIPS.is_dir():
        pytest.skip("the demo's clips are missing; fetch them with `make demo/videos.csv`")
    return DEMO_CLIPS


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` is skipped without a GPU, or fails if M3FLOW_REQUIRE_GPU=1 requires one."""
    if item.get_closest_marker("gpu") is None or gpu_count():
        return
    if os.environ.get("M3FLOW_REQUIRE_GPU") == "1":
        pytest.fail("torch sees no GPU, and M3FLOW_REQUIRE_GPU=1")
    pytest.skip("torch sees no GPU")
