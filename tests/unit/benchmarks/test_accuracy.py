"""Trajectories of exact flow against exact positions, and the figures on the accuracy page."""

from __future__ import annotations

import json

import numpy as np
import pytest

import accuracy_table
from accuracy import stored
from m3flow.scoring.judge import LENGTH, Judge
from m3flow.scoring.scenes import SCENES, make_scene
from m3flow.trajectories.tracking import track


@pytest.mark.parametrize("name", [name for name in SCENES if name != "cut"])
def test_subpixel_stays_at_the_rounding_limit(name: str) -> None:
    scene = make_scene(name, frames=8, height=96, width=128)
    judge = Judge(scene)
    exact = {t: np.asarray(track(scene.flow, length=LENGTH, tracking=t)[0]) for t in ("integer", "subpixel")}
    apart = np.abs(judge.ends(exact["subpixel"]) - judge.tracks[:, -1])[judge.smooth]
    assert len(apart) > 40
    # Half a pixel, plus errors of single precision and of interpolating curved flow.
    assert apart.max() < 0.51
    integer = judge.errors(exact["integer"])[judge.seen].mean()
    subpixel = judge.errors(exact["subpixel"])[judge.seen].mean()
    assert subpixel < integer or (name == "still" and subpixel == integer == 0)


def test_slow_motion_is_nothing_to_the_integer_tracker() -> None:
    scene = make_scene("slow", frames=8, height=96, width=128)
    judge = Judge(scene)
    assert not np.asarray(track(scene.flow, length=LENGTH, tracking="integer")[0]).any()
    subpixel = np.asarray(track(scene.flow, length=LENGTH)[0])
    assert judge(subpixel)["mean"] < 0.25 * judge.still()["mean"]


@pytest.mark.parametrize("codec", ["mpeg4", "h264-lossless"])
def test_storing_costs_less_than_a_pixel(codec: str) -> None:
    scene = make_scene("rotation", frames=8, height=96, width=128)
    judge = Judge(scene)
    whole, read = (
        judge(np.asarray(track(f, length=LENGTH)[0])) for f in (scene.flow, stored(scene.flow, codec))
    )
    assert whole["mean"] <= read["mean"] < whole["mean"] + 0.5


def test_the_page_holds_the_measured_numbers() -> None:
    page = accuracy_table.PAGE.read_text()
    result = json.loads(accuracy_table.RESULTS.read_text())
    assert accuracy_table.filled(page, result) == page, "run benchmarks/accuracy_table.py"
    for name in accuracy_table.TABLES:
        assert f"<!-- begin {name} -->" in page
    rows = {(r["on"], r["flow"], r["codec"], r["tracking"]): r["mean"] for r in result["trajectories"]}
    for (on, flow, codec, tracking), error in rows.items():
        if tracking == "integer":
            assert rows[on, flow, codec, "subpixel"] <= error, (on, flow, codec)
