"""The report: one self-contained HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from m3flow.atomic import write_text
from m3flow.errors import UsageError
from m3flow.layout import Outputs
from m3flow.report import charts, numbers, records_table, selection, settings_used, summary
from m3flow.report.canvas import printable
from m3flow.report.measures import LISTED, MEASURES
from m3flow.report.previews import ANIMATIONS, chosen, previews
from m3flow.steps import OnStep, StepCounter, no_display
from m3flow.version import __version__
from m3flow.videos.videolist import Video


# Arrow strings, which pandas uses if pyarrow is installed, cannot represent every file name.
@pd.option_context("mode.string_storage", "python")
def write_report(
    path: Path,
    outputs: Outputs,
    videos: Sequence[Video] = (),
    *,
    length: int = 6,
    sheets: int = 6,
    on_step: OnStep = no_display,
) -> pd.DataFrame:
    """Write the report on the records of an output folder.

    Parameters
    ----------
    path: the HTML file, written atomically.
    videos: the list, if available: the report then covers only its videos, the pictures show frames, and the
        page counts the videos not begun.
    length: of the trajectories in the pictures.
    sheets: number of contact sheets, of outliers and of randomly drawn videos (with a fixed seed).
    on_step: see `m3flow.steps`.

    Returns
    -------
    The table behind the report, see `m3flow.report.records_table.videos_of`.

    Raises
    ------
    UsageError: there are no records, or none on the videos of the list.
    """
    steps = StepCounter(on_step, 3 + (sheets + ANIMATIONS if sheets else 0))
    steps.begin("reading the records")
    lines = _lines(outputs, videos)
    table = records_table.videos_of(lines)
    contents = _contents(outputs, lines, table, videos, length, sheets, steps)
    steps.begin("writing the page")
    text = _environment().get_template("page.html").render(contents)
    # Undecodable bytes of a name are shown as replacement characters.
    write_text(path, text.encode("utf-8", "replace").decode())
    return table


def _contents(
    outputs: Outputs,
    lines: pd.DataFrame,
    table: pd.DataFrame,
    videos: Sequence[Video],
    length: int,
    sheets: int,
    steps: StepCounter,
) -> dict[str, Any]:
    """The template's variables, section by section."""
    made = lines[lines["status"] == "done"]
    outliers = selection.outliers(table)
    names = chosen(table, outliers, sheets)
    sources = {video.name: video.source for video in videos}
    pictures, animations = previews(outputs, sources, names, length, sheets, steps.begin)
    reasons, reasons_left = selection.reasons(table)
    steps.begin("settings in the files")
    groups = settings_used.groups(outputs, lines, table, length)
    rows = selection.rows(table, selection.classes(table.index.to_list(), videos))
    return {
        "folder": str(outputs.folder),
        "version": __version__,
        "now": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tiles": summary.tiles(table, made, videos),
        "differences": settings_used.differences(groups),
        "reasons": reasons,
        "reasons_left": reasons_left,
        "charts": _charts(table),
        "outliers": outliers,
        "shares": {measure.column for measure in MEASURES if measure.share},
        "pictures": pictures,
        "animations": animations,
        "stages": Markup(charts.stages(summary.stages(table))) if len(made) else "",
        "rate": _rate(table),
        "machines": summary.machines(made),
        "groups": groups[: settings_used.GROUPS],
        "files_read": sum(group.count for group in groups),
        "rows": _script_safe(rows.rows),
        "about": _script_safe(json.dumps(_about(outputs, videos, table, rows, length))),
        "css": _resource("page.css"),
        "script": _resource("page.js"),
    }


def described(path: Path, table: pd.DataFrame) -> str:
    """One line on a report: its path, its numbers of videos, its size."""
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    return f"{path}: {len(table)} videos ({counts}), {path.stat().st_size / 1e6:.1f} MB"


def _lines(outputs: Outputs, videos: Sequence[Video]) -> pd.DataFrame:
    lines = records_table.read_lines(outputs.records, {video.name for video in videos})
    if len(lines):
        return lines
    if videos and len(records_table.read_lines(outputs.records)):
        raise UsageError(
            f"{outputs.records}: no records on the {len(videos)} videos of the list, such as {videos[0].name}; "
            "check the list and --parts"
        )
    raise UsageError(f"{outputs.records}: there are no records; run `m3flow flow` first")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("m3flow.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": printable,
        "number": numbers.number,
        "duration": numbers.duration,
        "share": numbers.share,
    }
    return environment


def _about(
    outputs: Outputs, videos: Sequence[Video], table: pd.DataFrame, rows: selection.Rows, length: int
) -> dict[str, Any]:
    """The data of the page's script, apart from the rows."""
    return {
        "videos": len(table),
        "statuses": selection.STATUSES,
        "columns": [{"heading": m.heading, "share": m.share} for m in LISTED],
        "flags": {one.key: one.short for one in (*selection.OUTLIERS, selection.REMARK)},
        "classes": rows.classes,
        "counts": rows.counts,
        "roots": _roots(videos, table),
        "options": _show_options(outputs, table, length),
    }


def _roots(videos: Sequence[Video], table: pd.DataFrame) -> dict[str, str]:
    """The folders to which the names are relative: the most common one under "", others by name."""
    roots = {
        video.name: video.source[: -len(video.name) - 1] or "/"
        for video in videos
        if video.source.endswith(f"/{video.name}") and video.name in table.index
    }
    if not roots:
        return {}
    ((common, _),) = Counter(roots.values()).most_common(1)
    others = {name: root for name, root in roots.items() if root != common}
    return {"": common, **dict(list(others.items())[: selection.ROWS])}


def _show_options(outputs: Outputs, table: pd.DataFrame, length: int) -> list[str]:
    """The options with which `m3flow show` finds the results of a video by its name."""
    parts = max((name.count("/") + 1 for name in table.index), default=1)
    options = ["--output", str(outputs.folder)]
    options += ["--parts", str(parts)] if parts > 3 else []
    return options + (["--length", str(length)] if length != 6 else [])


def _resource(name: str) -> Markup:
    return Markup((Path(__file__).parent / "template" / name).read_text(encoding="utf-8"))


def _script_safe(data: str) -> Markup:
    """JSON escaped for a <script> element, so that no name can end the element."""
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(data)


def _charts(table: pd.DataFrame) -> list[tuple[str, Markup]]:
    drawn = (
        (
            measure.title,
            charts.histogram(
                measure.column,
                table[measure.column].to_numpy(np.float64),
                unit=measure.unit,
                share=measure.share,
            ),
        )
        for measure in MEASURES
        if measure.title
    )
    return [(title, Markup(chart)) for title, chart in drawn if chart]


def _rate(table: pd.DataFrame) -> Markup:
    done = table[table["frames"] > 0]
    return Markup(charts.rate(records_table.end_seconds(done), done["frames"].to_numpy(np.float64)))
