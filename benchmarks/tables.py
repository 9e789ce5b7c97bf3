"""Puts the tables of measured figures into README.md and the documentation, from the stored results:
`python benchmarks/tables.py`.

`--check` changes nothing and fails if a table does not match the results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parent.parent
SCHEMES = ("subtract", "one-pass", "two-pass")
ESTIMATORS = ("farneback", "tvl1", "dis", "brox")


def codecs() -> str:
    return _storage(lambda name: not name.startswith(("jpg", "png", "npz", "h5", "flo")))


def forms() -> str:
    return _storage(
        lambda name: name in ("not stored", "mpeg4") or name.startswith(("jpg", "png", "npz", "h5", "flo"))
    )


def candidates() -> str:
    return _storage(lambda _: True, "codecs.json")


def _storage(shown: Callable[[str], bool], results: str = "storage.json") -> str:
    """Size, times and error of ways to store flow."""
    stored = _read(results)
    rows = []
    for name, row in stored["ways"].items():
        if not shown(name):
            continue
        cost = (
            [
                f"{row['bytes_per_frame']}",
                f"{row['cpu_ms_per_frame']:.2f}",
                f"{row['cpu_ms_to_read']:.2f}",
                f"{row['mean_error_px']:.3f}",
            ]
            if "bytes_per_frame" in row
            else ["", "", "", ""]
        )
        means = [f"{sum(of.values()) / len(of):.2f}" for of in row["error_px"].values()]
        rows.append([name, *cost, *means])
    head = ["", "bytes", "ms to write", "ms to read", "error, px", "6 steps, px", "15 steps, px"]
    return _table(head, rows) + f"\n\n{_where(stored)}"


def storage_by_scene() -> str:
    """The error of trajectories of 15 steps by scene, of the codecs."""
    ways = {
        name: row["error_px"]["15"]
        for name, row in _read("storage.json")["ways"].items()
        if not name.startswith(("jpg", "png", "npz", "h5", "flo"))
    }
    rows = [
        [scene.replace("_", " "), *(f"{of[scene]:.2f}" for of in ways.values())]
        for scene in ways["not stored"]
    ]
    return _table(["", *ways], rows)


def speed() -> str:
    stored = _read("extract-cpu.json")
    rows = [[name, f"{value:.2f}"] for name, value in stored["ratios"].items()]
    return _table(["ratio, both sides measured in one run", ""], rows) + f"\n\n{_where(stored)}"


def accuracy() -> str:
    """The end-point error of every estimator in every scene."""
    errors: dict[str, dict[str, float]] = {}
    for row in _read("accuracy.json")["flow"]:
        errors.setdefault(row["on"].replace("_", " "), {})[row["estimator"]] = row["epe"]
    rows = [[scene, *(f"{of[name]:.2f}" for name in ESTIMATORS)] for scene, of in errors.items()]
    return _table(["", *ESTIMATORS], rows)


def large_motion() -> str:
    """The end-point error of DIS by motion and size, OpenCV's and torch's."""
    stored = _read("large_motion.json")
    rows = stored["end_point_error_px"]
    motions = sorted({row["motion_px"] for row in rows})
    lines = [
        [f"{size}, {backend}", *(f"{row[backend]:.2f}" for row in rows if row["size"] == size)]
        for size in dict.fromkeys(row["size"] for row in rows)
        for backend in ("opencv", "torch")
    ]
    head = ["motion, px", *map(str, motions)]
    return _table(head, lines) + f"\n\nMeans of {stored['pairs']} frame pairs, preset {stored['preset']}."


def gpu_predictions() -> str:
    """Launches and bytes of a batch on a GPU, and the time predicted from them."""
    stored = _read("gpu_predictions.json")
    gpus = list(stored["assumed"]["bandwidth_gb_s"])
    rows = [
        [
            row["estimator"] + (", camera warp" if row["camera"] == "warp" else ""),
            "fused" if row["fused"] else "torch operations",
            f"{row['launches']:,}",
            f"{row['mb_per_pair']:.0f}",
            *(f"{row['us_per_pair'][gpu]:,}" for gpu in gpus),
        ]
        for row in stored["predicted"]
    ]
    return _table(["", "", "launches", "MB a pair", *(f"{gpu}, µs" for gpu in gpus)], rows)


def gpu() -> str:
    """Each GPU that `make gpu` has measured; without one, the predictions, called that."""
    measured = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu-*.json"))]
    tables = [gpu_measured(stored) for stored in measured if not stored["smoke"]]
    size = _read("gpu_predictions.json")["size"]
    predicted = f"Predicted, not measured: no GPU has confirmed these times of a pair of {size}."
    return "\n\n".join(tables) or f"{predicted} `make gpu` measures a real one.\n\n{gpu_predictions()}"


def gpu_measured(stored: dict[str, Any]) -> str:
    """Pairs per second of every estimator, and a node's frames per second, from the JSON of `benchmarks/gpu.py`.

    A section that failed has no rows.
    """
    rates: dict[tuple[str, str], dict[str, float]] = {}
    for row in stored.get("speed", {}).get("rows", []):
        of = rates.setdefault((row["estimator"], row["size"]), {})
        of[row["how"]] = max(of.get(row["how"], 0), row["pairs_per_s"])
    ways = list(dict.fromkeys(how for of in rates.values() for how in of))
    rows = [[*key, *(f"{of[how]:,.0f}" if how in of else "" for how in ways)] for key, of in rates.items()]
    parts = [_table(["pairs/s", "size", *ways], rows)] if rows else []
    if compared := stored.get("graphs", {}).get("pairs_per_s", {}):
        lines = [
            [name, *(f"{of[how]:,.0f}" if how in of else "" for how in ("without", "with"))]
            for name, of in compared.items()
        ]
        parts.append(_table(["pairs/s at 320x240", "without CUDA graphs", "with them"], lines))
    node = stored.get("node", {})
    if cases := node.get("cases", {}):
        lines = [
            [
                name,
                f"{row['frames_per_s']:,.0f}",
                f"{row['share_of_floor']:.2f}",
                f"{row['share_of_floor_with_tracking']:.2f}",
            ]
            for name, row in cases.items()
        ]
        head = ["node", "frames/s", "of what its cores allow", "with tracking on them"]
        parts.append(_table(head, lines))
    machine = stored["machine"]
    name = machine["gpus"][0]["name"] if machine["gpus"] else "no GPU"
    parts.append(f"{name}, {machine['cores']} cores of {machine['cpu']}, {machine['date']}.")
    return "\n\n".join(parts)


def estimators() -> str:
    """Milliseconds per pair: OpenCV on one core; torch on the CPU if OpenCV lacks the estimator."""
    stored = _read("flow-cpu.json")
    times: dict[str, dict[str, str]] = {}
    for row in stored["rows"]:
        if row["how"] == "opencv, 1 core" or (row["estimator"] == "brox" and row["batch"] == 1):
            times.setdefault(row["estimator"], {})[row["size"]] = f"{row['ms_per_pair']:.0f}"
    sizes = sorted({row["size"] for row in stored["rows"]}, key=lambda size: int(size.split("x")[0]))
    rows = [
        [f"{name} (torch)" if name == "brox" else name, *(times[name].get(size, "") for size in sizes)]
        for name in ESTIMATORS
    ]
    machine = stored["machine"]
    where = f"{machine['cpu']}, {machine['date']}, other work on the machine (load {machine['load']})."
    return _table(["", *sizes], rows) + f"\n\n{where}"


def schemes() -> str:
    """Residual background motion of each compensation scheme, and its cost."""
    found: dict[str, dict[float, tuple[float, float]]] = {}
    for row in _read("camera.json")["schemes"]:
        shown = row["scheme"] in SCHEMES
        if shown and (row["estimator"], row["backend"]) == ("farneback", "opencv"):
            measured = (row["background_px"], row["cost_in_passes"])
            found.setdefault(row["scheme"], {})[row["camera_px"]] = measured
    reaches = sorted(next(iter(found.values())))
    rows = [
        [
            name,
            *(f"{of[reach][0]:.2f}" for reach in reaches),
            f"{sum(cost for _, cost in of.values()) / len(of):.1f}",
        ]
        for name, of in found.items()
    ]
    return _table(["scheme", *(f"{reach:g} px" for reach in reaches), "passes"], rows)


def data_sets() -> str:
    """Hours and bytes to expect of whole data sets."""
    stored = _read("datasets-cpu.json")
    rows = [
        [
            name,
            f"{row['videos']:,}",
            f"{row['frames'] / 1e6:.1f} M",
            f"{row['cpu_node_hours']:.1f} h",
            f"{row['gpu_node_hours']:.1f} h",
            f"{row['flow_gb']:.0f} GB",
            f"{row['trajectories_gb']:.0f} GB",
        ]
        for name, row in stored["data_sets"].items()
    ]
    head = ["", "videos", "frames", "CPU node", "GPU node, at best", "flow", "trajectories"]
    machine = stored["machine"]
    where = (
        f"Predicted from a calibration of the default settings on {stored['clips']} real clips ({stored['cores']} "
        f"cores of {machine['cpu']}, {machine['date']}), in proportion to {stored['node_cores']} such cores."
    )
    return _table(head, rows) + f"\n\n{where}"


CAMERA_COLUMNS = {
    "pairs": {"ours": "ours", "ransac": "RANSAC", "original": "original"},
    "sequences": {"ours": "ours", "each pair alone": "each pair alone", "ransac": "RANSAC"},
}


def camera_pairs() -> str:
    return _camera_table("pairs")


def camera_sequences() -> str:
    return _camera_table("sequences")


def _camera_table(what: str) -> str:
    """Shares of the pairs of each kind, in percent: wrong / harmful / missed, by method."""
    columns, shares = CAMERA_COLUMNS[what], {}
    for row in _read("camera_hunt.json")[what]:
        shares[row["kind"], row["method"]] = [row[name] for name in ("wrong", "harmful", "missed")]
    kinds = list(dict.fromkeys(kind for kind, _ in shares))
    rows = [[kind, *(_percent(shares[kind, method]) for method in columns)] for kind in kinds]
    means = [
        [sum(shares[kind, method][i] for kind in kinds) / len(kinds) for i in range(3)] for method in columns
    ]
    rows.append(["**all**", *(f"**{_percent(mean, 1)}**" for mean in means)])
    return _table(["", *columns.values()], rows)


def _percent(shares: list[float], digits: int = 0) -> str:
    return " / ".join(f"{100 * share:.{digits}f}" for share in shares)


def camera_cuts() -> str:
    stored = _read("camera_hunt.json")
    cuts, cost = stored["cuts"], stored["cost"]
    rows = [
        [
            "cuts joined from real clips",
            f"{cuts['cuts']} in {cuts['pairs']} frame pairs of {cuts['clips']} clips",
        ],
        ["precision, recall", f"{cuts['precision']:.3f}, {cuts['recall']:.3f}"],
        ["the search, ms a pair", f"{cost['ours']:.1f}"],
        ["RANSAC on corners tracked likewise, ms a pair", f"{cost['ransac']:.1f}"],
    ]
    machine = stored["machine"]
    return _table(["", ""], rows) + f"\n\nOne thread of {machine['cpu']}, {machine['date']}."


def loaders() -> str:
    """Clips per second of every loader on one core, by the distance of the videos' key frames."""
    stored = _read("loader.json")
    measured = stored["key_frames"]
    names = list(next(iter(measured.values()))["clips_per_second"])
    rows = [[name, *(f"{of['clips_per_second'][name]:.1f}" for of in measured.values())] for name in names]
    for title, key in LOADER_RATIOS.items():
        rows.append([title, *(f"{of[key]:.2f}" for of in measured.values())])
    whole = {key: of["clips_per_second_of_one_process"] for key, of in measured.items()}
    for name in next(iter(whole.values())):
        rows.append([f"one process: {name}", *(f"{of[name]:.1f}" for of in whole.values())])
    ratios = (f"{of['one_process_over_before']:.2f}" for of in measured.values())
    rows.append([f"ratio in one process, with {stored['threads']} threads", *ratios])
    return _table(["clips per second and core", *measured], rows) + f"\n\n{_where(stored)}"


LOADER_RATIOS = {
    "ratio: m3flow to the fastest other library's frames alone": "over_decoding_alone",
    "ratio: m3flow to before the index": "over_before",
    "ratio: m3flow's frames alone to before the index": "our_decoding_alone_over_before",
}


def live() -> str:
    """Clips per second of `MotionTargets` on one core."""
    stored = _read("live-cpu.json")
    rates: dict[str, dict[int, str]] = {}
    for row in stored["rows"]:
        rates.setdefault(row["what"], {})[row["batch"]] = f"{1000 / row['ms_per_clip']:.2f}"
    batches = list(next(iter(rates.values())))
    head = ["clips per second and core", *(f"batches of {batch}" for batch in batches)]
    return _table(head, [[name, *of.values()] for name, of in rates.items()]) + f"\n\n{_where(stored)}"


def packing() -> str:
    """What packs do to the number of files, and what kills did to packs."""
    stored = _read("packs.json")
    rows = [
        ["files", f"{stored['files_before']:,}", f"{stored['files_after']:,}"],
        ["bytes", f"{stored['bytes_before']:,}", f"{stored['bytes_after']:,}"],
    ]
    text = (
        f"{stored['videos']:,} small videos, packed in {stored['seconds_to_pack']} s; killed at {stored['kills']} "
        f"random moments and called again: {stored['lost']} lost, {stored['twice']} twice; temporary "
        f"files left, which `m3flow verify --repair` removes: {stored['temporary_files_left']}."
    )
    return _table(["", "single", "packed"], rows) + f"\n\n{text}"


PAGES = {
    "README.md": {"storage": codecs, "speed": speed, "gpu": gpu},
    "docs/accuracy.md": {
        "storage": storage_by_scene,
        "camera-pairs": camera_pairs,
        "camera-sequences": camera_sequences,
        "camera-cuts": camera_cuts,
    },
    "docs/datasets.md": {"data_sets": data_sets},
    "docs/formats.md": {"storage": codecs, "codecs": candidates, "forms": forms, "packing": packing},
    "docs/training.md": {"loaders": loaders, "live": live},
    "docs/estimators.md": {
        "accuracy": accuracy,
        "large-motion": large_motion,
        "gpu-predictions": gpu_predictions,
        "estimators": estimators,
        "schemes": schemes,
    },
}


def filled(page: str) -> str:
    """A page's text with every table updated."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for name, make in PAGES[page].items():
        pattern = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        table = make()
        text, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
        if count != 1:
            sys.exit(f"{page} has no place for the table {name}")
    return text


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _where(stored: dict[str, Any]) -> str:
    machine = stored["machine"]
    return (
        f"{stored['clips']} real clips; {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['date']}, OpenCV {machine['versions']['opencv-contrib-python-headless']}."
    )


def main() -> None:
    for page in PAGES:
        path = REPOSITORY / page
        new = filled(page)
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
        elif new != path.read_text(encoding="utf-8"):
            sys.exit(f"{page}: the tables do not match the results; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
