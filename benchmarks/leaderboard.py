"""Comparison of trajectory methods: estimators, trackings, cameras, confidences, and the codec's vectors.

    python benchmarks/leaderboard.py                       # about 15 minutes of one core
    python benchmarks/leaderboard.py --estimators dis farneback --scenes zoom
    python benchmarks/leaderboard.py --page                # only the page, from the stored numbers

On the exact scenes of `m3flow.scoring.scenes`, as `m3flow score --estimator` does. Writes
benchmarks/results/leaderboard.json, and the tables of docs/leaderboard.md from it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch

import machine
import tables
from m3flow.scoring.estimators import LENGTH, Scored, Way, pooled, score_estimator, score_motion_vectors
from m3flow.scoring.scenes import SCENES, make_scene

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results" / "leaderboard.json"
ACCURACY = BENCHMARKS / "results" / "accuracy.json"
PAGE = BENCHMARKS.parent / "docs" / "leaderboard.md"
ESTIMATORS = ("farneback", "tvl1", "dis", "brox")  # those that need no weights
TRACKINGS = ("subpixel", "integer")
SCHEMES = ("one-pass", "two-pass")
PUBLISHED = ("chairs", "rubberwhale", "sintel_alley_1")
CONFIDENCES = ("none", "photometric", "forward-backward")
MOVING_CAMERA = [name for name in SCENES if name not in ("still", "object")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(tables.ESTIMATORS))
    parser.add_argument("--page", action="store_true", help="make the page from the stored numbers")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the JSON")
    options = parser.parse_args()
    if not options.page:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        result = {"machine": machine.describe(), "length": LENGTH, "scenes": options.scenes}
        result["rows"] = measure(options.scenes, options.estimators)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), json.loads(options.output.read_text())))
    print(f"written: {PAGE}")


def measure(scenes: list[str], estimators: list[str]) -> list[dict[str, Any]]:
    ways: dict[Way, list[Scored]] = defaultdict(list)
    for scene_name in scenes:
        scene = make_scene(scene_name)
        scored = [score_motion_vectors(scene, codec) for codec in ("libx264", "mpeg4")]
        for name in estimators:
            whole = score_estimator(
                scene, name, trackings=TRACKINGS, confidences=CONFIDENCES, fine=(False, True)
            )
            scored += [row for row in whole if row.way.confidence == "none" or is_plain(asdict(row.way), ())]
            if scene_name in MOVING_CAMERA:
                for scheme in SCHEMES:
                    scored += score_estimator(scene, name, camera="warp", scheme=scheme)
            print(scene_name, name, flush=True)
        for row in scored:
            ways[row.way].append(row)
    return [{**asdict(way), **pooled(rows)} for way, rows in ways.items()]


def filled(page: str, result: dict[str, Any]) -> str:
    """The page with each `<!-- begin NAME -->` … `<!-- end NAME -->` holding the table NAME."""

    def table(match: re.Match[str]) -> str:
        return (
            f"<!-- begin {match['name']} -->\n{TABLES[match['name']](result)}\n<!-- end {match['name']} -->"
        )

    return re.sub(r"<!-- begin (?P<name>\S+) -->.*?<!-- end (?P=name) -->", table, page, flags=re.DOTALL)


def ways_table(result: dict[str, Any]) -> str:
    rows = [row for row in result["rows"] if row["camera"] == "none" and row["confidence"] == "none"]
    rows.sort(key=lambda row: row["error_visible"])
    return markdown(
        ["", "tracking", "step 1", "step 3", "step 6", "95th percentile", "wrong", "s", "MB"],
        [
            [
                row["estimator"],
                "subpixel, fine" if row["fine"] else row["tracking"],
                *(f"{row['error'][step - 1]:.2f}" for step in (1, 3)),
                f"{row['error_visible']:.2f}",
                f"{row['error_p95']:.2f}",
                f"{100 * row['wrong']:.1f} %",
                f"{row['seconds_per_1000_frames']:.1f}",
                f"{row['bytes_per_1000_frames'] / 1e6:.2f}",
            ]
            for row in rows
        ],
    )


def camera_table(result: dict[str, Any]) -> str:
    rows = [row for row in result["rows"] if row["camera"] == "warp" and row["scheme"] in SCHEMES]
    rows.sort(key=lambda row: row["residual_camera"])
    return markdown(
        ["", "scheme", "step 1", "step 6", "residual camera motion", "s"],
        [
            [
                row["estimator"],
                row["scheme"],
                f"{row['error'][0]:.2f}",
                f"{row['error_visible']:.2f}",
                f"{row['residual_camera']:.2f}",
                f"{row['seconds_per_1000_frames']:.1f}",
            ]
            for row in rows
        ],
    )


def confidence_table(result: dict[str, Any]) -> str:
    plain = {row["estimator"]: row for row in result["rows"] if is_plain(row)}
    rows = [row for row in result["rows"] if row["confidence"] != "none"]
    return markdown(
        ["", "confidence", "AUROC", "of visible", "upper half", "of visible", "time", "size"],
        [
            [
                row["estimator"],
                row["confidence"],
                f"{row['auroc']:.3f}",
                f"{row['auroc_visible']:.3f}",
                f"{row['upper_half']:.2f}",
                f"{row['upper_half_visible']:.2f}",
                ratio(row, plain[row["estimator"]], "seconds_per_1000_frames"),
                ratio(row, plain[row["estimator"]], "bytes_per_1000_frames"),
            ]
            for row in rows
        ],
    )


def choice_table(result: dict[str, Any]) -> str:
    """The error of each estimator on the scenes, published pairs and reference tracks, and its cost."""
    accuracy = json.loads(ACCURACY.read_text())
    compensated = {
        row["estimator"]: row
        for row in result["rows"]
        if (row["camera"], row["scheme"]) == ("warp", "one-pass")
    }
    rows = sorted(filter(is_plain, result["rows"]), key=lambda row: row["error_visible"])
    return markdown(
        ["", "step 6", "95th percentile", "wrong", "camera removed", "published pairs", "reference tracks", "s"],
        [
            [
                row["estimator"],
                f"{row['error_visible']:.2f}",
                f"{row['error_p95']:.2f}",
                f"{100 * row['wrong']:.1f} %",
                f"{compensated[row['estimator']]['error_visible']:.2f}",
                f"{published_error(accuracy, row['estimator']):.2f}",
                f"{reference_error(accuracy, row['estimator']):.2f}",
                f"{row['seconds_per_1000_frames']:.1f}",
            ]
            for row in rows
            if row["estimator"] in compensated
        ],
    )  # fmt: skip


def published_error(accuracy: dict[str, Any], name: str) -> float:
    """The mean end-point error over the published pairs."""
    errors = {row["on"]: row["epe"] for row in accuracy["flow"] if row["estimator"] == name}
    return sum(errors[pair] for pair in PUBLISHED) / len(PUBLISHED)


def reference_error(accuracy: dict[str, Any], name: str) -> float:
    """The mean distance to the tracks of Dense Trajectories after 6 steps."""
    settings = {"flow": name, "tracking": "subpixel", "median": False}
    (row,) = (row for row in accuracy["reference_tracks"] if row.items() >= settings.items())
    return float(row["mean_6"])


def is_plain(way: dict[str, Any], keys: Iterable[str] = ("confidence",)) -> bool:
    """Whether `way` has the default settings, apart from the estimator and keys not among `keys`."""
    defaults = {"camera": "none", "tracking": "subpixel", "fine": False, "confidence": "none"}
    return all(way[key] == defaults[key] for key in ("camera", "tracking", "fine", *keys))


def ratio(row: dict[str, Any], base: dict[str, Any], key: str) -> str:
    return f"{row[key] / base[key]:.2f}"


def machine_line(result: dict[str, Any]) -> str:
    about = result["machine"]
    versions = about["versions"]
    return (
        f"{len(result['scenes'])} scenes of 256x192; one of {about['cores']} cores of {about['cpu']}, "
        f"{about['date']}, OpenCV {versions.get('opencv-contrib-python-headless', '?')}, torch {versions['torch']}."
    )


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES = {
    "choice": choice_table,
    "ways": ways_table,
    "camera": camera_table,
    "confidence": confidence_table,
    "machine": machine_line,
}

if __name__ == "__main__":
    main()
