"""Updates the tables between the markers in docs/accuracy.md from benchmarks/results/accuracy.json.

python benchmarks/accuracy_table.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results" / "accuracy.json"
PAGE = BENCHMARKS.parent / "docs" / "accuracy.md"
Rows = list[dict[str, Any]]


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), json.loads(RESULTS.read_text())))
    print(f"written: {PAGE}")


def filled(page: str, result: dict[str, Any]) -> str:
    """The page with each `<!-- begin NAME -->` … `<!-- end NAME -->` holding the table NAME."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- begin {name} -->\n{TABLES[name](result)}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>\S+) -->.*?<!-- end (?P=name) -->", table, page, flags=re.DOTALL)


def flow_table(result: dict[str, Any]) -> str:
    rows = result["flow"]
    estimators = unique(row["estimator"] for row in rows)
    values = {(row["on"], row["estimator"]): f"{row['epe']:.2f}" for row in rows}
    return markdown(["", *estimators], [[on, *(values[on, e] for e in estimators)] for on in scenes(rows)])


def trajectory_table(result: dict[str, Any]) -> str:
    rows = result["trajectories"]
    columns = [
        ("points move", {"flow": "none"}),
        *(
            (f"{flow}, {tracking}", {"flow": flow, "codec": codec, "tracking": tracking})
            for flow, codec in (("exact", ""), ("farneback", "mpeg4"), ("dis", "mpeg4"))
            for tracking in ("integer", "subpixel")
        ),
        ("motion vectors (H.264)", {"flow": "motion vectors", "codec": "libx264"}),
    ]
    return markdown(
        ["", *(name for name, _ in columns)],
        [[on, *(mean_and_p95(find(rows, on=on, **wanted)) for _, wanted in columns)] for on in scenes(rows)],
    )


def codec_table(result: dict[str, Any]) -> str:
    rows = result["trajectories"]
    columns = [
        (f"{flow}{', ' + codec if codec else ''}", {"flow": flow, "codec": codec, "tracking": "subpixel"})
        for flow in ("exact", "farneback", "dis")
        for codec in ("", "h264-lossless", "mpeg4")
    ]
    return markdown(
        ["", *(name for name, _ in columns)],
        [[on, *(f"{find(rows, on=on, **w)['mean']:.2f}" for _, w in columns)] for on in scenes(rows)],
    )


def limit_table(result: dict[str, Any]) -> str:
    rows = result["trajectories"]
    wanted = {"flow": "exact", "codec": "", "tracking": "subpixel"}
    worst = [(on, find(rows, on=on, **wanted)["worst_component_where_smooth"]) for on in scenes(rows)]
    return markdown(["", "largest error of a component, px"], [[on, f"{value:.2f}"] for on, value in worst])


def reference_table(result: dict[str, Any]) -> str:
    rows = result.get("reference_tracks", [])
    return markdown(
        ["flow", "tracking", "median filter", "6 steps: mean", "median", "15 steps: mean", "median"],
        [
            [
                row["flow"],
                row["tracking"],
                "5x5" if row["median"] else "",
                *(f"{row[key]:.2f}" for key in ("mean_6", "median_6", "mean_15", "median_15")),
            ]
            for row in rows
        ],
    )


def median_table(result: dict[str, Any]) -> str:
    rows = result["experiments"]["median_filter"]
    cases = unique((row["flow"], row["noise"]) for row in rows)
    return markdown(
        ["flow", "noise, grey levels", "no filter", "3x3", "5x5"],
        [
            [flow, f"{noise:g}"]
            + [f"{mean(rows, 'mean', flow=flow, noise=noise, median=size):.3f}" for size in (0, 3, 5)]
            for flow, noise in cases
        ],
    )


def forward_backward_table(result: dict[str, Any]) -> str:
    rows = result["experiments"]["forward_backward"]
    header = ["", "flow", "disagree", "error where agree", "error where not", "all", "mean of both flows"]
    return markdown(
        header,
        [
            [
                row["on"],
                row["flow"],
                f"{100 * row['disagree']:.1f} %",
                *(
                    "" if row[key] is None else f"{row[key]:.2f}"
                    for key in ("mean_where_agree", "mean_where_not", "mean", "mean_of_both_flows")
                ),
            ]
            for row in rows
        ],
    )


def farneback_table(result: dict[str, Any]) -> str:
    return variants(result["experiments"]["farneback"], "parameters", "mean")


def bound_table(result: dict[str, Any]) -> str:
    return variants(result["experiments"]["bound"], "bound", "mean")


def follow_table(result: dict[str, Any]) -> str:
    rows = [row for row in result["experiments"]["follow"] if "object" in row["on"]]
    cases = unique((row["on"], row["flow"], row["part"]) for row in rows)
    followed = ("compensated flow", "pixels")
    return markdown(
        ["", "flow", "part", *(f"follow the {name}" for name in followed)],
        [
            [on, flow, part]
            + [mean_and_p95(find(rows, on=on, flow=flow, part=part, follows=name)) for name in followed]
            for on, flow, part in cases
        ],
    )


def variants(rows: Rows, key: str, value: str) -> str:
    names = unique(row[key] for row in rows)
    cells = {(row["on"], row[key]): f"{row[value]:.2f}" for row in rows}
    return markdown(
        ["", *map(str, names)], [[on, *(cells.get((on, name), "") for name in names)] for on in scenes(rows)]
    )


def mean_and_p95(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2f} / {row['p95']:.2f}"


def find(rows: Rows, **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def mean(rows: Rows, value: str, **wanted: Any) -> float:
    values = [row[value] for row in rows if all(row[key] == kept for key, kept in wanted.items())]
    return sum(values) / len(values)


def scenes(rows: Rows) -> list[str]:
    return unique(row["on"] for row in rows)


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("_", " ") for cell in line) + " |" for line in lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "flow": flow_table,
    "trajectories": trajectory_table,
    "codecs": codec_table,
    "limit": limit_table,
    "reference": reference_table,
    "median": median_table,
    "forward-backward": forward_backward_table,
    "farneback": farneback_table,
    "bound": bound_table,
    "follow": follow_table,
}

if __name__ == "__main__":
    main()
