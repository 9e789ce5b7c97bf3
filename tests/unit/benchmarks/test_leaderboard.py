"""The leaderboard's page is what the stored numbers say, and these are what the page claims."""

from __future__ import annotations

import json

import pytest

import leaderboard
from m3flow.scoring.scenes import SCENES

RESULT = json.loads(leaderboard.RESULTS.read_text())


def test_the_page_holds_the_measured_numbers() -> None:
    page = leaderboard.PAGE.read_text()
    assert leaderboard.filled(page, RESULT) == page, "run benchmarks/leaderboard.py --page"
    for name in leaderboard.TABLES:
        assert f"<!-- begin {name} -->" in page
    assert RESULT["scenes"] == list(SCENES)
    assert {row["estimator"] for row in RESULT["rows"]} >= set(leaderboard.ESTIMATORS)


@pytest.mark.parametrize("confidence", ["photometric", "forward-backward"])
@pytest.mark.parametrize("estimator", leaderboard.ESTIMATORS)
def test_confidence_tells_wrong_from_right(estimator: str, confidence: str) -> None:
    wanted = {"estimator": estimator, "confidence": confidence}
    (row,) = (row for row in RESULT["rows"] if row.items() >= wanted.items())
    (plain,) = filter(leaderboard.is_plain, (r for r in RESULT["rows"] if r["estimator"] == estimator))
    assert row["auroc"] >= 0.9 and row["auroc_visible"] >= 0.9
    assert row["upper_half"] <= 0.5
    assert row["seconds_per_1000_frames"] < 2 * plain["seconds_per_1000_frames"]
