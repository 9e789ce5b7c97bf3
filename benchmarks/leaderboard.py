"""Ways to trajectories side by side: estimators, trackings, cameras, confidences, and the codec's vectors.

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
from pathlib import Path
from typing import Any

import cv2
import torch

import machine
from m3flow.flow import ESTIMATORS
from m3flow.scoring.estimators import LENGTH, Scored, pooled, score_estimator, score_motion_vectors
from m3flow.scoring.scenes import SCENES, make_scene

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results" / "leaderboard.json"
PAGE = BENCHMARKS.parent / "docs" / "leaderboard.md"
TRACKINGS = ("subpixel", "integer")
CONFIDENCES = ("none", "photometric", "forward-backward")
MOVING_CAMERA = [name for name in SCENES if name not in ("still", "object")]
Way = tuple[str, str, str, str, bool]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
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
        for codec in ("libx264", "mpeg4"):
            row = score_motion_vectors(scene, codec)
            ways[way(row)].append(row)
        for name in estimators:
            scored = list(
                score_estimator(scene, name, trackings=TRACKINGS, confidences=CONFIDENCES, fine=(False, True))
            )
            if scene_name in MOVING_CAMERA:
                scored += score_estimator(scene, name, camera="warp")
            for row in scored:
                if row.confidence == "none" or (row.tracking == "subpixel" and not row.fine):
                    ways[way(row)].append(row)
            print(scene_name, name, flush=True)
    return [
        {
            **dict(zip(("estimator", "camera", "tracking", "confidence", "fine"), key, strict=True)),
            **pooled(rows),
        }
        for key, rows in ways.items()
    ]


def way(row: Scored) -> Way:
    return row.estimator, row.camera, row.tracking, row.confidence, row.fine


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
    rows = [row for row in result["rows"] if row["camera"] == "warp"]
    rows.sort(key=lambda row: row["residual_camera"])
    return markdown(
        ["", "step 1", "step 6", "left of the camera's motion", "s"],
        [
            [
                row["estimator"],
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


def is_plain(row: dict[str, Any]) -> bool:
    wanted = {"camera": "none", "tracking": "subpixel", "confidence": "none", "fine": False}
    return all(row[key] == value for key, value in wanted.items())


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
    "ways": ways_table,
    "camera": camera_table,
    "confidence": confidence_table,
    "machine": machine_line,
}

if __name__ == "__main__":
    main()
