"""The report: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from m3flow.atomic import write_text
from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.report import charts, records_table, selection
from m3flow.report.canvas import printable
from m3flow.results.flowfile import read_provenance
from m3flow.version import __version__
from m3flow.videos.videolist import Video

SHEETS_BYTES = 1_500_000
LOOKED_AT = 40  # flow files whose settings are read
MACHINES = 64
LONGEST_SHEET = 5_000  # frames; reading through longer ones takes a while

DISTRIBUTIONS = (
    ("speed", "Mean motion", "pixels a frame", False),
    ("speed_p95", "95th percentile of the motion", "pixels a frame", False),
    ("camera_shift", "Camera motion", "pixels a frame", False),
    ("saturated", "Pixels at the bound", "share of the pixels", True),
    ("still", "Still pixels", "share of the pixels", True),
    ("outside", "Trajectories leaving the frame", "share of the trajectories", True),
    ("camera", "Camera found", "share of the frame pairs", True),
    ("frames", "Length", "frames", False),
    ("seconds", "Time taken", "seconds of a worker", False),
)
SHARE_COLUMNS = ("saturated", "still", "outside", "camera")


@dataclass(frozen=True)
class Sheet:
    """A contact sheet as it stands in the page."""

    name: str
    image: str


# Arrow's strings, which pandas takes where pyarrow is installed, cannot hold every file name.
@pd.option_context("mode.string_storage", "python")
def write_report(
    path: Path, outputs: Outputs, videos: Sequence[Video] = (), *, length: int = 6, sheets: int = 6
) -> pd.DataFrame:
    """Write the report on everything that the records of an output folder tell.

    Parameters
    ----------
    path: the HTML file, complete or absent.
    videos: the list, where it is at hand: the contact sheets then show frames, and the page says how many videos
        were not begun.
    length: of the trajectories on the contact sheets.
    sheets: how many contact sheets, of videos drawn at random (always the same ones).

    Returns
    -------
    The table that it was made from, see `m3flow.report.records_table.videos_of`.

    Raises
    ------
    UsageError: there are no records.
    """
    lines = records_table.read_lines(outputs.records)
    if lines.empty:
        raise UsageError(f"{outputs.records}: there are no records; run `m3flow flow` first")
    table = records_table.videos_of(lines)
    made = lines[lines["status"] == "done"]
    sources = {video.name: video.source for video in videos}
    environment = Environment(
        loader=PackageLoader("m3flow.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": printable, "number": _number, "duration": _duration, "share": _share}
    text = environment.get_template("page.html").render(
        folder=str(outputs.folder),
        version=__version__,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tiles=_tiles(table, made, sources),
        reasons=selection.reasons(table)[0],
        reasons_left=selection.reasons(table)[1],
        charts=_charts(table),
        outliers=selection.outliers(table),
        shares=SHARE_COLUMNS,
        sheets=_sheets(outputs, table, sources, length, sheets),
        stages=Markup(charts.stages(_stages(table))) if len(made) else "",
        rate=Markup(charts.rate(records_table.end_seconds(made), made["frames"].to_numpy(np.float64))),
        machines=_machines(made),
        settings=_settings(outputs, table),
        videos=len(table),
        rows=_script_safe(selection.table(table)),
        columns=_script_safe(json.dumps(selection.TABLE_COLUMNS)),
        css=_resource("page.css"),
        script=_resource("page.js"),
    )
    # A name that is no text in any encoding is shown with marks in place of what cannot be written.
    write_text(path, text.encode("utf-8", "replace").decode())
    return table


def _resource(name: str) -> Markup:
    return Markup((Path(__file__).parent / "template" / name).read_text(encoding="utf-8"))


def _script_safe(data: str) -> Markup:
    """JSON that can stand in a <script>: nothing in a name ends the element."""
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(data)


def _tiles(table: pd.DataFrame, made: pd.DataFrame, sources: dict[str, str]) -> list[tuple[str, str, str]]:
    """(number, what it counts, a word on its colour) of what the page says first."""
    counts = Counter(table["status"])
    tiles = [
        (_number(counts["done"]), "videos done", "good" if counts["done"] else ""),
        (_number(counts["rejected"]), "rejected", "warn" if counts["rejected"] else ""),
        (_number(counts["failed"]), "failed", "bad" if counts["failed"] else ""),
    ]
    if sources:
        left = len(sources.keys() - set(table.index))
        tiles.append((_number(left), "not begun", ""))
    frames = float(table["frames"].sum())
    tiles.append((_short(frames), "frames", ""))
    windows = float(table["windows"].sum())
    if windows:
        tiles.append((_short(windows), "trajectory windows", ""))
    busy = records_table.busy_seconds(made)
    if busy:
        tiles.append((_duration(busy), "time busy", ""))
        tiles.append((_number(frames / busy), "frames/s", ""))
    return tiles


def _charts(table: pd.DataFrame) -> list[tuple[str, Markup]]:
    drawn = (
        (title, charts.histogram(column, table[column].to_numpy(np.float64), unit=unit, share=share))
        for column, title, unit, share in DISTRIBUTIONS
    )
    return [(title, Markup(chart)) for title, chart in drawn if chart]


def _stages(table: pd.DataFrame) -> dict[str, float]:
    names = {"decode": "decode", "flow": "flow", "encode": "encode", "track": "track", "wait": "waiting"}
    return {shown: float(table[name].sum()) for name, shown in names.items()}


def _machines(made: pd.DataFrame) -> list[dict[str, Any]]:
    """Frames and speed of every host and device, the busiest first."""
    rows = []
    for (host, device), lines in made.groupby(["host", "device"]):
        busy = records_table.busy_seconds(lines)
        frames = int(lines["frames"].sum())
        rows.append(
            {
                "host": host,
                "device": device,
                "videos": len(lines),
                "frames": frames,
                "busy": busy,
                "rate": frames / busy if busy else 0.0,
            }
        )
    return sorted(rows, key=itemgetter("frames"), reverse=True)[:MACHINES]


def _settings(outputs: Outputs, table: pd.DataFrame) -> list[dict[str, Any]]:
    """How the flow files of some videos say they were made, each way once with how many said so."""
    counts: Counter[str] = Counter()
    for name in _sample(table, LOOKED_AT):
        path, _ = outputs.flow_files(name)
        if path.is_file():
            try:
                made = read_provenance(path)
            except BadInput:
                continue
            used = made.get("used", {})
            shown = {
                "m3flow": made.get("m3flow", "(not said)"),
                **made.get("settings", {}),
                "backend": used.get("backend", ""),
                "device": used.get("device", ""),
                **used.get("versions", {}),
            }
            counts[json.dumps(shown)] += 1
    return [{"count": count, "values": _flat(json.loads(text))} for text, count in counts.most_common(6)]


def _flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += [(f"{name}.{inner}", str(one)) for inner, one in value.items()]
        elif value != "":
            pairs.append((name, str(value)))
    return pairs


def _sheets(
    outputs: Outputs, table: pd.DataFrame, sources: dict[str, str], length: int, count: int
) -> list[Sheet]:
    from m3flow.report.clip import Clip, StoredClip, TrajectoriesAlone
    from m3flow.report.contact_sheet import contact_sheet, encoded

    sheets: list[Sheet] = []
    size = 0
    for name in _sample(table[~(table["frames"] > LONGEST_SHEET)], 3 * count):
        if len(sheets) == count or size > SHEETS_BYTES:
            break
        source = sources.get(name, "")
        video = Video(source if Path(source).exists() and source else "", name)
        try:
            clip: Clip
            if outputs.flow_files(name)[0].is_file():
                clip = StoredClip(video, outputs, length)
            else:
                clip = TrajectoriesAlone(video, outputs, length)
            picture = encoded(contact_sheet(clip, columns=3), "webp")
        except BadInput:
            # What cannot be read (any more) is for `m3flow verify` to say; the page shows what can.
            continue
        size += len(picture)
        sheets.append(Sheet(name, base64.b64encode(picture).decode("ascii")))
    return sheets


def _sample(table: pd.DataFrame, count: int) -> list[str]:
    """Names of videos that are done, drawn at random but always the same."""
    done = table.index[table["status"] == "done"].to_list()
    return random.Random(0).sample(done, min(count, len(done)))


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _short(value: float) -> str:
    for power, letter in ((1e9, "G"), (1e6, "M")):
        if value >= power:
            return f"{value / power:.3g} {letter}"
    return _number(value)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{_number(minutes / 60)} h"
