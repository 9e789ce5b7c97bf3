"""Paths of the repository and of the real footage that tests use."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
DEMO_CLIPS = REPOSITORY / "demo" / "clips"
